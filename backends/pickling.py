"""Calls and results on their way between a driver and a process that runs functions for it."""

from __future__ import annotations

import dis
import io
import itertools
import logging
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar
from enum import Enum
from functools import cached_property
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import cloudpickle

from asyncflow_hpc.errors import SerializationError

from .script_objects import (
    LRU_CACHE,
    TYPES,
    is_by_value,
    reduce_cache,
    reduce_cached_property,
    reduce_class,
    reduce_exception,
    reduce_function,
    reduce_member,
    reduce_method,
    reduce_type,
)
from .stateful import is_random, refuse_stateful

__all__ = ["FunctionPickles", "dump_arguments", "dump_context", "dump_to", "dump_value", "forked"]

log = logging.getLogger(__name__)

_PLAIN = frozenset({int, float, str, bytes, bool, type(None), complex})
_STEADY = frozenset({*_PLAIN, range})
_STORE_GLOBAL, _STORE_DEREF = dis.opmap["STORE_GLOBAL"], dis.opmap["STORE_DEREF"]

_WEAK = (WeakKeyDictionary, WeakValueDictionary)
_SPECIAL = (
    type, FunctionType, Enum, BuiltinFunctionType, MethodType, BaseException, LRU_CACHE, *TYPES, cached_property,
    ContextVar, CodeType, *_WEAK,
)  # fmt: skip


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Cloudpickle, and context variables, which keep their identity within a process, and the file names of code.

    Args:
        returning: a result is pickled, in which classes and functions of the script are named.

    Attributes:
        generators: classes of the random generators that were pickled; None where nobody asks.
    """

    def __init__(self, stream: Any, returning: bool) -> None:
        super().__init__(stream)
        self._returning = returning
        # By id, since a metaclass may say what is equal; they live as long as this does.
        self._ordinary: set[int] = set()
        self.generators: set[str] | None = None

    def reducer_override(self, obj: Any) -> Any:
        if self.generators is not None and is_random(obj):
            self.generators.add(type(obj).__name__)
        kind = id(type(obj))
        if kind in self._ordinary:
            return NotImplemented
        if not isinstance(obj, _SPECIAL):
            self._ordinary.add(kind)
            return NotImplemented
        if isinstance(obj, type):
            return reduce_class(obj, self._returning) if is_by_value(obj) else super().reducer_override(obj)
        if isinstance(obj, FunctionType):
            reduced = super().reducer_override(obj)
            return reduced if reduced is NotImplemented else reduce_function(obj, self._returning, reduced)
        if isinstance(obj, Enum):
            return reduce_member(obj)
        if isinstance(obj, (BuiltinFunctionType, MethodType)):
            return reduce_method(obj)
        if isinstance(obj, BaseException):
            return reduce_exception(obj)
        if isinstance(obj, LRU_CACHE):
            return reduce_cache(obj, self._returning)
        if isinstance(obj, TYPES):
            return reduce_type(obj, self._returning)
        if isinstance(obj, cached_property):
            return reduce_cached_property(obj)
        if isinstance(obj, ContextVar):
            return _reduce_variable(obj)
        if isinstance(obj, CodeType):
            make, args = self.dispatch_table[CodeType](obj)
            return _code, (obj.co_filename, make, args)
        return (type(obj), (), None, None, iter(list(obj.items()))) if type(obj) in _WEAK else NotImplemented


def dump_value(value: Any) -> bytes:
    """Pickle a result, functions and classes of the main script included: the process that has them gets its own."""
    return _dumped(value, returning=True)


def _dumped(value: Any, *, returning: bool = False) -> bytes:
    if type(value) in _PLAIN:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    buffer = io.BytesIO()
    _dump(_Pickler(buffer, returning), value)
    return buffer.getvalue()


def dump_to(stream: Any, value: Any) -> None:
    """Pickle as `dump_value` does, to a stream, so that a large value is not held twice.

    Args:
        stream: an object with a method `write`.
    """
    _dump(_Pickler(stream, returning=True), value)


def _dump(pickler: _Pickler, value: Any) -> None:
    try:
        pickler.dump(value)
    except Exception:
        raise
    except BaseException as error:
        # A method of the value, which must not end who has called this.
        raise pickle.PicklingError(f"to pickle it raises {type(error).__name__}") from error


def dump_arguments(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    """Pickle the arguments of a call.

    Args:
        name: of the task, for the message.

    Raises:
        SerializationError: names the argument that cannot be pickled.
    """
    types = {*map(type, args), *map(type, kwargs.values())} if kwargs else set(map(type, args))
    if types <= _PLAIN:
        return pickle.dumps((args, dict(kwargs)), pickle.HIGHEST_PROTOCOL)
    try:
        return _dumped((args, dict(kwargs)))
    except Exception as error:
        for place, value in itertools.chain(((f"number {i}", v) for i, v in enumerate(args, 1)), kwargs.items()):
            _refuse_unpicklable(f"argument {place!r} of task '{name}'", value)
        raise SerializationError(f"the arguments of task '{name}' cannot be pickled together: {error}") from error


def _refuse_unpicklable(what: str, value: Any) -> None:
    try:
        _dumped(value)
    except Exception as error:
        raise SerializationError(
            f"{what} is a {type(value).__name__}, which cannot be pickled and so cannot reach another process: {error}"
        ) from error


def dump_context(context: Context) -> list[tuple[bytes, bytes]]:
    """Pickle context variables and their values, leaving out what cannot be and what is the engine's own."""
    carried = []
    for variable, value in context.items():
        if variable.name.startswith("asyncflow_hpc_"):
            continue
        try:
            carried.append((_dumped(variable), _dumped(value)))
        except Exception:
            continue
    return carried


