"""Calls that can come to no good: refused at once, with words that say why; the others run as they always did."""

from __future__ import annotations

import asyncio
import collections
import functools
import itertools
import logging
import math
import shlex
import types
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import LocalExecutionBackend, WorkflowEngine
from asyncflow_hpc.errors import ArgumentError, AsyncFlowError, CommandError


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[WorkflowEngine]:
    backend = LocalExecutionBackend(cores=2)
    async with await WorkflowEngine.create(backend=backend, work_dir=tmp_path) as engine:
        yield engine


class Opaque:
    def __init__(self, value: Any) -> None:
        self.value = value


class Slots:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass
class Plain:
    value: Any


def of_pydantic(future: Any) -> Any:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Model", value=(Any, ...))
    return model(value=future)


def of_attrs(future: Any, **options: Any) -> Any:
    attrs = pytest.importorskip("attrs")
    return attrs.make_class("Attrs", ["value"], **options)(future)


HIDING: dict[str, Callable[[Any], Any]] = {
    "object": Opaque,
    "slots": Slots,
    "deep": lambda future: Opaque([Opaque({"key": Slots(future)})]),
    "pydantic": of_pydantic,
    "generator": lambda future: (each for each in [future]),
    "iterator": lambda future: iter([future]),
    "map": lambda future: map(str, [future]),
    "zip": lambda future: zip([future], strict=True),
    "chain": lambda future: itertools.chain([1], [future]),
    "values": lambda future: {"key": future}.values(),
    "mapping": lambda future: types.MappingProxyType({"key": future}),
    "user list": lambda future: collections.UserList([future]),
    "chain map": lambda future: collections.ChainMap({"key": future}),
    "partial": lambda future: functools.partial(print, future),
    "closure": lambda future: lambda: future,
    "default": lambda future: eval("lambda value=future: value", {"future": future}),
    "method": lambda future: Opaque(future).__init__,  # type: ignore[misc]
    "gather": lambda future: asyncio.gather(future),
    "in a list": lambda future: [1, Opaque(future)],
    "in a dataclass": lambda future: Plain(Opaque(future)),
}


@pytest.mark.parametrize("kind", ["function_task", "executable_task"])
async def test_a_future_in_an_odd_object_is_refused(flow: WorkflowEngine, kind: str) -> None:
    @flow.function_task
    async def make() -> int:
        return 7

    async def show(first: Any, second: Any = None) -> str:
        return f"echo {first} {second}"

    task, future = getattr(flow, kind)(show), make()
    for name, hide in HIDING.items():
        words = r"argument number 2 of task 'show' holds <TaskFuture .*'make'.*await it"
        with pytest.raises(ArgumentError, match=words):
            pytest.fail(f"{name}: {task(1, hide(future))!r}")
        with pytest.raises(ArgumentError, match="argument 'second' of task 'show'"):
            pytest.fail(f"{name}: {task(1, second=hide(future))!r}")
    assert await future == 7


REPLACED: dict[str, Callable[[Any], Any]] = {
    "deque": lambda value: collections.deque([value], maxlen=3),
    "deque in a dict": lambda value: {"key": collections.deque([[value]])},
    "namespace": lambda value: types.SimpleNamespace(value=value, other=[1]),
    "attrs": of_attrs,
    "frozen attrs": functools.partial(of_attrs, frozen=True, slots=True),
    "dataclass": Plain,
    "set": lambda value: {value},
    "keys": lambda value: {value: 1},
    "default dict": lambda value: collections.defaultdict(list, a=value),
}


