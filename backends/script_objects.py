"""Classes and functions of a script on their way: by value to another process, as the script's own back to it.

A process that runs functions cannot import the script, so its classes and functions go there by value. What comes back,
now or after a resume, refers to them by name, so that the script gets its own, and nothing in it is changed.
"""

from __future__ import annotations

import abc
import copyreg
import enum
import functools
import operator
import pickle
import sys
import threading
import types
import typing
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from cloudpickle import cloudpickle

__all__ = [
    "LRU_CACHE", "TYPES", "is_by_value", "is_kept_by_module", "reduce_cache", "reduce_cached_property", "reduce_class",
    "reduce_exception", "reduce_function", "reduce_member", "reduce_method", "reduce_type",
]  # fmt: skip

# Module, path within it, and qualified name.
_Home = tuple[str, str, str]

LRU_CACHE = type(functools.lru_cache(len))

# Set in the flags of a class that was not made in C.
_HEAP_TYPE = 1 << 9

_lock = threading.RLock()
_keys: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_known: WeakValueDictionary[str, Any] = WeakValueDictionary()
# What was received here, and where its sender has it.
_received: WeakKeyDictionary[Any, _Home | None] = WeakKeyDictionary()


def _key(thing: Any) -> str:
    with _lock:
        key = _keys.get(thing)
        if key is None:
            key = _keys[thing] = uuid.uuid4().hex
            _known[key] = thing
        return key


def _receive(thing: Any, key: str, home: _Home | None) -> Any:
    _keys[thing] = key
    _known[key] = thing
    _received[thing] = home
    return thing


def _home(thing: Any) -> _Home | None:
    if thing in _received:
        return _received[thing]
    name, qualname = getattr(thing, "__module__", None), thing.__qualname__
    module = sys.modules.get(name) if isinstance(name, str) else None
    if not isinstance(name, str) or not isinstance(module, types.ModuleType):
        return None
    if _found(module, qualname) is thing:
        return name, qualname, qualname
    # A named tuple may have another name than its variable.
    for path, value in list(vars(module).items()):
        if value is thing:
            return name, path, qualname
    return None


