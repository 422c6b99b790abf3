"""What a function does, as a digest: its code, and all that it brings along from the script."""

from __future__ import annotations

import dis
import functools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from .keys import ATOMS, KeyOf, Seen, digest, joined

__all__ = ["CodeKeys", "digest_of_code", "travels"]

_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})

# What Python adds to a class by itself, and what says nothing of what it does.
_OF_CLASSES = frozenset({
    "__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__",
    "__classdictcell__", "__dataclass_fields__", "__dataclass_params__", "__dict__", "__doc__", "__firstlineno__",
    "__module__", "__static_attributes__", "__weakref__", "_abc_impl",
})  # fmt: skip


def travels(value: Any) -> bool:
    """Tell whether a class or function reaches other processes by its content, and not by its name."""
    if value.__module__ == "__main__":
        return True
    found: Any = sys.modules.get(value.__module__)
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is not value


def digest_of_code(value: Any, key_of: KeyOf = lambda future: future.uid, seen: Seen | None = None) -> str:
    """Return the digest of what a function or a class does: code, defaults, closure, and what it names.

    Of what it names, functions and classes of its own module count by what they do, those of other modules by their
    names, and all else by its value.

    Raises:
        Unkeyable: a value has no digest.
    """
    walk = _Walk(key_of, Seen() if seen is None else seen)
    walk.add(value)
    return joined(walk.found)


class CodeKeys:
    """Digests of functions, each made once as long as nothing that it refers to can have changed."""

    def __init__(self) -> None:
        self._known: dict[types.FunctionType, tuple[str, list[_Read]]] = {}

    def get(self, function: Any) -> str:
        """Return the digest of a function as it is now; see `digest_of_code`."""
        if not isinstance(function, types.FunctionType):
            return digest_of_code(function)
        known = self._known.get(function)
        if known is not None and all([read() is value for read, value in known[1]]):
            return known[0]
        walk = _Walk(lambda future: future.uid, Seen())
        walk.add(function)
        made = joined(walk.found)
        if walk.steady:
            self._known[function] = made, walk.reads
        return made


_Read = tuple[Callable[[], Any], Any]


class _Walk:
    """Goes through a function and what it refers to.

    Attributes:
        found: digests, in order.
        steady: nothing of it can change without becoming another object.
        reads: how to look again at what it refers to, and what was there.
    """

    def __init__(self, key_of: KeyOf, seen: Seen) -> None:
        self._key_of = key_of
        self._seen = seen
        self.found: list[str] = []
        self.steady = True
        self.reads: list[_Read] = []

    def add(self, value: Any) -> None:
        """Add a function, a class, or whatever else can be called."""
        if isinstance(value, types.FunctionType):
            self._add_function(value)
        elif isinstance(value, type):
            self._add_class(value)
        else:
            self._add_value(value)

    def _add_function(self, function: types.FunctionType) -> None:
        inner = getattr(function, "__wrapped__", None)
        if inner is not None and str(function.__globals__.get("__name__")).startswith("asyncflow_hpc."):
            # A task that another function calls.
            self.add(inner)
            return
        if not self._is_new(function):
            return
        code = function.__code__
        self.found.append(_digest_of_code_object(code))
        for place in ("__code__", "__defaults__", "__kwdefaults__"):
            self.reads.append((functools.partial(getattr, function, place), getattr(function, place)))
        for name, value in [*enumerate(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())]:
            self._add_named(str(name), value, function)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            self._add_read(name, functools.partial(_content_of, cell), function)
        for name in _globals_of(code):
            if name in function.__globals__:
                self._add_read(name, functools.partial(function.__globals__.get, name), function)
        for name, value in sorted(vars(function).items()):
            self.steady = False
            self._add_named(name, value, function)

    def _is_new(self, value: Any) -> bool:
        number = self._seen.number(value)
        if number is not None:
            self.found.append(f"again{number}")
        return number is None

    def _add_read(self, name: str, read: Callable[[], Any], around: Any) -> None:
        value = read()
        self.reads.append((read, value))
        if value is not _EMPTY:
            self._add_named(name, value, around)

    def _add_named(self, name: str, value: Any, around: Any) -> None:
        self.found.append(name)
        if isinstance(value, (types.FunctionType, type)) and (_own(value, around) or hasattr(value, "__wrapped__")):
            self.add(value)
        elif isinstance(value, (types.FunctionType, type)):
            self.found.append(f"{value.__module__}.{value.__qualname__}")
        else:
            self._add_value(value)

    def _add_value(self, value: Any) -> None:
        if isinstance(value, (staticmethod, classmethod)):
            self.add(value.__func__)
        elif isinstance(value, property):
            for part in (value.fget, value.fset, value.fdel):
                self.add(part)
        elif isinstance(value, functools.cached_property):
            self.add(value.func)
        elif isinstance(value, functools._lru_cache_wrapper):
            self.add(value.__wrapped__)
        else:
            self.steady = self.steady and (type(value) in ATOMS or isinstance(value, types.ModuleType))
            self.found.append(digest(value, self._key_of, self._seen))

    def _add_class(self, kind: type) -> None:
        # It may change without becoming another one.
        self.steady = False
        if not self._is_new(kind):
            return
        self.found.append(kind.__qualname__)
        for base in (type(kind), *kind.__bases__):
            self._add_named("base", base, kind)
        for name, value in sorted(vars(kind).items()):
            if name not in _OF_CLASSES and not isinstance(value, _SLOTS):
                self._add_named(name, value, kind)


_EMPTY = object()

# Of a class with __slots__, which names them.
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)


def _content_of(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY


def _own(value: Any, around: Any) -> bool:
    if travels(value) or value.__module__ == around.__module__:
        return True
    space = getattr(around, "__globals__", None)
    return space is not None and getattr(value, "__globals__", None) is space


@functools.lru_cache(maxsize=4096)
def _globals_of(code: types.CodeType) -> tuple[str, ...]:
    return tuple(sorted(set(_names_in(code))))


def _names_in(code: types.CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in _GLOBAL:
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _digest_of_code_object(code: types.CodeType) -> str:
    # Neither file nor line numbers: a comment above it changes nothing.
    parts = [
        digest((code.co_code, getattr(code, "co_exceptiontable", b""), code.co_flags)),
        digest((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)),
    ]
    for names in (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars):
        parts.append(digest(names))
    for constant in code.co_consts:
        inner = isinstance(constant, types.CodeType)
        parts.append(_digest_of_code_object(constant) if inner else digest(constant))
    return joined(parts)
