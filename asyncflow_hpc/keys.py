"""By what a task is recognized in a later run of the same script: digests of arguments, description and files.

Two values have one digest where they are equal and of one type, however they were made: sets in any order, copies and
the same object twice, in this process and in another one.
"""

from __future__ import annotations

import copyreg
import enum
import errno
import functools
import os
import stat
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable, Iterable
from contextvars import Context, ContextVar
from typing import Any

from .code_keys import CodeParts, Read, travels
from .data import InputFile, OutputFile
from .futures import TaskFuture
from .hashing import ATOMS, Begun, Budget, Content, TooLarge, Unkeyable, Unordered, Walk, hashed, joined, keyed, plain
from .outcome import text_of

__all__ = [
    "ATOMS", "PASSING", "Begun", "CodeKeys", "KeyOf", "TooLarge", "Unkeyable", "content", "digest", "digest_of_code",
    "fingerprint", "joined", "keyed",
]  # fmt: skip

PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE})
"""Errors of a file system or of a process that say nothing about the file that was asked for."""

KeyOf = Callable[[TaskFuture], str]

# They hold no value, or what is alive at the moment.
_STATELESS = (
    type(threading.Lock()), type(threading.RLock()), weakref.ref, weakref.WeakSet, weakref.WeakValueDictionary,
    weakref.WeakKeyDictionary,
)  # fmt: skip


# Of an array that is looked at on the loop.
_FEW_BYTES = 65536

_PICKLING = ("__reduce_ex__", "__reduce__", "__getstate__")


def _uid_of(future: TaskFuture) -> str:
    return future.uid


def content(value: Any, key_of: KeyOf = _uid_of, budget: Budget | None = None) -> bytes:
    """Return bytes that are the same for equal values of one type, and for no others.

    Args:
        key_of: returns the key of a task whose future is in it.
        budget: for what may be looked at; None: any number of objects.

    Raises:
        Unkeyable: it cannot be pickled, say.
        TooLarge: the budget is used up.
    """
    if type(value) is tuple:
        # Of most calls.
        data = plain(value)
        if data is not None:
            return data
    return _walked(value, key_of, budget)[0]


def digest(value: Any, key_of: KeyOf = _uid_of, budget: Budget | None = None) -> str:
    """Return the digest of a value; see `content`."""
    return hashed(content(value, key_of, budget))


def digest_of_code(value: Any, key_of: KeyOf = _uid_of) -> str:
    """Return the digest of what a function or a class does: code, defaults, closure, and what it names.

    Raises:
        Unkeyable: a value has no digest.
    """
    return hashed(_walked(Content(value), key_of, None)[0])


class CodeKeys:
    """Digests of functions, each made once as long as nothing that it refers to can have changed."""

    def __init__(self) -> None:
        self._known: dict[types.FunctionType, tuple[str, list[Read]]] = {}

    def get(self, function: Any, budget: Budget | None = None) -> str:
        """Return the digest of a function as it is now; see `digest_of_code`.

        Raises:
            Unkeyable: a value has no digest.
            TooLarge: the budget is used up; see `content`.
        """
        known = self._known.get(function) if isinstance(function, types.FunctionType) else None
        if known is not None and all([read() is value for read, value in known[1]]):
            return known[0]
        found, parts = _walked(Content(function), _uid_of, budget)
        made = hashed(found)
        if parts.code.steady and isinstance(function, types.FunctionType):
            self._known[function] = made, parts.code.reads
        return made


def _walked(root: Any, key_of: KeyOf, budget: Budget | None) -> tuple[bytes, _Parts]:
    parts = _Parts(key_of, CodeParts(), budget is not None)
    try:
        found = Walk(parts.of, budget).digest(root)
        if parts.code.asks:
            parts = _Parts(key_of, CodeParts(parts.code.asks), budget is not None)
            found = Walk(parts.of, budget).digest(root)
    except (Unkeyable, TooLarge):
        raise
    except BaseException as error:
        # A method of a value may raise anything.
        raise Unkeyable(f"it holds what cannot be pickled: {text_of(error)}") from error
    return found, parts


