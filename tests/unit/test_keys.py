"""Digests: alike for equal values however they came about, and different for all else."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asyncflow_hpc.code_keys import CodeKeys, digest_of_code
from asyncflow_hpc.data import InputFile, OutputFile
from asyncflow_hpc.keys import Unkeyable, digest, joined

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


def test_a_number_too_long_for_text() -> None:
    assert digest((10**5000,)) == digest((10**5000,)) != digest((10**5001,))


def test_files_count_by_their_declaration() -> None:
    assert digest(InputFile("a", name="b")) == digest(InputFile("a", name="b"))
    assert digest(InputFile("a")) != digest(InputFile("a", name="b"))
    assert digest(InputFile("a")) != digest(OutputFile("a"))


def made(source: str, name: str = "work", module: str = "script", **more: Any) -> Any:
    """What a module of the same name would have made of a function."""
    space: dict[str, Any] = {"__name__": module, **more}
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
    with pytest.raises(Unkeyable):
        digest_of_code(make(sys.stdout))


# One source, and a change of it after which the function `work` may give another result.
CHANGES = [
    ("TABLE = {'n': 1}\ndef work():\n    return TABLE['n']\n", "1", "2"),
    ("class P:\n    def get(self):\n        return 1\ndef work():\n    return P().get()\n", "return 1", "return 2"),
    ("class Q:\n    n = 1\nclass P(Q):\n    pass\ndef work():\n    return P.n\n", "1", "2"),
    (
        "class P:\n    @property\n    def n(self):\n        return 1\n"
        "    @staticmethod\n    def m():\n        return 3\ndef work():\n    return P().n + P.m()\n",
        "3",
        "4",
    ),
    (
        "def make(n):\n    def add(x):\n        return x + n\n    return add\none, two = make(1), make(2)\n"
        "def work():\n    return one(0) * two(0)\n",
        "make(2)",
        "make(3)",
    ),
    (
        "import functools\ndef often(f):\n    @functools.wraps(f)\n    def inner():\n        return 2 * f()\n"
        "    return inner\n@often\ndef work():\n    return 1\n",
        "2 *",
        "3 *",
    ),
    ("import functools\ndef f(x):\n    return x\nwork = functools.partial(f, 1)\n", "1", "2"),
    (
        "class P:\n    def __init__(self, n):\n        self.n = n\n"
        "    def get(self):\n        return self.n\nwork = P(1).get\n",
        "1",
        "2",
    ),
    ("class P:\n    n = 1\n    def __call__(self):\n        return self.n\nwork = P()\n", "1", "2"),
    ("import enum\nclass E(enum.Enum):\n    A = 1\ndef work():\n    return E.A.value\n", "1", "2"),
    ("import enum\nclass E(enum.Enum):\n    A = 1\nONE = E.A\ndef work():\n    return ONE.value\n", "1", "2"),
    ("import dataclasses\n@dataclasses.dataclass\nclass P:\n    n: int = 1\ndef work():\n    return P().n\n", "1", "2"),
    (
        "def g():\n    pass\ndef h():\n    raise ValueError\ndef work():\n    try:\n        g()\n        h()\n"
        "    except ValueError:\n        return 1\n",
        "        h()\n    except ValueError:\n        return 1\n",
        "    except ValueError:\n        return 1\n    else:\n        h()\n",
    ),
    ("def work():\n    def inner():\n        return N\n    return inner()\nN = 1\n", "N = 1", "N = 2"),
    ("def work():\n    class P:\n        n = N\n    return P.n\nN = [1]\n", "1", "2"),
    ("def work():\n    return work.n\nwork.n = 1\n", "1", "2"),
    ("work = lambda x=(lambda: 1): x()\n", "1", "2"),
]


@pytest.mark.parametrize(("source", "old", "new"), CHANGES)
def test_whatever_can_change_its_result_counts(source: str, old: str, new: str) -> None:
    assert old in source
    known = digest_of_code(made(source, module="__main__"))
    assert digest_of_code(made(source, module="__main__")) == known
    assert digest_of_code(made(source.replace(old, new), module="__main__")) != known


def test_a_digest_is_made_again_when_a_global_has_changed() -> None:
    keys = CodeKeys()
    for source in ("N = 1\ndef work():\n    return N\n", "N = [1]\ndef work():\n    return N\n"):
        work = made(source)
        first = keys.get(work)
        assert keys.get(work) == first
        if isinstance(work.__globals__["N"], list):
            work.__globals__["N"].append(2)
        else:
            work.__globals__["N"] = 2
        assert keys.get(work) != first


def test_a_name_that_is_only_an_attribute_does_not_count() -> None:
    source = "import sys\nwrite = sys.stdout\ndef work(x):\n    return x.write\n"
    assert digest_of_code(made(source)) == digest_of_code(made(source))


def test_classes_of_the_script_count_wherever_their_objects_are() -> None:
    source = "class P:\n    def __init__(self, n):\n        self.n = n\n    def get(self):\n        return self.n + 1\n"
    kind, other = (made(text, "P", "__main__") for text in (source, source.replace("+ 1", "+ 2")))
    assert digest([kind(1), {kind(2)}]) == digest([made(source, "P", "__main__")(1), {kind(2)}])
    for one, two in ((kind(1), kind(2)), (kind(1), other(1)), ({kind(1)}, {other(1)}), (kind, other)):
        assert digest(one) != digest(two)


def test_a_class_that_holds_itself_comes_to_an_end() -> None:
    source = "class P:\n    pass\nP.me = [P]\ndef work():\n    return P\nP.work = work\n"
    assert digest_of_code(made(source, module="__main__")) == digest_of_code(made(source, module="__main__"))


def test_functions_of_other_modules_count_by_their_names() -> None:
    # Patterns are made by one that has a cache.
    known = digest(re.compile("a"))
    re.compile("something else")
    assert digest(re.compile("a")) == known != digest(re.compile("b"))


def test_flags_count_by_their_values() -> None:
    assert digest(re.A | re.I) != digest(re.A | re.M)


def test_a_variable_that_is_not_yet_set() -> None:
    source = (
        "def make():\n    def inner():\n        return later\n    known = keys.get(inner)\n    later = 1\n"
        "    return inner, known\n"
    )
    keys = CodeKeys()
    inner, known = made(source, "make", keys=keys)()
    assert keys.get(inner) != known


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
