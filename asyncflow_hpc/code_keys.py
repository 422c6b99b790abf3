"""What a function or a class does: the parts of its digest are what its author has written, and values it refers to."""

from __future__ import annotations

import enum
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from .bytecode import read_code
from .hashing import ATOMS, Content

__all__ = ["CodeParts", "travels"]

# What Python, or a package, adds to a class by itself: caches, and what follows from the rest.
_MADE = frozenset({
    "__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__",
    "__classdictcell__", "__dataclass_fields__", "__dataclass_params__", "__dict__", "__doc__", "__firstlineno__",
    "__module__", "__non_callable_proto_members__", "__parameters__", "__private_attributes__", "__protocol_attrs__",
    "__qualname__", "__signature__", "__slotnames__", "__static_attributes__", "__weakref__", "_abc_impl",
})  # fmt: skip

# Of a class with __slots__, which names them.
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)

# Of the flags of a class: it was made by a script or module, and is not compiled in.
_OF_HEAP = 1 << 9

_FUNCTIONS = (types.FunctionType, classmethod, staticmethod, property)

_EMPTY = object()

Read = tuple[Callable[[], Any], Any]


def travels(value: Any) -> bool:
    """Return whether a class or function reaches other processes by its content, and not by its name."""
    if value.__module__ == "__main__":
        return True
    if isinstance(value, type) and not value.__flags__ & _OF_HEAP:
        # Of the interpreter, where some, such as that of None, have no place under their names.
        return False
    found: Any = sys.modules.get(value.__module__)
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is not value


class CodeParts:
    """Lists the parts of functions and classes.

    Of what a function names, functions and classes of its own module count by what they do, those of other modules by
    their names, and all else by its value.

    Args:
        asked: what counts beside, for all functions of a walk; see `Reading.asks`.

    Attributes:
        asks: what some function of the walk asks for.
        steady: nothing of it can change without becoming another object.
        reads: how to look again at what was referred to, and what was there.
    """

    def __init__(self, asked: frozenset[str] = frozenset()) -> None:
        self._asked = asked
        self.asks: frozenset[str] = frozenset()
        self.steady = True
        self.reads: list[Read] = []

    def of(self, value: Any) -> Iterator[Any]:
        """List the parts of a function, a class, or whatever else can be called."""
        if isinstance(value, types.FunctionType):
            return self._of_function(value)
        if isinstance(value, type):
            return self._of_class(value)
        self.steady = False
        return iter(("callable", value))

    def _of_function(self, function: types.FunctionType) -> Iterator[Any]:
        inner = getattr(function, "__wrapped__", None)
        home = str(function.__globals__.get("__name__"))
        if inner is not None and home.startswith("asyncflow_hpc."):
            # A task that another function calls.
            yield from ("task", Content(inner))
            return
        more = vars(function)
        if home == "functools" and isinstance(more.get("registry"), types.MappingProxyType):
            # Made by singledispatch; what else it holds is a cache.
            self.steady = False
            yield from ("singledispatch", *self._pairs(more["registry"].items(), function))
            return
        code = function.__code__
        reading = read_code(code)
        self.asks |= reading.asks
        for place in ("__code__", "__defaults__", "__kwdefaults__"):
            self.reads.append((functools.partial(getattr, function, place), getattr(function, place)))
        yield from ("function", function.__name__, reading.digest)
        yield from [self._named(value, function) for value in function.__defaults__ or ()]
        yield from self._pairs(sorted((function.__kwdefaults__ or {}).items()), function)
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        for name in reading.free:
            yield from self._read(name, functools.partial(_content_of, cells[name]), function)
        for name in reading.globals:
            yield from self._read(name, functools.partial(function.__globals__.get, name, _EMPTY), function)
        if more:
            self.steady = False
            yield from self._pairs(sorted(more.items()), function)
        if isinstance(inner, types.FunctionType) and inner.__globals__ is not function.__globals__:
            # A decorator from elsewhere may have looked at them.
            yield from self._annotations(inner)
        if "docstrings" in self._asked:
            yield function.__doc__
        if "annotations" in self._asked:
            yield from self._annotations(function)

    def _pairs(self, items: Any, around: Any) -> Iterator[Any]:
        for name, value in items:
            yield self._named(name, around)
            yield self._named(value, around)

    def _read(self, name: str, read: Callable[[], Any], around: types.FunctionType) -> Iterator[Any]:
        value = read()
        self.reads.append((read, value))
        if value is _EMPTY:
            # A builtin, or not yet set.
            yield from ("outside", name)
            return
        # What may change is told apart by its name from what is only equal.
        local = name in around.__code__.co_freevars
        if "names" in self._asked or (local and "cells" in self._asked) or not _is_fixed(value, local):
            yield name
        yield self._named(value, around)

    def _named(self, value: Any, around: Any) -> Any:
        if isinstance(value, (types.FunctionType, type)):
            if _own(value, around) or hasattr(value, "__wrapped__"):
                return Content(value)
            return f"{value.__module__}.{value.__qualname__}"
        self.steady = self.steady and (type(value) in ATOMS or isinstance(value, types.ModuleType))
        return value

    def _annotations(self, owner: Any) -> Iterator[Any]:
        try:
            found = inspect.get_annotations(owner)
        except Exception:
            # Since 3.14 they are evaluated when they are read.
            found = {"": getattr(owner, "__annotate__", None)}
        yield from ("annotations", *self._pairs(found.items(), owner))

    def _of_class(self, kind: type) -> Iterator[Any]:
        # It may change without becoming another one.
        self.steady = False
        yield from ("class", kind.__qualname__)
        yield from [self._named(base, kind) for base in (type(kind), *kind.__bases__)]
        yield from self._annotations(kind)
        if "docstrings" in self._asked:
            yield kind.__doc__
        members: dict[str, Any] = getattr(kind, "__members__", {}) if issubclass(kind, enum.Enum) else {}
        yield from self._pairs(((name, member.value) for name, member in members.items()), kind)
        space = dict(vars(kind))
        if "__dataclass_fields__" in space:
            yield repr(space["__dataclass_params__"])
            for field in space["__dataclass_fields__"].values():
                yield from self._pairs(_of_field(field), kind)
        if "__pydantic_decorators__" in space:
            yield from self._pairs(_of_model(space), kind)
        for name, value in sorted(space.items()):
            if name in _MADE or name in members or _is_slot(value) or _is_machinery(kind, name, value):
                continue
            yield name
            yield self._named(value, kind)


