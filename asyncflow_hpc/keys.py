"""By what a task is recognized in a later run of the same script: digests of arguments, description and files.

Two values have one digest where they are equal and of one type, however they were made: sets in any order, copies and
the same object twice, in this process and in another one.
"""

from __future__ import annotations

import enum
import errno
import io
import os
import pickle
import stat
import threading
import types
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from hashlib import blake2b
from typing import Any

from .data import InputFile, OutputFile
from .futures import TaskFuture
from .outcome import text_of

__all__ = ["ATOMS", "PASSING", "Begun", "KeyOf", "Unkeyable", "content", "digest", "fingerprint", "joined", "keyed"]

ATOMS = frozenset({int, float, str, bytes, bool, type(None), complex})
"""Types of values that hold no others and never change."""

PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE})
"""Errors of a file system or of a process that say nothing about the file that was asked for."""

KeyOf = Callable[[TaskFuture], str]

_LOCKS = (type(threading.Lock()), type(threading.RLock()))

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


class Begun:
    """Makes many digests that begin alike: `Begun(prefix).keyed(data)` is `keyed(prefix, data)`, in half the time."""

    __slots__ = ("_hash",)

    def __init__(self, prefix: str) -> None:
        self._hash = blake2b(prefix.encode(), digest_size=_SIZE)

    def keyed(self, data: bytes) -> str:
        """Make one digest of the beginning and of the content of a value."""
        copy = self._hash.copy()
        copy.update(data)
        return copy.hexdigest()


def content(value: Any, key_of: KeyOf = lambda future: future.uid, seen: Seen | None = None) -> bytes:
    """Return bytes that say what a value is.

    Args:
        key_of: gives the key of a task whose future is in it.
        seen: what was met on the way to it.

    Raises:
        Unkeyable: it cannot be pickled, say.
    """
    if type(value) is tuple and ATOMS.issuperset(map(type, value)):
        # Of most calls; nothing else starts as these do. Very long numbers have no text.
        try:
            return repr(value).encode()
        except ValueError:
            pass
    stream = io.BytesIO()
    pickler = _Pickler(stream, key_of, Seen() if seen is None else seen)
    try:
        pickler.dump(value)
    except Unkeyable:
        raise
    except BaseException as error:
        # A method of a value may raise anything.
        raise Unkeyable(f"it holds what cannot be pickled: {text_of(error)}") from error
    return stream.getvalue()


def digest(value: Any, key_of: KeyOf = lambda future: future.uid, seen: Seen | None = None) -> str:
    """Return the digest of a value; see `content`."""
    return _hash(content(value, key_of, seen))


class Seen:
    """The functions and classes that a walk has met, in the order in which it met them."""

    def __init__(self) -> None:
        self._met: dict[int, tuple[int, Any]] = {}

    def number(self, value: Any) -> int | None:
        """Say as which a value was met before; None if this is the first time."""
        known = self._met.get(id(value))
        if known is None:
            # Kept alive, so that its id stays its own.
            self._met[id(value)] = len(self._met), value
            return None
        return known[0]


class _Pickler(pickle.Pickler):
    """Writes values so that equal ones give equal bytes; nothing reads them back."""

    def __init__(self, stream: io.BytesIO, key_of: KeyOf, seen: Seen) -> None:
        super().__init__(stream, 4)
        # Else the same object twice would differ from two equal ones.
        self.fast = True
        self._key_of = key_of
        self._seen = seen

    def persistent_id(self, value: Any) -> Any:
        """Say what stands for a value; None for the value itself."""
        kind = type(value)
        if kind in ATOMS or kind is tuple or kind is list or kind is dict:
            return None
        if kind is set or kind is frozenset:
            # Each for itself: what was met before must not depend on their order.
            return kind.__name__, sorted(digest(item, self._key_of) for item in value)
        if isinstance(value, TaskFuture):
            return "task", self._key_of(value)
        if isinstance(value, InputFile):
            task = None if value.task is None else self._key_of(value.task)
            return "input", str(value.filepath), value.remote_url, value.filename, value.action, value.sha256, task
        if isinstance(value, OutputFile):
            return "output", value.filename, None if value.target is None else os.fspath(value.target)
        if isinstance(value, enum.Enum):
            return "enum", self._known_by(kind), value.name, digest(value.value, self._key_of, self._seen)
        if isinstance(value, (type, types.FunctionType)):
            return self._known_by(value)
        return _stateless(value)

    def _known_by(self, value: Any) -> Any:
        from .code_keys import digest_of_code, travels

        if travels(value):
            return "code", digest_of_code(value, self._key_of, self._seen)
        return "name", f"{value.__module__}.{value.__qualname__}"


def _stateless(value: Any) -> Any:
    """Say what stands for a value that cannot be pickled, but that makes no difference to a result."""
    if isinstance(value, types.ModuleType):
        return "module", value.__name__
    if isinstance(value, ContextVar):
        # What it is set to is another matter.
        return "variable", value.name
    if isinstance(value, _LOCKS):
        return ("lock",)
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
