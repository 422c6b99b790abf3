"""Digests: alike for equal values however they came about, and different for all else."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asyncflow_hpc.data import InputFile, OutputFile
from asyncflow_hpc.keys import Unkeyable, digest, digest_of_code, joined

ATOMS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=5)
)
HASHABLE = st.recursive(ATOMS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HASHABLE, inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=8,
)


def alike(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            alike(a, c) and alike(b, d) for (a, b), (c, d) in zip(one.items(), other.items(), strict=True)
        )
    if isinstance(one, frozenset):
        return one == other and sorted(map(repr, one)) == sorted(map(repr, other))
    return repr(one) == repr(other)


@given(VALUES)
def test_a_copy_is_the_same(value: Any) -> None:
    assert digest(copy.deepcopy(value)) == digest(value)
    assert digest((value, value)) == digest((value, copy.deepcopy(value)))


@given(VALUES, VALUES)
def test_different_values_differ(one: Any, other: Any) -> None:
    assume(not alike(one, other))
    assert digest(one) != digest(other)


def test_sets_are_the_same_in_every_process() -> None:
    code = "from asyncflow_hpc.keys import digest; print(digest([{'a', 'b', 'cc'}, frozenset({('x', 1), ('y', 2)})]))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


def test_what_cannot_be_pickled_has_no_digest() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for value in (sys.stdout, (i for i in range(3)), endless):
        with pytest.raises(Unkeyable, match="cannot be pickled"):
            digest((value,))


def test_files_count_by_their_declaration() -> None:
    assert digest(InputFile("a", name="b")) == digest(InputFile("a", name="b"))
    assert digest(InputFile("a")) != digest(InputFile("a", name="b"))
    assert digest(InputFile("a")) != digest(OutputFile("a"))


def made(source: str, name: str = "work") -> Any:
    """What a module of the same name would have made of a function."""
    space: dict[str, Any] = {"__name__": "script"}
    exec(source, space)
    return space[name]


WORK = "CONSTANT = 1\ndef other(x):\n    return x + CONSTANT\ndef work(x, y=2):\n    return other(x) * y\n"


def test_code_counts_and_comments_do_not() -> None:
    known = digest_of_code(made(WORK))
    assert digest_of_code(made("# a comment\n\n" + WORK)) == known
    for old, new in (
        ("* y", "* y * 1"),
        ("y=2", "y=3"),
        ("x + CONSTANT", "x - CONSTANT"),
        ("CONSTANT = 1", "CONSTANT = 2"),
    ):
        assert old in WORK
        assert digest_of_code(made(WORK.replace(old, new))) != known, new


def test_what_a_closure_holds_counts() -> None:
    source = "def make(value):\n    def inner():\n        return value\n    return inner\n"
    make = made(source, "make")
    assert digest_of_code(make([1, 2])) == digest_of_code(made(source, "make")([1, 2]))
    assert digest_of_code(make([1, 2])) != digest_of_code(make([1, 3]))
    # What cannot be pickled counts by its kind.
    assert digest_of_code(make(sys.stdout)) == digest_of_code(make(sys.stderr))


def test_recursion_ends() -> None:
    source = "def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n != 0 and even(n - 1)\n"
    assert digest_of_code(made(source, "even")) != digest_of_code(made(source, "odd"))


def test_callables_that_are_no_functions() -> None:
    assert digest_of_code(len) != digest_of_code(print)
    assert digest_of_code(len) == digest_of_code(len)


@given(
    st.lists(st.text("ab", min_size=1, max_size=3), max_size=4),
    st.lists(st.text("ab", min_size=1, max_size=3), max_size=4),
)
def test_joined_digests_tell_their_parts_apart(one: list[str], other: list[str]) -> None:
    assert (joined(one) == joined(other)) == (one == other)
