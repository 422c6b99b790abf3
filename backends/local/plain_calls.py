"""Which calls cannot reach the state of the process that runs them, so that they need none of their own.

A function works on what its code can name. One that names only numbers, texts, a few builtins and others like itself,
and that gets only such values, has no way to a module, a file, or anything else that outlives it.
"""

from __future__ import annotations

import builtins
import cmath
import dis
import math
import sys
from collections.abc import Callable, Iterable
from types import CodeType, FunctionType
from typing import Any

__all__ = ["PlainFunctions", "are_plain"]

_SCALARS = frozenset({int, float, str, bytes, bool, type(None), complex})
_FLAT = frozenset({list, tuple, set, frozenset})

# Values in an argument that are looked at: more would cost more than a process.
_MOST = 1000

_MODULES = (math, cmath)
_PLAIN_BUILTINS = """
    abs all any ascii bin bool bytearray bytes chr complex dict divmod enumerate filter float format frozenset hash hex
    int isinstance issubclass iter len list map max min next oct ord pow range repr reversed round set slice sorted str
    sum tuple zip
"""
_BUILTINS = {name: getattr(builtins, name) for name in _PLAIN_BUILTINS.split()}
_BUILTINS |= {
    name: kind for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
}

# Operations that change, or find, what is not the call's own.
_FOREIGN = ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_ATTR", "DELETE_ATTR", "IMPORT", "BUILD_CLASS", "SETUP_ANNOTATIONS")
# Attributes that lead from an object of Python's own to all others.
_WAYS_OUT = ("_", "f_", "tb_", "gi_", "cr_", "ag_", "co_", "func_")


def are_plain(values: Iterable[Any]) -> bool:
    """Tell whether arguments are numbers, texts, or flat collections of few of them."""
    return all(type(value) in _SCALARS or _is_flat(value) for value in values)


def _is_flat(value: Any) -> bool:
    if type(value) is dict:
        return len(value) <= _MOST and _SCALARS.issuperset(map(type, [*value, *value.values()]))
    return type(value) in _FLAT and len(value) <= _MOST and _SCALARS.issuperset(map(type, value))


class PlainFunctions:
    """Remembers which functions are plain, by their numbers; see `pickling.FunctionPickles`."""

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}

    def holds(self, number: int, function: Callable[..., Any]) -> bool:
        """Tell whether the function of a number is plain; one without, which may change, is not."""
        if number == 0:
            return False
        known = self._known.get(number)
        if known is None:
            known = self._known[number] = _is_plain(function, set())
        return known


def _is_plain(function: Any, seen: set[int]) -> bool:
    if id(function) in seen:
        return True
    if type(function) is not FunctionType or function.__dict__ or not _by_value(function):
        return False
    seen.add(id(function))
    try:
        annotated = list(function.__annotations__.values())
        around = [cell.cell_contents for cell in function.__closure__ or ()]
    except Exception:
        return False
    if not all(type(value) is str or value is None or value in _BUILTINS.values() for value in annotated):
        return False
    values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    if not all(type(value) in _SCALARS for value in values):
        return False
    if not all(type(value) in _SCALARS or _is_plain(value, seen) for value in around):
        return False
    code = function.__code__
    return _code_is_plain(code, frozenset(code.co_freevars), function.__globals__, seen)


def _by_value(function: FunctionType) -> bool:
    """Tell whether a function is pickled by value: by reference it brings its module, which may do anything."""
    if function.__module__ is None:
        return False
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return function.__module__ == "__main__" or found is not function


def _code_is_plain(code: CodeType, around: frozenset[str], variables: dict[str, Any], seen: set[int]) -> bool:
    """Tell whether code, and that of functions in it, is plain, given the names of variables that outlive it."""
    for instruction in dis.get_instructions(code):
        operation, name = instruction.opname, instruction.argval
        if any(word in operation for word in _FOREIGN):
            return False
        if operation in ("STORE_DEREF", "DELETE_DEREF") and name in around:
            return False
        if operation in ("LOAD_GLOBAL", "LOAD_NAME"):
            if not _is_safe(name, variables, seen):
                return False
        elif isinstance(name, str) and name in code.co_names and name.startswith(_WAYS_OUT):
            return False
    inner = [value for value in code.co_consts if isinstance(value, CodeType)]
    return all(_code_is_plain(value, around, variables, seen) for value in inner)


def _is_safe(name: str, variables: dict[str, Any], seen: set[int]) -> bool:
    if name not in variables:
        return name in _BUILTINS
    value = variables[name]
    return type(value) in _SCALARS or any(value is module for module in _MODULES) or _is_plain(value, seen)