async def test_in_other_containers_its_value_takes_its_place(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def make() -> int:
        return 7

    @flow.executable_task
    async def show(value: Any) -> list[str]:
        return ["printf", "%s", repr(value)]

    @flow.block
    async def inside(value: Any) -> Any:
        return repr(value)

    for wrap in REPLACED.values():
        future = make()
        given = wrap(future)
        expected = repr(wrap(7))
        assert [await show(given), await inside(given)] == [expected, expected]
        assert repr(future) in repr(given), "what the caller holds is as it was"


async def test_a_block_may_await_what_an_object_holds(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def make() -> int:
        return 7

    @flow.block
    async def inside(holder: Opaque) -> Any:
        return await holder.value + 1

    assert await inside(Opaque(make())) == 8


async def test_objects_that_hold_the_engine_are_no_business_of_ours(flow: WorkflowEngine) -> None:
    @flow.function_task
    async def make() -> int:
        return 7

    @flow.executable_task
    async def show(holder: Opaque) -> str:
        return f"echo {type(holder.value).__name__}"

    future = make()
    assert await show(Opaque(flow)) == "WorkflowEngine\n"
    assert await future == 7


FORMATTED: dict[str, Callable[[Any], Any]] = {
    "str": str,
    "format": format,
    "f-string": lambda future: f"{future}",
    "f-string with a width": lambda future: f"{future:>40}",
    "percent": lambda future: "%s" % future,  # noqa: UP031
    "method": lambda future: "{}".format(future),  # noqa: UP032
    "join": lambda future: " ".join(map(str, [future])),
}


@pytest.mark.parametrize("shape", FORMATTED.values(), ids=FORMATTED)
async def test_the_text_of_an_unresolved_future_is_refused(flow: WorkflowEngine, shape: Callable[[Any], Any]) -> None:
    @flow.executable_task
    async def slow() -> str:
        return "sleep 60"

    @flow.executable_task
    async def show() -> str:
        return f"echo {shape(future)}"

    future = slow()
    with pytest.raises(ArgumentError, match=rf"{future.uid} 'slow'.*await it"):
        shape(future)
    with pytest.raises(ArgumentError, match=rf"{future.uid} 'slow'"):
        await show()
    # What people and asyncio look at.
    assert f"{future!r}" == repr(future) == f"<TaskFuture {future.uid} 'slow' {future.state}>"
    future.cancel()


SHOWN: dict[str, Callable[[Any], Any]] = {
    "list": lambda future: f"echo {[future]}",
    "repr": lambda future: f"echo {future!r}",
    "dict": lambda future: f"echo {dict(a=future)} > file",
    "argv": lambda future: ["echo", f"{[future]}"],
    "quoted": lambda future: shlex.join(["echo", repr(future)]),
}


@pytest.mark.parametrize("shape", SHOWN.values(), ids=SHOWN)
async def test_a_command_that_shows_a_future_is_refused(flow: WorkflowEngine, shape: Callable[[Any], Any]) -> None:
    @flow.function_task
    async def make() -> int:
        return 7

    @flow.executable_task
    async def show() -> Any:
        return shape(future)

    future = make()
    with pytest.raises(CommandError, match=rf"'show' .*<TaskFuture {future.uid}"):
        await show()
    await future
    assert str(future) == f"{future}" == repr(future)
    with pytest.raises(CommandError, match=rf"'show' .*<TaskFuture {future.uid}"):
        await show()


async def test_asyncio_and_logging_live_with_futures(
    flow: WorkflowEngine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    @flow.function_task
    async def make(value: int) -> int:
        return value

    @flow.function_task
    async def fail() -> None:
        raise ValueError("no")

    asyncio.get_running_loop().set_debug(True)
    future = make(1)
    with caplog.at_level(logging.INFO):
        logging.getLogger("script").info("waiting for %r", future)
    assert f"waiting for <TaskFuture {future.uid} 'make'" in caplog.text
    done, _ = await asyncio.wait([future, asyncio.ensure_future(make(2))])
    assert {each.result() for each in done} == {1, 2}
    found = await asyncio.gather(make(3), fail(), return_exceptions=True)
    assert found[0] == 3 and isinstance(found[1], ValueError)
    assert await asyncio.wait_for(asyncio.shield(make(4)), 60) == 4
    asyncio.get_running_loop().set_debug(False)


# Wrong arguments ----------------------------------------------------------------------------------------------------


class Callable_:
    def __call__(self, a: int) -> str:
        return f"true {a}"

    def method(self, a: int) -> str:
        return f"true {a}"

    @staticmethod
    def static(a: int) -> str:
        return f"true {a}"

    @classmethod
    def of_class(cls, a: int) -> str:
        return f"true {a}"


async def coroutine(a: int) -> str:
    return f"true {a}"


def two(first: int, a: int) -> str:
    return f"true {first} {a}"


def other_two(a: int, second: int) -> str:
    return f"true {a} {second}"


@functools.lru_cache
def cached(a: int) -> str:
    return f"true {a}"


OF_ONE = [
    coroutine, cached, functools.partial(two, 1), functools.partial(other_two, second=1), lambda a: f"true {a}",
    Callable_(), Callable_().method, Callable_.static, Callable_.of_class,
]  # fmt: skip


@pytest.mark.parametrize("kind", ["function_task", "executable_task", "block"])
async def test_wrong_arguments_are_refused_at_the_call(flow: WorkflowEngine, kind: str) -> None:
    for function in OF_ONE:
        await refuses_wrong_arguments(getattr(flow, kind)(function), function)


async def refuses_wrong_arguments(task: Any, function: Any) -> None:
    for args, kwargs, why in [
        ((), {}, "missing a required argument: 'a'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"c": 1}, "unexpected keyword argument 'c'|missing"),
        ((), {"task_description": {}}, "missing a required argument: 'a'"),
    ]:
        with pytest.raises(ArgumentError, match=why) as caught:
            task(*args, **kwargs)
        assert isinstance(caught.value, (TypeError, AsyncFlowError))
        assert f"{getattr(function, '__name__', type(function).__name__)}(" in str(caught.value)
    await task(1)
    await task(a=1)


def taking_all(*args: Any, **kwargs: Any) -> list[Any]:
    return [*args, *kwargs]


def with_defaults(a: int, /, b: int = 2, *, c: int, d: int = 4) -> list[int]:
    return [a, b, c, d]


def injecting(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(0, *args)

    return wrapper


@injecting
def wrapped(injected: int, a: int) -> list[int]:
    return [injected, a]


def with_an_odd_default(a: int, b: Any = Opaque(0)) -> int:  # noqa: B008
    return a


async def test_right_arguments_are_taken(flow: WorkflowEngine) -> None:
    calls: list[tuple[Any, Any, Any]] = [
        (taking_all, (1, 2), {"c": 3}),
        (with_defaults, (1,), {"c": 3}),
        (with_defaults, (1, 5), {"c": 3, "d": 6}),
        (wrapped, (3,), {}),
        (math.hypot, (3, 4), {}),
        (dict, ([("a", 1)],), {"b": 2}),
        (Plain, (1,), {}),
        (with_an_odd_default, (1,), {}),
        (max, (3, 4), {}),
    ]
    for function, args, kwargs in calls:
        assert await flow.function_task(function)(*args, **kwargs) == function(*args, **kwargs)


async def test_a_wrong_call_of_a_class_or_a_builtin_is_refused(flow: WorkflowEngine) -> None:
    with pytest.raises(ArgumentError, match=r"sqrt\(x, /\)"):
        flow.function_task(math.sqrt)()
    with pytest.raises(ArgumentError, match="Opaque"):
        flow.function_task(Opaque)(1, 2)
    with pytest.raises(ArgumentError, match=r"with_defaults\(a: 'int', /, b: 'int' = 2, \*, c: 'int', d: 'int' = 4\)"):
        flow.function_task(with_defaults)(a=1, c=2)