def _found(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def _own(key: str, name: str, path: str, qualname: str) -> Any:
    """Return the class or function of this process that was sent to the one that refers to it."""
    known = _known.get(key)
    if known is not None:
        return known
    if name not in sys.modules:
        __import__(name)
    thing = _found(sys.modules[name], path)
    if getattr(thing, "__module__", None) != name or getattr(thing, "__qualname__", None) != qualname:
        raise pickle.UnpicklingError(f"module {name!r} has no {path!r} any more")
    return thing


def is_by_value(cls: type) -> bool:
    """Tell whether another process cannot import a class."""
    return bool(cls.__flags__ & _HEAP_TYPE) and not cloudpickle._should_pickle_by_reference(cls)


def reduce_class(cls: Any, returning: bool) -> Any:
    """Reduce a class that is not pickled by reference.

    Args:
        cls: the class.
        returning: it is part of a result.
    """
    generic = cls.__dict__.get("__pydantic_generic_metadata__")
    if generic and generic["origin"] is not None:
        return operator.getitem, (generic["origin"], generic["args"])
    home = _home(cls)
    if returning and home is not None:
        return _own, (_key(cls), *home)
    state = cloudpickle._class_getstate(cls)[0]
    namespace = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    slots = cls.__dict__.get("__slots__")
    if slots is not None:
        namespace["__slots__"] = slots if isinstance(slots, (str, dict)) else tuple(slots)
        state.pop("__slots__", None)
    for name, value in list(state.items()):
        if isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls:
            del state[name]
    if isinstance(cls.__dict__.get("__dict__"), property):
        namespace["__dict__"] = cls.__dict__["__dict__"]
    members: list[Any] = []
    if isinstance(cls, enum.EnumMeta):
        members = _take_members(cls, state)
    if "__orig_bases__" in state:
        namespace["__orig_bases__"] = state["__orig_bases__"]
    made = _member_base(cls), [member[:2] for member in members]
    args = (_key(cls), home, type(cls), cls.__name__, cls.__bases__, namespace, made)
    attributes = [(name, values) for name, _, values in members]
    return _class, args, (state, attributes, returning), None, None, _fill


def _class(
    key: str,
    home: _Home | None,
    meta: Any,
    name: str,
    bases: tuple[Any, ...],
    namespace: dict[str, Any],
    members: tuple[Any, list[tuple[str, tuple[Any, ...]]]],
) -> Any:
    """Return the class with a key; where there is none, make one, to be filled."""
    with _lock:
        known = _known.get(key)
        if known is not None:
            return known
        with _without_hooks(bases):
            cls = types.new_class(name, bases, {"metaclass": _maker(meta)}, lambda into: into.update(namespace))
        if issubclass(meta, enum.EnumMeta):
            base, made = members
            type.__setattr__(cls, "_member_map_", {label: base.__new__(cls, *args) for label, args in made})
        return _receive(cls, key, home)


def _maker(meta: Any) -> Any:
    """Find what makes a class of a metaclass without the code of a script, which ran when the script made it."""
    base = next(each for each in meta.__mro__ if each not in _keys)
    if issubclass(meta, enum.EnumMeta) or base.__module__ in ("typing", "typing_extensions"):
        # These want the body of the class.
        return functools.partial(_make, meta)
    return meta if base is meta else functools.partial(base.__new__, meta)


def _make(meta: Any, name: str, bases: tuple[Any, ...], namespace: dict[str, Any]) -> Any:
    cls = type.__new__(meta, name, bases, dict(namespace))
    if issubclass(meta, abc.ABCMeta):
        abc._abc_init(cls)  # type: ignore[attr-defined]
    return cls


@contextmanager
def _without_hooks(bases: tuple[Any, ...]) -> Iterator[None]:
    """Keep `__init_subclass__` of received classes from running a second time."""
    name = "__init_subclass__"
    hooks = {
        each: each.__dict__[name]
        for base in bases
        for each in getattr(base, "__mro__", ())
        if each in _received and name in each.__dict__
    }
    for each in hooks:
        type.__delattr__(each, name)
    try:
        yield
    finally:
        for each, hook in hooks.items():
            type.__setattr__(each, name, hook)


_filled: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _fill(cls: Any, content: tuple[dict[str, Any], list[tuple[str, dict[str, Any]]], bool]) -> None:
    """Give a received class its attributes; a class of this process keeps its own."""
    state, attributes, returning = content
    if cls not in _received or (returning and cls in _filled):
        return
    _filled[cls] = True
    for label, values in attributes:
        member = cls.__dict__["_member_map_"][label]
        for name, value in values.items():
            object.__setattr__(member, name, value)
    virtual = state.pop("_abc_impl", ())
    for name, value in state.items():
        type.__setattr__(cls, name, value)
    if "__firstlineno__" in state:
        # Setting `__module__` removes it.
        type.__setattr__(cls, "__firstlineno__", state["__firstlineno__"])
    for each in virtual:
        cls.register(each)


def _take_members(cls: Any, state: dict[str, Any]) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """List the members of an enum: name, arguments of `__new__`, attributes."""
    named = cls._member_map_
    own = {id(member) for member in named.values()}
    values = state.get("_value2member_map_", {})
    # Those that have no name are combinations of others, and are made when they are asked for.
    state["_value2member_map_"] = {value: member for value, member in values.items() if id(member) in own}
    base = _member_base(cls)
    members = []
    for name, member in named.items():
        if member._name_ != name:
            continue
        args: tuple[Any, ...] = ()
        if base is not object:
            make, args = base.__reduce_ex__(member, 4)[:2]
            args = args[1:] if make is copyreg.__newobj__ else args  # type: ignore[attr-defined]
        members.append((name, args, dict(member.__dict__)))
    return members


def _member_base(cls: Any) -> Any:
    return cls.__dict__.get("_member_type_", object)


def reduce_member(member: Any) -> Any:
    """Reduce a member of an enum to its name, or return NotImplemented where it has none."""
    cls = type(member)
    name = getattr(member, "_name_", None)
    if cls.__dict__["_member_map_"].get(name) is not member or cloudpickle._should_pickle_by_reference(cls):
        return NotImplemented
    return _member, (cls, name)


def _member(cls: Any, name: str) -> Any:
    members = cls.__dict__.get("_member_map_", {})
    if name not in members:
        raise pickle.UnpicklingError(f"{cls.__qualname__} has no member {name!r} any more")
    return members[name]


def reduce_function(function: Any, returning: bool, reduced: tuple[Any, ...]) -> Any:
    """Reduce a function that is not pickled by reference.

    Args:
        function: the function.
        returning: it is part of a result.
        reduced: what cloudpickle makes of it.
    """
    if function.__globals__ is vars(functools) and hasattr(function, "registry"):
        registry = dict(function.registry)
        reduced = (functools.singledispatch, (registry[object],), registry, None, None, _register)
    return _with_home(function, returning, reduced)


def _register(function: Any, registry: dict[type, Callable[..., Any]]) -> None:
    for cls, implementation in registry.items():
        function.register(cls, implementation)


def reduce_cache(cache: Any, returning: bool) -> Any:
    """Reduce a function of `functools.lru_cache`; what it has cached stays here."""
    if cloudpickle._lookup_module_and_qualname(cache) is not None:
        return NotImplemented
    parameters = cache.cache_parameters()
    args = (cache.__wrapped__, parameters["maxsize"], parameters["typed"])
    return _with_home(cache, returning, (_lru_cache, args, dict(cache.__dict__)))


def _lru_cache(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def reduce_cached_property(prop: Any) -> Any:
    """Reduce a `functools.cached_property`, which holds a lock before Python 3.12."""
    return type(prop), (prop.func,), {"attrname": prop.attrname, "__doc__": prop.__doc__}


# These would go by the name that they have in the script.
TYPES = tuple(
    getattr(typing, name) for name in ("NewType", "ParamSpec", "TypeVarTuple", "TypeAliasType") if hasattr(typing, name)
)


def reduce_type(value: Any, returning: bool) -> Any:
    """Reduce what a script has made of `TYPES`, or return NotImplemented where it goes by reference."""
    module, name = value.__module__, value.__name__
    if module != "__main__" and getattr(sys.modules.get(module), name, None) is value:
        return NotImplemented
    if isinstance(value, typing.NewType):
        return _with_home(value, returning, (typing.NewType, (name, value.__supertype__), value.__dict__))
    return type(value), (name, value.__value__) if hasattr(value, "__value__") else (name,)


def is_kept_by_module(method: Any) -> bool:
    """Tell whether something is a method of an object that another module keeps, such as `random.random`."""
    owner = getattr(method, "__self__", None)
    module = sys.modules.get(str(getattr(type(owner), "__module__", None)))
    return owner is not None and _is_other(module) and getattr(module, method.__name__, None) is method


def _is_other(module: Any) -> bool:
    return isinstance(module, types.ModuleType) and module.__name__ != "__main__"


def reduce_method(method: Any) -> Any:
    """Reduce a method of an object that another module keeps, or return NotImplemented.

    By name, so that it is that module's own: a copy of its state would begin anew in every call.
    """
    if not is_kept_by_module(method):
        return NotImplemented
    return _attribute, (type(method.__self__).__module__, method.__name__)


def _attribute(module: str, name: str) -> Any:
    __import__(module)
    return getattr(sys.modules[module], name)


def reduce_exception(error: BaseException) -> Any:
    """Reduce an exception that only its class says how to make, or return NotImplemented.

    Its `__init__` may take other arguments than those that are in `args`, and has run already.
    """
    cls: Any = type(error)
    of_python = cls.__reduce_ex__ is object.__reduce_ex__ and cls.__reduce__ is BaseException.__reduce__
    base = next(each for each in cls.__mro__ if not each.__flags__ & _HEAP_TYPE)
    if cls is base or not of_python or base.__basicsize__ != BaseException.__basicsize__:
        return NotImplemented
    return _exception, (cls, error.args), error.__dict__, None, None, _set_attributes


def _exception(cls: Any, args: tuple[Any, ...]) -> Any:
    return BaseException.__new__(cls, *args)


def _set_attributes(error: BaseException, attributes: dict[str, Any]) -> None:
    # Its class may let nothing be set.
    error.__dict__.update(attributes)


def _with_home(function: Any, returning: bool, reduced: tuple[Any, ...]) -> Any:
    home = _home(function)
    if home is None:
        return reduced
    if returning:
        return _own, (_key(function), *home)
    return _function, (_key(function), home, *reduced[:2]), *reduced[2:]


def _function(key: str, home: _Home, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    function = make(*args)
    with _lock:
        known = _known.get(key)
        if known is None or known in _received:
            return _receive(function, key, home)
        # The process that sends it reads it again.
        _received[function] = home
        return function
