"""Functions that go on from where they were: in another process each call would begin anew."""

from __future__ import annotations

import functools
from collections import deque
from types import BuiltinMethodType, MethodType, MethodWrapperType, ModuleType
from typing import Any

from asyncflow_hpc.errors import SerializationError

from .script_objects import is_kept_by_module

__all__ = ["is_random", "refuse_stateful"]

_GENERATORS = frozenset({
    ("_random", "Random"), ("numpy.random._generator", "Generator"), ("numpy.random.mtrand", "RandomState"),
})  # fmt: skip


def is_random(value: object) -> bool:
    """Tell whether an object is a random generator with a state, of Python's or of numpy."""
    names = [(cls.__module__, cls.__name__) for cls in type(value).__mro__]
    # This one asks the system.
    return ("random", "SystemRandom") not in names and not _GENERATORS.isdisjoint(names)


def refuse_stateful(name: str, function: Any) -> None:
    """Refuse a method that would give the same in every call, since each gets its object as it is in the driver.

    Args:
        name: of the task, for the message.
        function: what is not pickled by reference.

    Raises:
        SerializationError: it is a method of a random generator or iterator, or takes from a container.
    """
    while isinstance(function, functools.partial):
        if function.func is next:
            function = getattr(function.args[0], "__next__", None) if function.args else None
        else:
            function = function.func
    if not isinstance(function, (BuiltinMethodType, MethodType, MethodWrapperType)):
        return
    owner = function.__self__
    if owner is None or isinstance(owner, (type, ModuleType)) or is_kept_by_module(function):
        return
    label, of_c = function.__name__, not isinstance(function, MethodType)
    takes = isinstance(owner, (list, dict, set, deque, bytearray)) and label.startswith("pop")
    if is_random(owner) or takes or label == "__next__" or (of_c and hasattr(type(owner), "__next__")):
        raise SerializationError(
            f"the function of task '{name}' is {type(owner).__name__}.{label}, and each call would get a copy of that"
            f" {type(owner).__name__} as it is in the driver, and give the same: write a function that makes its own,"
            " or call the method in the driver and pass on what it gives"
        )
