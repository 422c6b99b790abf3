"""What a function raises: the caller catches what a plain call would raise, or reads all of it, once."""

from __future__ import annotations

import threading
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import LocalExecutionBackend, WorkflowEngine
from asyncflow_hpc.errors import RemoteTraceback, TaskFailedError


@pytest.fixture(params=["direct", "scripted"])
async def flow(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[WorkflowEngine]:
    backend = LocalExecutionBackend(cores=2, scripted=request.param == "scripted")
    async with await WorkflowEngine.create(backend=backend, work_dir=tmp_path) as engine:
        yield engine


def errors() -> dict[str, Any]:
    """Classes that cross by value, as those of a script."""

    class TwoArguments(Exception):
        def __init__(self, code: int, path: str) -> None:
            super().__init__(f"{path}: code {code}")
            self.code = code

    class OneArgument(ValueError):
        def __init__(self, name: str, hint: str = "none") -> None:
            super().__init__(f"unknown {name}")
            self.hint = hint

    class OnlyKeywords(KeyError):
        def __init__(self, *, key: str) -> None:
            super().__init__(key)

    @dataclass(frozen=True)
    class Frozen(Exception):
        code: int

    class NoCall(Exception):
        def __init__(self) -> None:
            self.later = 1

    class OwnReduce(Exception):
        def __init__(self, code: int) -> None:
            self.code = code

        def __reduce__(self) -> Any:
            return type(self), (self.code,)

    class Locked(Exception):
        def __init__(self, text: str) -> None:
            super().__init__(text)
            self.lock = threading.Lock()

    return {name: value for name, value in locals().items() if isinstance(value, type)}


OWN = errors()


@pytest.mark.parametrize(
    "make",
    [
        lambda: OWN["TwoArguments"](7, "/file"),
        lambda: OWN["OneArgument"]("queue"),
        lambda: OWN["OneArgument"]("queue", "debug"),
        lambda: OWN["OnlyKeywords"](key="k"),
        lambda: OWN["Frozen"](3),
        lambda: OWN["NoCall"](),
        lambda: OWN["OwnReduce"](3),
        lambda: FileNotFoundError(2, "no such file", "name"),
        lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    ],
)
async def test_what_is_caught_is_what_was_raised(flow: WorkflowEngine, make: Any) -> None:
    @flow.function_task
    async def fail() -> None:
        raise make()

    expected = make()
    with pytest.raises(type(expected)) as caught:
        await fail()
    found = caught.value
    assert type(found) is type(expected), "the very class"
    assert (str(found), repr(found), found.args) == (str(expected), repr(expected), expected.args)
    assert {**vars(found), "__notes__": 0} == {**vars(expected), "__notes__": 0}
    assert isinstance(found.__cause__, RemoteTraceback) and "raise make()" in str(found.__cause__)


def chained() -> None:
    try:
        try:
            {}["a key"]
        except KeyError as error:
            raise ValueError("in the middle") from error
    except ValueError as error:
        last = OWN["Locked"]("at last")
        if hasattr(last, "add_note"):
            last.add_note("a note")
        raise last from error


def in_context() -> None:
    try:
        {}["a key"]
    except KeyError:
        raise OWN["Locked"]("at last")  # noqa: B904


@pytest.mark.parametrize("function", [chained, in_context])
async def test_what_cannot_travel_is_told_once(flow: WorkflowEngine, function: Any) -> None:
    with pytest.raises(Exception, match="at last") as plain:
        function()
    with pytest.raises(TaskFailedError) as caught:
        await flow.function_task(function)()
    # What Python shows, but for the frame of this test.
    shown = "".join(traceback.format_exception(plain.type, plain.value, plain.tb.tb_next if plain.tb else None))
    assert str(caught.value).count(shown.strip()) == 1
    assert [str(caught.value).count(text) for text in ("KeyError: 'a key'", "Locked: at last")] == [1, 1]


async def test_all_members_of_a_group_are_told(flow: WorkflowEngine) -> None:
    group = getattr(__import__("builtins"), "ExceptionGroup", None)
    if group is None:
        pytest.skip("before Python 3.11 there are no groups")

    @flow.function_task
    async def fail() -> None:
        raise group("several", [OWN["Locked"]("one"), ValueError("two"), group("inner", [KeyError("three")])])

    @flow.function_task
    async def fail_with_all() -> None:
        raise group("several", [OWN["TwoArguments"](1, "/one"), ValueError("two")])

    with pytest.raises(TaskFailedError) as caught:
        await fail()
    text = str(caught.value)
    for member in ("Locked: one", "ValueError: two", "KeyError: 'three'", "several (3 sub-exceptions)"):
        assert text.count(member) == 1, text
    with pytest.raises(group) as whole:
        await fail_with_all()
    assert [type(each) for each in whole.value.exceptions] == [OWN["TwoArguments"], ValueError]


async def test_what_the_function_printed_stays_beside_its_exception(flow: WorkflowEngine) -> None:
    @flow.function_task(capture_stdio=True)
    async def fail() -> None:
        import sys

        print("before it failed", file=sys.stderr)
        raise OWN["Locked"]("at last")

    with pytest.raises(TaskFailedError) as caught:
        await fail()
    assert [str(caught.value).count(text) for text in ("before it failed", "Locked: at last")] == [1, 1]