_process = os.urandom(16).hex()
_sent: dict[ContextVar[Any], tuple[str, ...]] = {}
_received: dict[tuple[str, ...], ContextVar[Any]] = {}


def forked() -> None:
    """Note that this process is a fork: the context variables that it makes are not those of its siblings."""
    global _process
    _process = os.urandom(16).hex()


def _reduce_variable(variable: ContextVar[Any]) -> Any:
    key = _sent.get(variable)
    if key is None:
        key = _sent[variable] = _home_of(variable) or (_process, str(len(_sent)), variable.name)
        _received[key] = variable
    default: tuple[Any, ...] = ()
    try:
        default = (Context().run(variable.get),)
    except LookupError:
        pass
    return _variable, (key, default)


def _home_of(variable: ContextVar[Any]) -> tuple[str, ...] | None:
    for name, module in list(sys.modules.items()):
        # By its name, since multiprocessing lists the main module a second time.
        if getattr(module, "__name__", None) != name or name == "__main__":
            continue
        for attribute, value in list(vars(module).items()):
            if value is variable:
                return (name, attribute)
    return None


def _variable(key: tuple[str, ...], default: tuple[Any, ...]) -> ContextVar[Any]:
    variable = _received.get(key)
    if variable is None:
        if len(key) == 2:
            __import__(key[0])
            variable = getattr(sys.modules[key[0]], key[1])
        else:
            variable = ContextVar(key[2], default=default[0]) if default else ContextVar(key[2])
        assert isinstance(variable, ContextVar)
        _received[key] = variable
        _sent[variable] = key
    return variable


def _code(filename: str, make: Callable[..., CodeType], args: tuple[Any, ...]) -> CodeType:
    # From 3.1.3 on, cloudpickle writes "<dynamic-code>" in its place, and a traceback would not say where it is.
    return make(*args).replace(co_filename=filename)


