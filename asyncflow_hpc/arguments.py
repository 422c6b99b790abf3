"""What the arguments of a call hold: futures to wait for, files to stage; and putting values in their place."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import chain
from types import SimpleNamespace
from typing import Any

from .data import InputFile, OutputFile
from .errors import CycleError
from .futures import TaskFuture
from .hidden import refuse_hidden

__all__ = ["Found", "scan", "substitute"]

_ATOMS = frozenset({int, float, str, bytes, bool, type(None), complex, bytearray, range, type})

_SEQUENCES = (list, tuple, set, frozenset, deque)

_BUSY, _CYCLE = object(), object()


class Found:
    """What a scan found.

    Attributes:
        futures: of tasks and blocks, each once.
        nested: some future lies inside a container.
        inputs, outputs: declared files.
    """

    __slots__ = ("futures", "inputs", "nested", "outputs")

    def __init__(self, futures: tuple[TaskFuture, ...]) -> None:
        self.futures = futures
        self.nested = False
        self.inputs: Sequence[InputFile] = ()
        self.outputs: Sequence[OutputFile] = ()


def scan(args: tuple[Any, ...], kwargs: Mapping[str, Any], task: str | None = None) -> Found | None:
    """Look through arguments, and through the containers in them in which a value can take the place of a future.

    Args:
        args, kwargs: of the call.
        task: name of a task, for which futures elsewhere are refused; None for a block, which can await them.

    Returns:
        What was found, or None where there is nothing of interest.

    Raises:
        ArgumentError: the task would get a future itself.
    """
    interesting = [value for value in args if type(value) not in _ATOMS]
    if kwargs:
        interesting += [value for value in kwargs.values() if type(value) not in _ATOMS]
    if not interesting:
        return None
    first = interesting[0]
    if len(interesting) == 1 and isinstance(first, TaskFuture):
        return Found((first,))
    seen = _Seen()
    nested = False
    for value in interesting:
        nested = (seen.look_into(value) and not isinstance(value, TaskFuture)) or nested
    if task is not None and seen.others:
        refuse_hidden(task, args, kwargs, seen.others)
    if not (seen.futures or seen.inputs or seen.outputs):
        return None
    found = Found(tuple(seen.futures))
    found.nested, found.inputs, found.outputs = nested, seen.inputs, seen.outputs
    return found


def _is_container(value: object) -> bool:
    return isinstance(value, (*_SEQUENCES, dict, SimpleNamespace)) or _names(value) is not None


def _names(value: object) -> list[str] | None:
    """Return the names of the fields of a dataclass or attrs object."""
    if isinstance(value, type):
        return None
    if is_dataclass(value):
        return [item.name for item in fields(value)]
    attributes = getattr(type(value), "__attrs_attrs__", None)
    return None if attributes is None else [item.name for item in attributes]


class _Seen:
    """What a walk over arguments has met.

    Attributes:
        others: what is none of all that is looked into.
    """

    def __init__(self) -> None:
        self.others: list[object] = []
        self.futures: dict[TaskFuture, None] = {}
        self.inputs: list[InputFile] = []
        self.outputs: list[OutputFile] = []

    def look_into(self, root: object) -> bool:
        """Add what a value holds; tell whether it holds futures."""
        futures = False
        containers: set[int] = set()
        stack = [root]
        while stack:
            value = stack.pop()
            if type(value) in _ATOMS:
                continue
            if isinstance(value, TaskFuture):
                self.futures[value] = None
                futures = True
            elif isinstance(value, InputFile):
                self.inputs.append(value)
                if value.task is not None:
                    self.futures[value.task] = None
            elif isinstance(value, OutputFile):
                self.outputs.append(value)
            elif id(value) not in containers:
                containers.add(id(value))
                members = _members(value)
                if members is None:
                    self.others.append(value)
                else:
                    stack.extend(reversed(list(members)))
        return futures


def _members(value: object) -> Iterable[object] | None:
    if isinstance(value, _SEQUENCES):
        return value
    if isinstance(value, dict):
        return chain(value.keys(), value.values())
    if isinstance(value, SimpleNamespace):
        return vars(value).values()
    names = _names(value)
    return None if names is None else [getattr(value, name, None) for name in names]


def substitute(value: Any, nested: bool) -> Any:
    """Put results in the place of finished futures.

    Args:
        value: an argument.
        nested: look inside containers too; those that hold a future are copied, the others stay as they are.
    """
    if isinstance(value, TaskFuture):
        return value.result()
    if not nested or type(value) in _ATOMS:
        return value
    return _rebuilt(value, {})


def _rebuilt(value: Any, memo: dict[int, Any]) -> Any:
    if type(value) in _ATOMS:
        return value
    if isinstance(value, TaskFuture):
        return value.result()
    if not _is_container(value):
        return value
    if memo.get(id(value)) is _BUSY:
        # It holds itself. Where nothing in it changes, it can stay as it is.
        memo[id(value)] = _CYCLE
    if id(value) in memo:
        return value if memo[id(value)] is _CYCLE else memo[id(value)]
    memo[id(value)] = _BUSY
    result = _rebuilt_container(value, memo)
    if memo[id(value)] is _CYCLE and result is not value:
        raise CycleError(
            f"a {type(value).__name__} among the arguments holds itself and a future: pass the future alone"
        )
    memo[id(value)] = result
    return result


def _rebuilt_container(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, dict):
        items = [(_rebuilt(key, memo), _rebuilt(item, memo)) for key, item in value.items()]
        if all(a is c and b is d for (a, b), (c, d) in zip(items, value.items(), strict=True)):
            return value
        result = copy.copy(value)
        result.clear()
        # Counter.update would count the pairs.
        result.update(dict(items))
        return result
    if isinstance(value, _SEQUENCES):
        old = list(value)
        new = [_rebuilt(item, memo) for item in old]
        if all(a is b for a, b in zip(old, new, strict=True)):
            return value
        if isinstance(value, deque):
            queue = copy.copy(value)
            queue.clear()
            queue.extend(new)
            return queue
        return type(value)(*new) if hasattr(value, "_fields") else type(value)(new)
    names = vars(value) if isinstance(value, SimpleNamespace) else _names(value)
    changed = {}
    for name in names or ():
        old_value = getattr(value, name, None)
        new_value = _rebuilt(old_value, memo)
        if new_value is not old_value:
            changed[name] = new_value
    if not changed:
        return value
    result = copy.copy(value)
    for name, new_value in changed.items():
        object.__setattr__(result, name, new_value)
    return result
