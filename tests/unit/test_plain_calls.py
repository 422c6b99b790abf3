"""A call is plain only if nothing that it names leads to what outlives it."""

from __future__ import annotations

import functools
import math
import os
import random
import sys
from collections.abc import Callable
from typing import Any

import pytest

from asyncflow_hpc.backends.local.plain_calls import PlainFunctions, are_plain

SCALE = 3
TABLE: list[int] = []
Loud = type("Loud", (), {})


def helper(x: int) -> int:
    return x * SCALE


def script(source: str, name: str = "f") -> Callable[..., Any]:
    """Make a function as the main script has it."""
    made = {"__name__": "__main__", "SCALE": SCALE, "TABLE": TABLE, "math": math, "os": os, "sys": sys}
    made |= {"random": random, "Loud": Loud, "getpid": os.getpid}
    exec(compile(source, "<script>", "exec", dont_inherit=True), made)
    return made[name]


PLAIN = [
    "def f(x): return x + 1",
    "f = lambda x: x",
    "async def f(x): return x",
    "def f(x: int, y: 'str' = 'z', *, z=2) -> float: return math.sqrt(x) * SCALE",
    "def g(x): return x\ndef f(x): return g(x) + f(x - 1) if x else 0",
    "def f(x):\n def inner(y):\n  return x + y\n return [inner(i) for i in range(3)]",
    "def f(x):\n try:\n  return {'a': sorted(x)}\n except ValueError as error:\n  raise KeyError('x') from error",
    "def f(x):\n n = 0\n def inc():\n  nonlocal n\n  n += 1\n inc()\n return n",
]
NOT_PLAIN = [
    "def f(x):\n global SCALE\n SCALE = x",
    "def f(x): import os; return os.getpid()",
    "def f(x): return os.getpid()",
    "def f(x): return getpid()",
    "def f(x): return random.random()",
    "def f(x): TABLE.append(x)",
    "def f(x, acc=[]): acc.append(x)",
    "def f(x): math.pi = 3",
    "def f(x): del math.pi",
    "def f(x): return math.__dict__",
    "def f(x): return (i for i in x).gi_frame.f_builtins",
    "def f(x): return ().__class__.__base__.__subclasses__()",
    "def f(x): return __import__('os')",
    "def f(x): return open('x')",
    "def f(x): return eval(x)",
    "def f(x): return getattr(x, 'y')",
    "def f(x): print(x)",
    "def f(x): return __builtins__",
    "def f(x): f.calls = 1",
    "def f(x): return Loud()",
    "def f(x):\n class Made: pass\n return Made",
    "def f(x) -> Loud: return x",
    "def g(x): return os.getpid()\ndef f(x): return g(x)",
    "def f(x): return [[os for i in x] for j in x]",
    "def f(x): return sys",
    "def f(x): return input()",
    "def f(x): return globals()",
    "class Callee:\n def __call__(self, x): return x\nf = Callee()",
]


@pytest.mark.parametrize("source", PLAIN)
def test_plain(source: str) -> None:
    assert PlainFunctions().holds(1, script(source))


@pytest.mark.parametrize("source", NOT_PLAIN)
def test_not_plain(source: str) -> None:
    assert not PlainFunctions().holds(1, script(source))


def test_what_is_wrapped_or_imported_is_not_plain() -> None:
    plain = script(PLAIN[0])
    for function in (os.getpid, helper, functools.partial(plain, 1), functools.wraps(plain)(lambda x: x), len, int):
        assert not PlainFunctions().holds(1, function)
    assert not PlainFunctions().holds(0, plain)


def closures() -> list[Callable[..., Any]]:
    count, path, inner = 1, [], script(PLAIN[0])

    def counts() -> int:
        nonlocal count
        count += 1
        return count

    return [counts, lambda: path, lambda: inner(count)]


def test_variables_around_a_function() -> None:
    assert [PlainFunctions().holds(1, function) for function in closures()] == [False, False, True]


def test_arguments() -> None:
    assert are_plain([1, 2.5, "text", b"bytes", None, True, 1j, [1, "a"], (1,), {"a": 1}, {1, 2}, []])
    for value in ([[1]], {"a": [1]}, Loud(), object, len, [Loud()], range(3), [0] * 1001):
        assert not are_plain([1, value])
