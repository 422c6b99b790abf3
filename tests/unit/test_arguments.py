"""Futures and files found in arguments however deep they lie, and results put in their place."""

from __future__ import annotations

import asyncio
import enum
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncflow_hpc.arguments import Found, scan, substitute
from asyncflow_hpc.data import InputFile, OutputFile
from asyncflow_hpc.engine import WorkflowEngine
from asyncflow_hpc.errors import CycleError
from asyncflow_hpc.futures import TaskFuture

Pair = namedtuple("Pair", "left right")


class Point(NamedTuple):
    x: Any
    y: Any = 0


@dataclass
class Plain:
    first: Any
    second: Any = None


@dataclass(frozen=True)
class Frozen:
    first: Any
    second: Any = None


@dataclass(slots=True)
class Slotted:
    first: Any
    second: Any = None


@dataclass(frozen=True, slots=True)
class FrozenSlotted:
    first: Any
    second: Any = None


class Colour(enum.Enum):
    RED = 1


class Opaque:
    """An object of the user's own, which nobody looks into."""

    def __init__(self, held: Any) -> None:
        self.held = held


FREE = {"list": list, "plain": Plain, "slotted": Slotted}
HASHABLE = {"tuple": tuple, "pair": Pair, "point": Point, "frozen": Frozen, "frozen slotted": FrozenSlotted}

FUTURES = 5


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def futures(loop: asyncio.AbstractEventLoop) -> list[TaskFuture]:
    """Finished ones; a scan and a substitution ask nothing else of them."""
    made = [TaskFuture(loop=loop) for _ in range(FUTURES)]
    for number, future in enumerate(made):
        future.set_result(result_of(number))
    return made


def result_of(number: int) -> str:
    return f"result {number}"


# A recipe says what to build, so that the same thing can be built twice: with futures, and with their results.
Recipe = tuple[Any, ...]

atoms = st.one_of(
    st.integers(), st.text(max_size=5), st.booleans(), st.none(), st.binary(max_size=3), st.just(Colour.RED)
)
leaves = st.one_of(
    st.tuples(st.just("future"), st.integers(0, FUTURES - 1)),
    st.tuples(st.just("value"), atoms),
)
files = st.sampled_from(["input", "output"]).map(lambda kind: (kind,))


def _two(kinds: dict[str, Any], inner: st.SearchStrategy[Recipe]) -> st.SearchStrategy[Recipe]:
    return st.tuples(st.sampled_from(sorted(kinds)), st.lists(inner, min_size=2, max_size=2))


hashables: st.SearchStrategy[Recipe] = st.recursive(
    leaves,
    lambda inner: st.one_of(_two(HASHABLE, inner), st.tuples(st.just("frozenset"), st.lists(inner, max_size=3))),
    max_leaves=6,
)
recipes: st.SearchStrategy[Recipe] = st.recursive(
    st.one_of(leaves, files, hashables),
    lambda inner: st.one_of(
        _two({**FREE, **HASHABLE}, inner),
        st.tuples(st.sampled_from(["list", "tuple"]), st.lists(inner, max_size=4)),
        st.tuples(st.just("set"), st.lists(hashables, max_size=3)),
        st.tuples(
            st.sampled_from(["dict", "defaultdict", "OrderedDict"]), st.lists(st.tuples(hashables, inner), max_size=3)
        ),
        st.tuples(st.just("again"), st.integers(0, 20)),
    ),
    max_leaves=15,
)


class Builder:
    """Builds what a recipe says; "again" is a container that was built before."""

    def __init__(self, future: Callable[[int], Any]) -> None:
        self._future = future
        self._built: list[Any] = []
        self._files = 0

    def build(self, recipe: Recipe) -> Any:
        kind = recipe[0]
        if kind == "value":
            return recipe[1]
        if kind == "future":
            return self._future(recipe[1])
        if kind in ("input", "output"):
            self._files += 1
            return InputFile(f"file {self._files}") if kind == "input" else OutputFile(f"file {self._files}")
        if kind == "again":
            return self._built[recipe[1] % len(self._built)] if self._built else None
        made = self._container(kind, recipe[1])
        self._built.append(made)
        return made

    def _container(self, kind: str, inner: list[Any]) -> Any:
        if kind in ("dict", "OrderedDict"):
            return {"dict": dict, "OrderedDict": OrderedDict}[kind](self._items(inner))
        if kind == "defaultdict":
            return defaultdict(list, self._items(inner))
        members = [self.build(recipe) for recipe in inner]
        if kind in ("list", "tuple", "set", "frozenset"):
            return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](members)
        return {**FREE, **HASHABLE}[kind](*members)

    def _items(self, inner: list[Any]) -> list[tuple[Any, Any]]:
        return [(self.build(key), self.build(value)) for key, value in inner]


