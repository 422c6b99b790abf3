"""Digests: alike for equal values however they came about, and different for all else."""

from __future__ import annotations

import copy
import random
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from asyncflow_hpc.data import InputFile, OutputFile
from asyncflow_hpc.hashing import Budget, TooLarge
from asyncflow_hpc.keys import CodeKeys, Unkeyable, digest, digest_of_code, joined

ATOMS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=5)
)
HASHABLE = st.recursive(ATOMS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HASHABLE, inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=8,
)

# A machine that is busy with other tests is no fault of these.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


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


@UNHURRIED
@given(VALUES)
def test_a_copy_is_the_same(value: Any) -> None:
    assert digest(copy.deepcopy(value)) == digest(value)
    assert digest((value, value)) == digest((value, copy.deepcopy(value)))


@UNHURRIED
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
    for value in (sys.stdout, (i for i in range(3))):
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


CHANGES += [
    ("def work(n):\n    return dict(a=n)\n", "a=", "b="),
    ("def work(n):\n    return (0.0, n)\n", "0.0", "-0.0"),
    ("def work(n):\n    return (1, (n, (2.0,)))\n", "2.0", "2"),
    ("def work(n):\n    a, b = n, n + 1\n    return lambda: a - b\n", "a - b", "b - a"),
    ("def work(name):\n    return name\n", "name", "title"),
    ("def work(n):\n    size = n\n    return locals()\n", "size", "many"),
    ('def work():\n    """One."""\n    return work.__doc__\n', "One", "Two"),
    ("import typing\ndef f(n: int): ...\ndef work():\n    return typing.get_type_hints(f)\n", "n: int", "n: str"),
    ("A, B = [], []\ndef fill():\n    A.append(1)\ndef work():\n    fill()\n    return A\n", "return A", "return B"),
    (
        "A = B = 0\ndef fill():\n    global A\n    A = 1\ndef work():\n    fill()\n    return A\n",
        "return A",
        "return B",
    ),
    (
        "def make():\n    a = b = 0\n    def fill():\n        nonlocal a\n        a = 1\n"
        "    def work():\n        fill()\n"
        "        return a\n    def other():\n        return b\n    return work\nwork = make()\n",
        "return a",
        "return b",
    ),
    ("from math import sqrt as f\ndef work():\n    return f(4)\n", "sqrt", "exp"),
    (
        "from contextvars import ContextVar\nv = ContextVar('v', default=1)\ndef work():\n    return v.get()\n",
        "=1",
        "=2",
    ),
    (
        "class P:\n    @classmethod\n    def __subclasshook__(cls, other):\n        return True\n"
        "def work():\n    return issubclass(int, P)\n",
        "True",
        "False",
    ),
    ("class P:\n    __tag__ = 1\ndef work():\n    return P.__tag__\n", "1", "2"),
    ("class P:\n    __slots__ = ('a',)\ndef work():\n    return P()\n", "'a',", "'a', 'b'"),
    (
        "class Q:\n    n = 1\nclass P(Q):\n    def get(self):\n        return super().n\n"
        "def work():\n    return P().get()\n",
        "1",
        "2",
    ),
    ("import enum\nclass E(enum.Flag):\n    A = 1\n    B = 2\ndef work():\n    return E.B\n", "B = 2", "B = 4"),
    (
        "import enum\nclass E(enum.Flag, boundary=enum.STRICT):\n    A = 1\ndef work():\n    return E(1)\n",
        "STRICT",
        "KEEP",
    ),
    (
        "import dataclasses\n@dataclasses.dataclass\nclass P:\n    n: int\ndef work():\n    return P\n",
        "n: int",
        "n: str",
    ),
    (
        "from dataclasses import *\n@dataclass\nclass P:\n    n: int = field(default=1, metadata={'u': 'm'})\n"
        "def work():\n    return fields(P)\n",
        "'m'",
        "'km'",
    ),
    (
        "from dataclasses import *\n@dataclass(order=True)\nclass P:\n    n: int\ndef work():\n    return P\n",
        "True",
        "False",
    ),
    ("from typing import *\nclass P(NamedTuple):\n    n: int = 1\ndef work():\n    return P()\n", "= 1", "= 2"),
    ("from typing import *\nclass P:\n    n: Annotated[int, 'a']\ndef work():\n    return P\n", "'a'", "'b'"),
    (
        "from typing import *\nT = TypeVar('T')\nclass P(Generic[T]): ...\nclass Q(P[int]): ...\n"
        "def work():\n    return Q\n",
        "[int]",
        "[str]",
    ),
    (
        "import functools\n@functools.singledispatch\ndef f(x): ...\n@f.register\ndef _(x: int):\n    return 1\n"
        "def work():\n    return f(0)\n",
        "return 1",
        "return 2",
    ),
    ("import functools\n@functools.lru_cache(maxsize=1)\ndef f(): ...\ndef work():\n    return f()\n", "=1", "=2"),
]


@pytest.mark.parametrize(("source", "old", "new"), CHANGES)
def test_whatever_can_change_its_result_counts(source: str, old: str, new: str) -> None:
    assert old in source
    known = digest_of_code(made(source, module="__main__"))
    assert digest_of_code(made(source, module="__main__")) == known
    assert digest_of_code(made(source.replace(old, new), module="__main__")) != known


