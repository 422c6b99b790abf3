"""What the arguments of a call hold: futures to wait for, files to stage; and putting values in their place."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from itertools import chain
from typing import Any

from .data import InputFile, OutputFile
from .futures import TaskFuture

__all__ = ["Found", "scan", "substitute"]

_ATOMS = frozenset({int, float, str, bytes, bool, type(None), complex, bytearray, range, type})


class Found:
    """What a scan found.

    Attributes:
        futures: of tasks and blocks, each once.
        nested: some future lies inside a container.
        inputs, outputs: declared files.
    """

    __slots__ = ("futures", "inputs", "nested", "outputs")

    def __init__(self) -> None:
        self.futures: dict[TaskFuture, None] = {}
        self.nested = False
        self.inputs: list[InputFile] = []
        self.outputs: list[OutputFile] = []


def scan(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Found | None:
    """Look through arguments, and through lists, tuples, dicts, sets and dataclasses in them.

    Returns:
        What was found, or None where there is nothing of interest.
    """
    interesting = [value for value in args if type(value) not in _ATOMS]
    if kwargs:
        interesting += [value for value in kwargs.values() if type(value) not in _ATOMS]
    if not interesting:
        return None
    found = Found()
    for value in interesting:
        if isinstance(value, TaskFuture):
            found.futures[value] = None
        elif _look_into(value, found):
            found.nested = True
    return found if found.futures or found.inputs or found.outputs else None


def _is_container(value: object) -> bool:
    return isinstance(value, (list, tuple, dict, set, frozenset)) or (
        is_dataclass(value) and not isinstance(value, type)
    )


def _look_into(root: object, found: Found) -> bool:
    """Add what a value holds; tell whether it holds futures."""
    futures = False
    seen: set[int] = set()
    stack = [root]
    while stack:
        value = stack.pop()
        if type(value) in _ATOMS:
            continue
        if isinstance(value, TaskFuture):
            found.futures[value] = None
            futures = True
        elif isinstance(value, InputFile):
            found.inputs.append(value)
        elif isinstance(value, OutputFile):
            found.outputs.append(value)
        elif id(value) not in seen:
            seen.add(id(value))
            stack.extend(reversed(list(_members(value))))
    return futures


def _members(value: object) -> Iterable[object]:
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, dict):
        return chain(value.keys(), value.values())
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, item.name, None) for item in fields(value)]
    return ()


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
    if id(value) in memo:
        return memo[id(value)]
    memo[id(value)] = value
    memo[id(value)] = result = _rebuilt_container(value, memo)
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
    if isinstance(value, (list, tuple, set, frozenset)):
        old = list(value)
        new = [_rebuilt(item, memo) for item in old]
        if all(a is b for a, b in zip(old, new, strict=True)):
            return value
        return type(value)(*new) if hasattr(value, "_fields") else type(value)(new)
    changed = {}
    for item in fields(value):
        old_value = getattr(value, item.name, None)
        new_value = _rebuilt(old_value, memo)
        if new_value is not old_value:
            changed[item.name] = new_value
    if not changed:
        return value
    result = copy.copy(value)
    for name, new_value in changed.items():
        object.__setattr__(result, name, new_value)
    return result
