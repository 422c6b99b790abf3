"""Functions with a state: their module's own in every process, or refused, or with a warning."""

from __future__ import annotations

import collections
import functools
import io
import itertools
import logging
import pickle
import random
import subprocess
import sys
from random import randint
from typing import Any

import pytest

from asyncflow_hpc.backends.pickling import FunctionPickles
from asyncflow_hpc.errors import SerializationError


def script(source: str, **values: Any) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "a_script_of_a_user", **values}
    exec(source, namespace)
    return namespace


def numbers(data: bytes, processes: int = 3) -> set[Any]:
    """Call a pickled function once in each of several fresh processes."""
    program = "import pickle, sys; print(repr(pickle.load(sys.stdin.buffer)()))"
    words = [sys.executable, "-c", program]
    return {subprocess.run(words, input=data, capture_output=True, check=True).stdout for _ in range(processes)}


@pytest.mark.parametrize(
    "function",
    [
        random.random,
        functools.partial(random.randint, 1, 10**12),
        script("def f(): return draw(1, 10**12)", draw=randint)["f"],
        script("def f(): return draw()", draw=random.random)["f"],
    ],
)
def test_the_generator_of_a_module_is_that_of_each_process(function: Any) -> None:
    random.seed(1)
    _, data = FunctionPickles().get("step", function)
    assert len(numbers(data)) == 3, "three processes, three numbers"


def test_that_of_numpy_too() -> None:
    numpy = pytest.importorskip("numpy")
    assert len(numbers(FunctionPickles().get("step", numpy.random.rand)[1])) == 3


def generate() -> Any:
    yield 1


@pytest.mark.parametrize(
    "function",
    [
        random.Random(1).random,
        random.Random(1).randint,
        functools.partial(random.Random(1).randint, 1, 6),
        iter([1, 2]).__next__,
        itertools.count().__next__,
        functools.partial(next, itertools.count()),
        generate().__next__,
        generate().send,
        io.StringIO("a\nb\n").readline,
        [1, 2].pop,
        {1: 2}.popitem,
        collections.deque([1]).popleft,
    ],
)
def test_what_would_give_the_same_for_ever_is_refused(function: Any) -> None:
    with pytest.raises(SerializationError, match=r"function of task 'step' is .*a copy of that .*write a function"):
        FunctionPickles().get("step", function)


@pytest.mark.parametrize("method", ["random", "integers"])
def test_methods_of_generators_of_numpy_are_refused(method: str) -> None:
    numpy = pytest.importorskip("numpy")
    with pytest.raises(SerializationError, match="write a function"):
        FunctionPickles().get("step", getattr(numpy.random.default_rng(1), method))


@pytest.mark.parametrize("function", [{1: 2}.get, "abc".upper, [1].index, dict.fromkeys, random.seed, max])
def test_other_methods_are_taken(function: Any) -> None:
    assert callable(pickle.loads(FunctionPickles().get("step", function)[1]))


def test_a_generator_that_a_function_takes_along_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    namespace = script("def f(): return generator.random()\ndef g(): return 1", generator=random.Random(1))
    pickles = FunctionPickles()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            pickles.get("draw", namespace["f"])
        pickles.get("other", namespace["g"])
    [record] = caplog.records
    assert "task 'draw' takes a random generator of the script along (Random)" in record.getMessage()