class FunctionPickles:
    """Pickled functions, each pickled once as long as nothing that it refers to can have changed.

    A function of the main script or of another function crosses by value, which is slow, and so does what it refers
    to. It is pickled again for each call when that holds anything mutable, so that every call sees it as it is.
    """

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Any, tuple[int, bytes, tuple[Any, ...]]] = WeakKeyDictionary()
        self._names: WeakKeyDictionary[Any, frozenset[str] | None] = WeakKeyDictionary()
        self._warned: set[str] = set()
        self._numbers = itertools.count(1)

    def get(self, name: str, func: Callable[..., Any]) -> tuple[int, bytes]:
        """Pickle a function.

        Args:
            name: of the task, for the message.
            func: the function.

        Returns:
            A number and the pickle. Equal numbers mean the same pickle; 0 means that it must not be kept.

        Raises:
            SerializationError: it cannot be pickled.
        """
        found = self._references(func, set())
        if found is None:
            return 0, self._dump(name, func)
        # One that calls itself would keep itself.
        references = tuple([value for value in found if value is not func])
        known = self._known.get(func)
        if known is not None and _same(known[2], references):
            return known[:2]
        number, data = next(self._numbers), self._dump(name, func)
        self._known[func] = (number, data, references)
        return number, data

    def _dump(self, name: str, func: Callable[..., Any]) -> bytes:
        refuse_stateful(name, func)
        try:
            buffer = io.BytesIO()
            pickler = _Pickler(buffer, returning=False)
            pickler.generators = set()
            _dump(pickler, func)
            if pickler.generators and name not in self._warned:
                self._warned.add(name)
                log.warning(
                    "the function of task '%s' takes a random generator of the script along (%s): each call gets a"
                    " copy of it as it is in the driver, and so the same numbers; make one in the function, from a seed"
                    " among its arguments",
                    name,
                    ", ".join(sorted(pickler.generators)),
                )
            return buffer.getvalue()
        except Exception as error:
            closure = getattr(func, "__closure__", None) or ()
            names = func.__code__.co_freevars if isinstance(func, FunctionType) else ()
            for variable, cell in zip(names, closure, strict=False):
                if cell != CellType():
                    what = f"variable '{variable}', which the function of task '{name}' uses,"
                    _refuse_unpicklable(what, cell.cell_contents)
            raise SerializationError(f"the function of task '{name}' cannot be pickled: {error}") from error

    def _references(self, func: Any, seen: set[int]) -> tuple[Any, ...] | None:
        """List what a function refers to, or None if some of it may change without becoming another object."""
        if _by_reference(func):
            return ()
        if not isinstance(func, FunctionType) or func.__dict__:
            return None
        names = self._global_names(func)
        if names is None:
            return None
        seen.add(id(func))
        try:
            cells = [cell.cell_contents for cell in func.__closure__ or ()]
        except ValueError:
            return None
        direct = [func.__globals__.get(name) for name in names]
        direct += [*cells, *(func.__defaults__ or ()), *(func.__kwdefaults__ or {}).values()]
        references = [func.__code__, *direct]
        for value in direct:
            if type(value) in _STEADY or _by_reference(value) or id(value) in seen:
                continue
            deeper = self._references(value, seen)
            if deeper is None:
                return None
            references += deeper
        return tuple(references)

    def _global_names(self, func: FunctionType) -> frozenset[str] | None:
        code = func.__code__
        if code not in self._names:
            self._names[code] = _names_in(code)
        return self._names[code]


def _names_in(code: CodeType) -> frozenset[str] | None:
    """Collect the names that code reads; None if it writes a global or a variable around it."""
    operations = code.co_code[::2]
    if _STORE_GLOBAL in operations or (code.co_freevars and _STORE_DEREF in operations):
        return None
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = _names_in(constant)
            if inner is None:
                return None
            names |= inner
    return frozenset(names)


def _by_reference(value: Any) -> bool:
    """Tell whether a class, function or module is pickled as its module and name."""
    if isinstance(value, BuiltinFunctionType):
        # A method of an object, such as `table.get`, takes the object along.
        value = value.__self__
    if isinstance(value, ModuleType):
        return sys.modules.get(value.__name__) is value
    module = getattr(value, "__module__", None)
    if not isinstance(value, (type, FunctionType)) or module in (None, "__main__"):
        return False
    return getattr(sys.modules.get(str(module)), value.__qualname__, None) is value


def _same(old: tuple[Any, ...], new: tuple[Any, ...]) -> bool:
    return len(old) == len(new) and all(a is b for a, b in zip(old, new, strict=True))
