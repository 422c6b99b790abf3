"""Futures where no value can take their place: in objects of all kinds, and in the text of commands."""

from __future__ import annotations

import asyncio
import gc
import re
from collections import deque
from collections.abc import Iterable, Mapping
from types import CodeType, FrameType, FunctionType, GeneratorType, ModuleType
from typing import Any

from .errors import ArgumentError, CommandError
from .futures import TaskFuture

__all__ = ["refuse_hidden", "refuse_text"]

# Objects that are looked at: what is beyond them is noticed when the future is pickled, or made a text.
_MOST = 1000

_BARRED = (type, ModuleType, CodeType, FrameType)

_SHOWN = re.compile(r"<(?:Task|Service)Future [a-z]+\.\d+[^>]{0,200}>?")

# What these hold is not the caller's.
_PACKAGES = frozenset({"asyncflow_hpc", "asyncio", "_asyncio", "logging", "threading", "_thread", "concurrent"})


def refuse_hidden(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], suspects: Iterable[object]) -> None:
    """Refuse futures that would reach a command or another process as they are.

    Args:
        name: of the task, for the message.
        args, kwargs: of the call.
        suspects: what of them is neither plain nor a container in which futures are replaced.

    Raises:
        ArgumentError: one of them holds a future.
    """
    for suspect in suspects:
        future = _future_in(suspect)
        if future is not None:
            place = _place(args, kwargs, future)
            raise ArgumentError(
                f"{place} of task '{name}' holds {future!r} in a {type(suspect).__name__}, where its value cannot take"
                " its place: await it first, or pass it as an argument of its own, or in a list, tuple, dict, set,"
                " deque, SimpleNamespace, dataclass or attrs class"
            )


def refuse_text(name: str, text: str) -> None:
    """Refuse a command or prompt that shows a future, as in the text of a list that holds it.

    Raises:
        CommandError: it does.
    """
    shown = _SHOWN.search(text)
    if shown is not None:
        raise CommandError(
            f"'{name}' returned a text with {shown[0]} in it, which is a future and not its value: await it, or pass it"
            " as an argument"
        )


def _place(args: tuple[Any, ...], kwargs: Mapping[str, Any], future: TaskFuture) -> str:
    for number, value in enumerate(args, 1):
        if _future_in(value) is future:
            return f"argument number {number}"
    for word, value in kwargs.items():
        if _future_in(value) is future:
            return f"argument {word!r}"
    return "an argument"


def _future_in(root: object) -> TaskFuture | None:
    seen: dict[int, object] = {}
    waiting: deque[object] = deque([root])
    while waiting and len(seen) < _MOST:
        value = waiting.popleft()
        if isinstance(value, TaskFuture):
            return value
        if id(value) in seen or isinstance(value, _BARRED):
            continue
        # Kept, so that no other object gets its id.
        seen[id(value)] = value
        if isinstance(value, asyncio.Future):
            # Of `asyncio.gather`.
            waiting.extend(getattr(value, "_children", ()))
        elif str(getattr(type(value), "__module__", "")).partition(".")[0] not in _PACKAGES:
            waiting.extend(_reached(value)[:_MOST])
    return None


def _reached(value: object) -> list[Any]:
    if isinstance(value, FunctionType):
        # Its globals are the whole script.
        return [*(value.__closure__ or ()), value.__defaults__, value.__kwdefaults__]
    if isinstance(value, GeneratorType):
        return list(value.gi_frame.f_locals.values()) if value.gi_frame is not None else []
    return gc.get_referents(value)
