"""By what a task is recognized in a later run of the same script: digests of code, arguments, description and files.

Two values have one digest where they are equal and of one type, however they were made: sets in any order, copies and
the same object twice, in this process and in another one.
"""

from __future__ import annotations

import enum
import io
import os
import pickle
import types
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any

from .data import InputFile, OutputFile
from .futures import TaskFuture

__all__ = ["Unkeyable", "content", "digest", "digest_of_code", "fingerprint", "joined", "keyed"]

_ATOMS = frozenset({int, float, str, bytes, bool, type(None), complex})

_SIZE = 16


class Unkeyable(Exception):
    """A value has no digest; the message is a clause that says why."""


def _hash(data: bytes) -> str:
    return blake2b(data, digest_size=_SIZE).hexdigest()


def joined(parts: Iterable[str]) -> str:
    """Make one digest of several."""
    return _hash(" ".join(parts).encode())


def keyed(prefix: str, data: bytes) -> str:
    """Make one digest of another one and of the content of a value."""
    return _hash(prefix.encode() + data)


def content(value: Any, key_of: Callable[[TaskFuture], str] = lambda future: future.uid) -> bytes:
    """Return bytes that say what a value is.

    Args:
        key_of: gives the key of a task whose future is in it.

    Raises:
        Unkeyable: it cannot be pickled, say.
    """
    if type(value) is tuple and all([type(item) in _ATOMS for item in value]):
        # Of most calls; nothing else starts as these do.
        return repr(value).encode()
    stream = io.BytesIO()
    pickler = _Pickler(stream, key_of)
    try:
        pickler.dump(value)
    except Unkeyable:
        raise
    except Exception as error:
        raise Unkeyable(f"it holds what cannot be pickled: {error}") from error
    return stream.getvalue()


def digest(value: Any, key_of: Callable[[TaskFuture], str] = lambda future: future.uid) -> str:
    """Return the digest of a value; see `content`."""
    return _hash(content(value, key_of))


class _Pickler(pickle.Pickler):
    """Writes values so that equal ones give equal bytes; nothing reads them back."""

    def __init__(self, stream: io.BytesIO, key_of: Callable[[TaskFuture], str]) -> None:
        super().__init__(stream, 4)
        # Else the same object twice would differ from two equal ones.
        self.fast = True
        self._key_of = key_of

    def persistent_id(self, value: Any) -> Any:
        """Say what stands for a value; None for the value itself."""
        kind = type(value)
        if kind in _ATOMS or kind is tuple or kind is list or kind is dict:
            return None
        if kind is set or kind is frozenset:
            return kind.__name__, sorted(digest(item, self._key_of) for item in value)
        if isinstance(value, TaskFuture):
            return "task", self._key_of(value)
        if isinstance(value, InputFile):
            task = None if value.task is None else self._key_of(value.task)
            return "input", str(value.filepath), value.remote_url, value.filename, value.action, value.sha256, task
        if isinstance(value, OutputFile):
            return "output", value.filename, None if value.target is None else os.fspath(value.target)
        if isinstance(value, types.FunctionType):
            return "function", digest_of_code(value, self._key_of)
        if isinstance(value, enum.Enum):
            return "enum", kind.__qualname__, value.name
        return None


def digest_of_code(
    function: Callable[..., Any], key_of: Callable[[TaskFuture], str] = lambda future: future.uid
) -> str:
    """Return the digest of what a function does: its code, defaults, closure, and what it names in its own module.

    Of the globals of its module it covers functions, and constants such as numbers and texts; not what it imports.

    Raises:
        Unkeyable: a default or a value in its closure has no digest.
    """
    found: list[str] = []
    _add_function(function, found, set(), key_of)
    return joined(found)


def _add_function(function: Any, found: list[str], seen: set[int], key_of: Callable[[TaskFuture], str]) -> None:
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    if not isinstance(function, types.FunctionType):
        found.append(digest((_name_of(function),)))
        return
    if id(function.__code__) in seen:
        return
    seen.add(id(function.__code__))
    found.append(_digest_of_code_object(function.__code__))
    for value in [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()]:
        found.append(digest(value, key_of))
    names = _names_in(function.__code__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:
            continue
        _add_named(name, value, found, seen, key_of)
    for name in sorted(names & function.__globals__.keys()):
        value = function.__globals__[name]
        if type(value) in _ATOMS or getattr(value, "__module__", None) == function.__module__:
            _add_named(name, value, found, seen, key_of)


def _add_named(name: str, value: Any, found: list[str], seen: set[int], key_of: Callable[[TaskFuture], str]) -> None:
    found.append(digest((name,)))
    if isinstance(value, types.FunctionType):
        _add_function(value, found, seen, key_of)
        return
    try:
        found.append(digest(value, key_of))
    except Unkeyable:
        # An engine, a connection: its kind is all that stays the same.
        found.append(digest((_name_of(value),)))


def _name_of(value: Any) -> str:
    kind = value if isinstance(value, type) else type(value)
    return f"{kind.__module__}.{getattr(value, '__qualname__', kind.__qualname__)}"


def _names_in(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names_in(constant)
    return names


def _digest_of_code_object(code: types.CodeType) -> str:
    # Neither file nor line numbers: a comment above it changes nothing.
    parts = [_hash(code.co_code), *code.co_names, *code.co_varnames, str(code.co_flags)]
    for constant in code.co_consts:
        inner = isinstance(constant, types.CodeType)
        parts.append(_digest_of_code_object(constant) if inner else digest(constant))
    return joined(parts)


def fingerprint(path: str) -> Mapping[str, int] | None:
    """Say how large a file is, and when it was last written (ns); None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return {"size": found.st_size, "mtime": found.st_mtime_ns}