class _Parts:
    """Lists the parts of values."""

    def __init__(self, key_of: KeyOf, code: CodeParts, quick: bool) -> None:
        self._key_of = key_of
        self._quick = quick
        self.code = code
        self._cached: dict[type, frozenset[str]] = {}

    def of(self, value: Any) -> Iterable[Any]:
        """List what a value is made of; the first part names the kind of value."""
        kind = type(value)
        if kind is Content:
            return self.code.of(value.of)
        if kind is set or kind is frozenset:
            return kind.__name__, Unordered(tuple(value))
        if isinstance(value, TaskFuture):
            return "future", self._key_of(value)
        if isinstance(value, InputFile):
            task = None if value.task is None else self._key_of(value.task)
            named = str(value.filepath), value.remote_url, value.filename, value.action, value.sha256
            return "input", *named, task
        if isinstance(value, OutputFile):
            return "output", value.filename, None if value.target is None else os.fspath(value.target)
        if isinstance(value, enum.Enum):
            return "enum", kind, value.name, value.value
        if isinstance(value, (type, types.FunctionType)) and not isinstance(value, types.GenericAlias):
            if travels(value):
                return "code", Content(value)
            return "name", f"{value.__module__}.{value.__qualname__}"
        found = _of_code(value)
        if found is None:
            found = _of_type(value)
        if found is None:
            found = _stateless(value)
        return self._reduced(value) if found is None else found

    def _reduced(self, value: Any) -> Iterable[Any]:
        """List what a value would be pickled as."""
        kind = type(value)
        if self._quick and not _is_quick(value):
            raise TooLarge
        reduce = copyreg.dispatch_table.get(kind)
        found: Any = value.__reduce_ex__(4) if reduce is None else reduce(value)
        if isinstance(found, str):
            return "global", str(getattr(value, "__module__", None)), found
        make, args, state, items, pairs = ([*found, None, None, None])[:5]
        if isinstance(state, dict):
            state = self._stated(kind, state)
        elif type(state) is tuple and len(state) == 2 and isinstance(state[0], dict):
            state = self._stated(kind, state[0]), state[1]
        return "object", make, args, state, None if items is None else [*items], None if pairs is None else [*pairs]

    def _stated(self, kind: type, state: dict[Any, Any]) -> dict[Any, Any] | None:
        """Leave out what an object has cached."""
        cached = self._cached.get(kind)
        if cached is None:
            found = (name for base in kind.__mro__ for name, item in vars(base).items() if _is_cached(item))
            cached = self._cached[kind] = frozenset(found)
        if cached.isdisjoint(state):
            return state
        # One that has nothing else has no state.
        return {name: item for name, item in state.items() if name not in cached} or None


def _is_quick(value: Any) -> bool:
    """Return whether a value can be taken apart in no time: its own methods may take any."""
    kind = type(value)
    if kind.__module__.partition(".")[0] in sys.stdlib_module_names:
        return True
    size = getattr(value, "nbytes", None)
    if isinstance(size, int):
        return size <= _FEW_BYTES
    return all(getattr(kind, name, None) is getattr(object, name, None) for name in _PICKLING)


def _is_cached(item: object) -> bool:
    return isinstance(item, functools.cached_property)


def _of_code(value: Any) -> Iterable[Any] | None:
    """List the parts of what holds functions of a class or module."""
    if isinstance(value, (staticmethod, classmethod)):
        return type(value).__name__, _code(value.__func__)
    if isinstance(value, property):
        return "property", _code(value.fget), _code(value.fset), _code(value.fdel)
    if isinstance(value, functools.cached_property):
        return "cached_property", _code(value.func)
    if isinstance(value, functools._lru_cache_wrapper):
        return "lru_cache", _code(value.__wrapped__), value.cache_parameters()
    if isinstance(value, functools.singledispatchmethod):
        return "singledispatchmethod", _code(value.dispatcher), _code(value.func)
    return None


def _code(value: Any) -> Any:
    return Content(value) if isinstance(value, (types.FunctionType, type)) else value


def _of_type(value: Any) -> Iterable[Any] | None:
    """List the parts of what stands for a type in an annotation."""
    if isinstance(value, typing.ForwardRef):
        return "forward", value.__forward_arg__
    if isinstance(value, typing.TypeVar):
        return "variable of type", value.__name__, value.__bound__, value.__constraints__
    if isinstance(value, types.UnionType):
        return "union", value.__args__
    if isinstance(value, types.GenericAlias) or type(value).__module__ == "typing":
        arguments = getattr(value, "__args__", None)
        if arguments is not None:
            return "alias", type(value).__name__, value.__origin__, arguments, getattr(value, "__metadata__", ())
    return None


def _stateless(value: Any) -> Iterable[Any] | None:
    """List the parts of a value that cannot be pickled, but makes no difference to a result beyond them."""
    if isinstance(value, types.ModuleType):
        return "module", value.__name__
    if isinstance(value, types.MappingProxyType):
        return "mapping", dict(value)
    if isinstance(value, ContextVar):
        # What it is set to is another matter.
        try:
            return "variable", value.name, Context().run(value.get)
        except LookupError:
            return "variable", value.name
    if isinstance(value, _STATELESS):
        return ("stateless", type(value).__name__)
    return None


def fingerprint(path: str) -> Any:
    """Say how large a file is, and when it was last written (ns), or all files of a directory; None where it is not.

    Raises:
        OSError: nobody can say now, as with one of `PASSING`.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISDIR(found.st_mode):
            return found.st_size, found.st_mtime_ns
        with os.scandir(path) as entries:
            return {
                entry.name: os.readlink(entry.path)
                if entry.is_symlink() and entry.is_dir()
                else fingerprint(entry.path)
                for entry in sorted(entries, key=lambda entry: entry.name)
            }
    except OSError as error:
        if error.errno in PASSING:
            raise
        return None