def members(value: Any) -> list[Any] | None:
    """What a container holds, or None for anything else."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if is_dataclass(value):
        return [getattr(value, item.name) for item in fields(value)]
    return None


def shape(value: Any) -> Any:
    """The types and contents of a value down to its leaves."""
    inside = members(value)
    if inside is None:
        return type(value), value.filename if isinstance(value, (InputFile, OutputFile)) else value
    shapes = [shape(member) for member in inside]
    return type(value), frozenset(shapes) if isinstance(value, (set, frozenset)) else tuple(shapes)


def leaves_in(value: Any) -> list[Any]:
    inside = members(value)
    return [value] if inside is None else [leaf for member in inside for leaf in leaves_in(member)]


def holds_future(value: Any) -> bool:
    return any(isinstance(leaf, TaskFuture) for leaf in leaves_in(value))


def check_identity(old: Any, new: Any) -> None:
    """What holds no future is the same object, what holds one is another."""
    if isinstance(old, TaskFuture):
        return
    if not holds_future(old):
        assert new is old
        return
    assert new is not old
    if isinstance(old, (set, frozenset)):
        kept = {id(member) for member in new}
        assert all(id(member) in kept for member in old if not holds_future(member))
        return
    for before, after in zip(members(old) or (), members(new) or (), strict=True):
        check_identity(before, after)


@settings(max_examples=150, deadline=None)
@given(args=st.lists(recipes, max_size=3), kwargs=st.dictionaries(st.sampled_from("abc"), recipes, max_size=2))
def test_scan_finds_exactly_the_futures_and_the_files(
    futures: list[TaskFuture], args: list[Recipe], kwargs: dict[str, Recipe]
) -> None:
    builder = Builder(futures.__getitem__)
    values = tuple(builder.build(recipe) for recipe in args)
    named = {name: builder.build(recipe) for name, recipe in kwargs.items()}
    tops = (*values, *named.values())
    there = [leaf for top in tops for leaf in leaves_in(top)]
    found = scan(values, named)
    if found is None:
        assert not any(isinstance(leaf, (TaskFuture, InputFile, OutputFile)) for leaf in there)
        return
    assert set(found.futures) == {leaf for leaf in there if isinstance(leaf, TaskFuture)}
    assert set(found.inputs) == {leaf for leaf in there if isinstance(leaf, InputFile)}
    assert set(found.outputs) == {leaf for leaf in there if isinstance(leaf, OutputFile)}
    assert found.nested == any(holds_future(top) and not isinstance(top, TaskFuture) for top in tops)


@settings(max_examples=250, deadline=None)
@given(recipe=recipes)
def test_substitute_puts_results_in_place(futures: list[TaskFuture], recipe: Recipe) -> None:
    value = Builder(futures.__getitem__).build(recipe)
    before = shape(value)
    result = substitute(value, True)
    assert shape(result) == shape(Builder(result_of).build(recipe))
    check_identity(value, result)
    assert shape(value) == before, "the user's own containers stay as they are"


def found_in(*args: Any, **kwargs: Any) -> Found:
    found = scan(args, kwargs)
    assert found is not None
    return found


WRAPPERS: list[Callable[[Any], Any]] = [
    lambda inner: [inner],
    lambda inner: (1, inner),
    lambda inner: Pair(1, inner),
    lambda inner: Point(inner),
    lambda inner: {"key": inner},
    lambda inner: {inner: "value"},
    lambda inner: {inner},
    lambda inner: frozenset({inner}),
    lambda inner: Plain(inner),
    lambda inner: Frozen(inner),
    lambda inner: Slotted(inner),
    lambda inner: FrozenSlotted(inner),
    lambda inner: OrderedDict(key=inner),
]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_declared_file_is_found_in_every_container(wrap: Callable[[Any], Any]) -> None:
    source, target = InputFile("in.dat"), OutputFile("out.dat")
    found = found_in(wrap(source), named=wrap(target))
    assert (found.inputs, found.outputs) == ([source], [target])
    assert not found.futures and not found.nested


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_future_is_found_and_replaced_in_every_container(
    wrap: Callable[[Any], Any], futures: list[TaskFuture]
) -> None:
    value = wrap(futures[0])
    found = found_in(value)
    assert list(found.futures) == [futures[0]] and found.nested
    result = substitute(value, found.nested)
    assert result == wrap(result_of(0)) and type(result) is type(value)


def test_files_are_found_in_the_order_of_the_call() -> None:
    files = [InputFile(f"{number}.dat") for number in range(6)]
    found = found_in(files[0], [files[1], (files[2], {"key": files[3]})], named=Plain(files[4], [files[5]]))
    assert found.inputs == files


def test_a_call_without_anything_of_interest_costs_nothing(futures: list[TaskFuture]) -> None:
    assert scan((1, "text", [1, {"key": (2.0, None)}], Plain(1), Opaque(1)), {"named": {1, 2}}) is None
    assert scan((), {}) is None
    assert scan((Plain, Frozen, Colour.RED), {}) is None, "a dataclass itself, and an enum, hold nothing"
    assert scan((Opaque(futures[0]),), {}) is None, "nobody looks into objects of the user's own"


def test_a_future_at_the_top_is_not_nested(futures: list[TaskFuture]) -> None:
    found = found_in(futures[0], 1, named=futures[1])
    assert list(found.futures) == futures[:2] and not found.nested
    assert substitute(futures[0], False) == result_of(0)


def test_containers_are_left_alone_unless_something_is_nested(futures: list[TaskFuture]) -> None:
    value = [futures[0]]
    assert substitute(value, False) is value


def test_scan_of_what_contains_itself_ends(futures: list[TaskFuture]) -> None:
    row: list[Any] = [futures[0]]
    row.append(row)
    table: dict[str, Any] = {"row": row, "future": futures[1]}
    table["table"] = table
    plain = Plain(futures[2], table)
    row.append(plain)
    for start in (row, table, plain):
        assert set(found_in(start).futures) == set(futures[:3])


def test_what_contains_itself_without_a_future_stays_as_it_is() -> None:
    row: list[Any] = [1]
    row.append(row)
    table: dict[str, Any] = {"row": row}
    table["table"] = table
    assert substitute(table, True) is table
    assert row == [1, row] and table.keys() == {"row", "table"}


def test_what_contains_itself_and_a_future_is_refused(futures: list[TaskFuture]) -> None:
    row: list[Any] = [futures[0], "kept"]
    row.append(row)
    with pytest.raises(CycleError, match="holds itself"):
        substitute(row, True)
    assert row[0] is futures[0] and row[2] is row


def test_what_contains_itself_and_no_future_stays(futures: list[TaskFuture]) -> None:
    row: list[Any] = ["kept"]
    row.append(row)
    result = substitute([row, futures[0]], True)
    assert result[0] is row and result[1] == result_of(0)


def test_what_is_shared_stays_shared(futures: list[TaskFuture]) -> None:
    shared = [futures[0]]
    result = substitute({"a": shared, "b": (shared, shared)}, True)
    assert result == {"a": [result_of(0)], "b": ([result_of(0)], [result_of(0)])}
    assert result["a"] is result["b"][0] is result["b"][1]


def test_kinds_of_dicts_keep_their_ways(futures: list[TaskFuture]) -> None:
    counted = substitute(Counter(a=futures[0], b=2), True)
    assert type(counted) is Counter and dict(counted) == {"a": result_of(0), "b": 2}
    grouped = substitute(defaultdict(list, {"a": futures[0]}), True)
    assert grouped["new"] == [] and grouped["a"] == result_of(0)
    ordered = substitute(OrderedDict([("z", futures[0]), ("a", 1)]), True)
    assert list(ordered.items()) == [("z", result_of(0)), ("a", 1)]


def test_a_dataclass_is_copied_without_running_its_code(futures: list[TaskFuture]) -> None:
    made = []

    @dataclass
    class Counting:
        given: Any
        derived: Any = field(init=False)
        keyword: Any = field(default=None, kw_only=True)

        def __post_init__(self) -> None:
            made.append(self)
            self.derived = [self.given]

    value = Counting(futures[0], keyword=7)
    value.extra = "set later"  # type: ignore[attr-defined]
    result = substitute(value, True)
    assert made == [value] and result is not value
    assert (result.given, result.derived, result.keyword, result.extra) == (
        result_of(0),
        [result_of(0)],
        7,
        "set later",
    )
    assert value.given is futures[0] and value.derived == [futures[0]]


def test_a_result_that_is_a_container_is_not_looked_into(loop: asyncio.AbstractEventLoop) -> None:
    """What a task returned is its own affair, and is handed on as it is."""
    inner = [1, 2]
    future = TaskFuture(loop=loop)
    future.set_result(inner)
    assert substitute([future], True)[0] is inner
    with pytest.raises(TypeError, match="unhashable"):
        substitute({future}, True)


def test_the_error_of_a_future_is_raised(loop: asyncio.AbstractEventLoop) -> None:
    future = TaskFuture(loop=loop)
    future.set_exception(ArithmeticError("of the task"))
    with pytest.raises(ArithmeticError, match="of the task"):
        substitute({"deep": [future]}, True)


def test_scan_looks_deeper_than_the_stack_goes(futures: list[TaskFuture]) -> None:
    value: Any = futures[0]
    for _ in range(20_000):
        value = [value]
    assert list(found_in(value).futures) == [futures[0]]


async def test_a_block_sees_values_in_the_place_of_futures(tmp_path: Path) -> None:
    async with WorkflowEngine.create(backend="noop", work_dir=tmp_path) as flow:

        @flow.block
        async def number(value: int) -> int:
            return value

        @flow.block
        async def total(table: dict[str, Any], *, more: Plain) -> int:
            return sum(table["row"]) + table["cell"].x + more.first

        assert await total({"row": [number(1), 2], "cell": Point(number(3))}, more=Plain(number(4))) == 10