# One source, and a change of it after which `work` gives the same result.
NEUTRAL = [
    ('def work():\n    """One."""\n    return 1\n', '    """One."""\n', '    """Two,\n    three."""\n'),
    ('def work():\n    """One."""\n    return 1\n', '    """One."""\n', ""),
    ('class P:\n    """One."""\n    n = 1\ndef work():\n    return P.n\n', "One", "Two"),
    ('def work():\n    class P:\n        """One."""\n        n = 1\n    return P.n\n', '        """One."""\n', ""),
    ('def work():\n    def f():\n        """One."""\n    return f()\n', "One", "Two"),
    ("def work(n):\n    size = n + 1\n    return size * size\n", "size", "much"),
    ("def work(n):\n    size, b = n, 2\n    def f():\n        return size - b\n    return f()\n", "size", "a"),
    ("def work(n):\n    return [size * n for size in range(n)]\n", "size", "a"),
    ("def make(size, b):\n    def f():\n        return size - b\n    return f\nwork = make(1, 2)\n", "size", "a"),
    ("def work():\n    n = 1\n    return n\n", "n = 1", "n: int = 1  # type: int"),
    ("def work(n):\n    return n\n", "(n)", "(n: int) -> int"),
    ("def work():\n    return 1\n", "def", "from __future__ import annotations\n\n\ndef"),
    ("import math as m\ndef work():\n    return m.pi\n", "m.pi", "mathematics.pi", "as m", "as mathematics"),
    ("from math import pi, exp as e\ndef work():\n    return e(1)\n", "e(1)", "f(1)", "as e", "as f"),
    (
        "class P:\n    def f(self):\n        return 1\n    def g(self):\n        return 2\n"
        "def work():\n    return P().f()\n",
        "    def f(self):\n        return 1\n    def g(self):\n        return 2\n",
        "    def g(self):\n        return 2\n\n    def f(self):\n        return 1\n",
    ),
    ("def work(n):\n    if n:\n        return 1\n    return 2\n", "        return", "        # Yes.\n\n        return"),
]


@pytest.mark.parametrize("change", NEUTRAL)
def test_what_changes_no_result_does_not_count(change: tuple[str, ...]) -> None:
    source, *pairs = change
    changed = source
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in changed
        changed = changed.replace(old, new)
    assert digest_of_code(made(changed, module="__main__")) == digest_of_code(made(source, module="__main__"))


MODEL = """
from pydantic import *
class P(BaseModel):
    model_config = ConfigDict(frozen=False)
    n: int = Field(1, gt=0)
    m: list[int] = Field(default_factory=list)
    p: "P | None" = None
    _q: int = PrivateAttr(7)
    @field_validator("n", mode="before")
    def check(cls, n):
        return n + 8
def work():
    return P()
"""

# One source, and what may happen in a driver before, or between, calls.
AT_RUN_TIME = [
    ("class P: ...\ndef work():\n    return P()\n", "P().__reduce_ex__(4)\nassert '__slotnames__' in vars(P)"),
    ("class P: ...\ndef work():\n    return P()\n", "P.__annotations__\nclass Q(P): ..."),
    (MODEL, "P(n=2).model_dump()\nP.model_json_schema()\nP.model_rebuild(force=True)\nP.__signature__\nP()._q"),
    (
        "from pydantic import *\nclass P(BaseModel):\n    q: 'Q'\nclass Q(BaseModel):\n    n: int = 1\n"
        "def work():\n    return P\n",
        "P(q=Q())",
    ),
    (
        "import enum\nclass E(enum.Flag):\n    A = 1\n    B = 2\n    C = 4\ndef work():\n    return E.A\n",
        "E.A | E.B\nE(7)\n~E.A",
    ),
    ("import enum\nclass E(enum.Enum):\n    A = [1]\ndef work():\n    return E.A\n", "E([1])\nE.A.__reduce_ex__(4)"),
    (
        "import abc\nclass P(abc.ABC):\n    @abc.abstractmethod\n    def f(self): ...\ndef work():\n    return P\n",
        "isinstance(3, P)\nP.register(int)",
    ),
    (
        "from typing import *\n@runtime_checkable\nclass P(Protocol):\n    def f(self): ...\n"
        "def work():\n    return P\n",
        "isinstance(3, P)",
    ),
    ("from typing import *\nT = TypeVar('T')\nclass P(Generic[T]): ...\ndef work():\n    return P\n", "P[int]()"),
    ("from typing import *\nclass P(Protocol): ...\nclass Q(P): ...\ndef work():\n    return Q()\n", "Q()"),
    (
        "import functools\nclass P:\n    @functools.cached_property\n    def f(self): ...\np = P()\n"
        "def work():\n    return p.f\n",
        "p.f",
    ),
    ("import functools\n@functools.cache\ndef f(n): ...\ndef work():\n    return f(1)\n", "f(1)"),
    ("import functools\n@functools.cache\ndef work(n): ...\n", "work(1)"),
    (
        "import functools\n@functools.singledispatch\ndef f(x): ...\n@f.register\ndef _(x: int): ...\n"
        "def work():\n    return f(0)\n",
        "f(1)\nf('')",
    ),
    (
        "import weakref\nclass P:\n    all = weakref.WeakSet()\n    def __init__(self):\n        self.all.add(self)\n"
        "def work():\n    return P()\n",
        "p = P()",
    ),
    (
        "import dataclasses\n@dataclasses.dataclass(slots=True)\nclass P:\n    n: int = 1\n"
        "def work():\n    return P()\n",
        "repr(P())\nP().__reduce_ex__(4)",
    ),
    (
        "import attr\n@attr.define\nclass P:\n    n: list = attr.Factory(list)\ndef work():\n    return P()\n",
        "attr.asdict(P())\nP().__reduce_ex__(4)",
    ),
]