def _is_machinery(kind: type, name: str, value: Any) -> bool:
    """Return whether an attribute of a class was made by a package, and not by the body of the class."""
    if issubclass(kind, enum.Enum) and name[:1] == name[-1:] == "_" and name not in ("_boundary_", "__slots__"):
        return not isinstance(value, _FUNCTIONS)
    if getattr(kind, "_is_protocol", None) is not None and name in ("__init__", "__subclasshook__"):
        # The first instance of a class gets it from one of its bases.
        inherited = any(vars(base).get(name) is value for base in kind.__mro__[1:])
        return inherited or getattr(value, "__module__", None) == "typing"
    return name.startswith("__pydantic_")


def _is_slot(value: object) -> bool:
    # A structure of ctypes names them in _fields_.
    return isinstance(value, _SLOTS) or type(value).__name__ == "CField"


def _of_field(field: Any) -> Iterator[tuple[str, Any]]:
    """List what a field of a dataclass was given; its type is among the annotations."""
    for name in ("name", "init", "repr", "hash", "compare", "kw_only", "default", "default_factory", "metadata"):
        yield name, getattr(field, name, None)
    yield "kind", field._field_type.name


def _of_model(space: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """List what the class body of a pydantic model has given, apart from annotations and functions."""
    for name, field in space.get("__pydantic_fields__", {}).items():
        yield "field", name
        for slot in sorted(type(field).__slots__):
            if not slot.startswith("_") and slot != "annotation":
                yield slot, getattr(field, slot, None)
    for name, attribute in (space.get("__private_attributes__") or {}).items():
        yield name, (attribute.default, attribute.default_factory)
    decorators = space["__pydantic_decorators__"]
    for group in type(decorators).__dataclass_fields__:
        found = getattr(decorators, group)
        for name, decorator in found.items() if isinstance(found, dict) else ():
            yield (group, name), decorator.info


def _content_of(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY


def _is_fixed(value: Any, local: bool) -> bool:
    """Return whether two equal values under two names could as well be one."""
    if isinstance(value, (types.ModuleType, types.BuiltinFunctionType)):
        return True
    if isinstance(value, (types.FunctionType, type)):
        return local or not travels(value)
    return local and (
        type(value) in ATOMS or (isinstance(value, (tuple, frozenset)) and all(_is_fixed(item, True) for item in value))
    )


def _own(value: Any, around: Any) -> bool:
    if travels(value) or value.__module__ == around.__module__:
        return True
    space = getattr(around, "__globals__", None)
    return space is not None and getattr(value, "__globals__", None) is space