AT_RUN_TIME += [
    (
        "from typing import *\nclass P:\n    a: Optional['P'] = None\n    b: int | None = None\n    c: 'list[P]'\n"
        "    d: Callable[[int], str]\n    e: Literal['x']\ndef work():\n    return P\n",
        "get_type_hints(P, globals())",
    ),
    (
        "import ctypes\nclass P(ctypes.Structure):\n    _fields_ = [('a', ctypes.c_int)]\n"
        "def work():\n    return P(1).a\n",
        "P(1)",
    ),
    ("import msgspec\nclass P(msgspec.Struct):\n    n: int = 1\ndef work():\n    return P()\n", "P().__reduce_ex__(4)"),
]


@pytest.mark.parametrize(("source", "act"), AT_RUN_TIME)
def test_what_arises_at_run_time_does_not_count(source: str, act: str) -> None:
    pytest.importorskip("pydantic") if "pydantic" in source else None
    pytest.importorskip("attr") if "attr" in source else None
    work = made(source, module="__main__")
    known = digest_of_code(work)
    exec(act, work.__globals__ if hasattr(work, "__globals__") else work.__wrapped__.__globals__)
    assert digest_of_code(work) == known


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("n: int", "n: float"),
        ("gt=0", "gt=-1"),
        ("Field(1", "Field(2"),
        ('"before"', '"after"'),
        ("n + 8", "n + 9"),
        ("frozen=False", "frozen=True"),
        ("PrivateAttr(7)", "PrivateAttr(8)"),
        ("list[int]", "list[str]"),
        ("default_factory=list", "default_factory=tuple"),
    ],
)
def test_models(old: str, new: str) -> None:
    pytest.importorskip("pydantic")
    assert old in MODEL
    known, changed = (digest_of_code(made(text, module="__main__")) for text in (MODEL, MODEL.replace(old, new)))
    assert known != changed


def test_what_an_object_has_cached_does_not_count() -> None:
    source = "import functools\nclass P:\n    @functools.cached_property\n    def f(self):\n        return 1\n"
    value = made(source, "P", "__main__")()
    known = digest(value)
    assert value.f == 1
    assert digest(value) == known


def test_shared_parts_cost_nothing() -> None:
    table = list(range(1000))
    deep: Any = table
    for _ in range(60):
        # 2^60 ways lead to the table.
        deep = [deep, deep]
    budget = Budget(1000)
    assert digest([[table] * 500, deep], budget=budget)
    with pytest.raises(TooLarge):
        digest(list(range(1000)), budget=Budget(10))
    text = "x" * 100_000
    assert digest([[text, number] for number in range(100)], budget=Budget(2000))


def test_depth_is_not_limited() -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    assert digest(deep) != digest(deep[0])


class Node:
    """Refers to others."""

    def __init__(self) -> None:
        self.links: list[Node] = []


def graph(shape: list[list[int]]) -> Node:
    """Nodes that refer to others by number."""
    nodes = [Node() for _ in shape]
    for node, links in zip(nodes, shape, strict=True):
        node.links = [nodes[number] for number in links]
    return nodes[0]


def spelled(shape: list[list[int]]) -> str:
    """A graph in one way only: reachable nodes, numbered as they are met."""
    numbers, order = {0: 0}, [0]
    for node in order:
        for other in shape[node]:
            if other not in numbers:
                numbers[other] = len(order)
                order.append(other)
    return repr([[numbers[other] for other in shape[node]] for node in order])


def unfolded(shape: list[list[int]]) -> Any:
    """A graph as whoever follows its links sees it, deep enough to tell any two of five nodes apart."""
    known: list[Any] = [()] * len(shape)
    for _ in range(12):
        known = [hash(tuple(known[other] for other in links)) for links in shape]
    return known[0]


def test_cycles() -> None:
    source = random.Random(16)
    digests: dict[str, set[Any]] = {}
    spellings: dict[str, str] = {}
    for _ in range(3000):
        size = source.randint(1, 5)
        shape = [[source.randrange(size) for _ in range(source.randint(0, 3))] for _ in range(size)]
        found = digest(graph(shape))
        assert spellings.setdefault(spelled(shape), found) == found
        digests.setdefault(found, set()).add(unfolded(shape))
    assert len(digests) > 500
    assert all(len(seen) == 1 for seen in digests.values())


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
