"""Results that one session leaves to others: an index by the keys of tasks, in a directory of its own.

`python -m asyncflow_hpc.cache DIRECTORY --max-age 30d --max-size 10GB` removes what was not used for long.
"""

from __future__ import annotations

import logging
import os
import pickle
import platform
import re
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .data import BOOKKEEPING
from .errors import ConfigurationError
from .keys import PASSING, digest, fingerprint, keyed
from .session import attempt_name
from .units import parse_memory, parse_walltime

if TYPE_CHECKING:
    from .task import Task

__all__ = ["LARGEST", "Cache", "Collected", "Entry", "collect", "entry_of", "lay_out"]

log = logging.getLogger(__name__)

LARGEST = 16 * 1024 * 1024
"""Bytes of a result that an entry holds; a larger one is not cached."""

_SCHEMA = 1
_KEY = re.compile(r"[0-9a-f]{32}")
_DAYS = re.compile(r"([0-9]{1,6})d")
_PART = ".part"

# Seconds after which nobody writes to what was to become an entry.
_ABANDONED = 3600


class _Odd(Exception):
    """An entry cannot be used; the message is a clause that says why."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one task.

    Attributes:
        schema: version of the format.
        key: of the task.
        python: version in which its result was pickled.
        session: directory of the session that has run it.
        uid, attempt: as which it ran there.
        sandbox: where; None where it had none.
        files: digest of names, sizes and times of what it left there, its completion record included.
        links: symbolic links in the sandbox that lead to the tasks on which it depended.
        value: pickled, of a function; None for a command.
        stdout, stderr: None where they were not captured.
        started, ended: when it ran.
    """

    schema: int
    key: str
    python: str
    session: str
    uid: str
    attempt: int
    sandbox: str | None
    files: str
    links: tuple[str, ...]
    value: bytes | None
    stdout: str | None
    stderr: str | None
    started: float
    ended: float

    @property
    def origin(self) -> str:
        """Who has run it, for people."""
        return f"{self.session}/{self.uid}"


@dataclass(frozen=True, slots=True)
class Collected:
    """What `collect` has done.

    Attributes:
        removed: number of entries that are gone.
        kept: number of those that are left.
        size: bytes of those that are left.
    """

    removed: int
    kept: int
    size: int


class Cache:
    """The index that engines share; all methods block as long as the file system does.

    Args:
        directory: made where it is not there, for its owner only.

    Raises:
        ConfigurationError: it cannot be used, or cannot be trusted.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).expanduser().absolute()
        try:
            self.directory.mkdir(0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"cache {self.directory} cannot be made: {error.strerror}; choose another directory"
            ) from error
        _refuse_foreign(self.directory)

    def write(self, entry: Entry) -> None:
        """Enter a result; where that fails, the log says so and nothing else happens."""
        path = self.directory / entry.key
        part = self.directory / f"{entry.key}.{secrets.token_hex(4)}{_PART}"
        try:
            data = msgspec.json.encode(entry)
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                stream.write(data + b"\n" + keyed(entry.key, data).encode() + b"\n")
            os.rename(part, path)
        except (OSError, UnicodeEncodeError) as error:
            log.warning("the result of %s cannot be cached in %s: %s", entry.origin, self.directory, error)
            with suppress(OSError):
                os.unlink(part)

    def find(self, task: Task) -> Entry | None:
        """Look for the result of a task; one that cannot be used is removed, and the log says why.

        Returns:
            Its entry; the result is then in the dict of the task.
        """
        if not _may_be_cached(task):
            return None
        path = self.directory / task["key"]
        try:
            entry = _checked(path)
            if (entry.value is None) != (task.get("function") is None):
                raise _Odd("it is of a task of another kind")
            value = None if entry.value is None else _unpickled(entry.value)
        except FileNotFoundError:
            return None
        except (_Odd, OSError) as error:
            log.info("%s '%s' is run: its cached result cannot be used: %s", task["uid"], task["name"], error)
            if getattr(error, "errno", None) not in PASSING:
                with suppress(OSError):
                    path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        task["exit_code"], task["started"], task["ended"] = 0, entry.started, entry.ended
        if entry.stdout is not None:
            task["stdout"], task["stderr"] = entry.stdout, entry.stderr
        if entry.value is not None:
            task["return_value"] = value
        return entry


def _refuse_foreign(directory: Path) -> None:
    found = os.stat(directory)
    why = ""
    if found.st_uid != os.geteuid():
        why = f"belongs to user {found.st_uid}, and what is in it is run when it is loaded; choose one of your own"
    elif found.st_mode & 0o022:
        why = (
            f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o}), and what is in it is run when it is"
            f" loaded; `chmod 700 {directory}` or choose another"
        )
    elif not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        why = f"cannot be written; `chmod 700 {directory}` or choose another"
    if why:
        raise ConfigurationError(f"cache {directory} {why}")


def _may_be_cached(task: Task) -> bool:
    if not _KEY.fullmatch(task.get("key", "")) or task.get("is_service") or task.get("prompt"):
        return False
    # Files that are not in the sandbox are not where a later session would look for them.
    return task["description"].cwd is None and all(item.target is None for item in task.get("outputs", ()))


def entry_of(task: Task, session: Path) -> Entry | None:
    """Make the entry of a task that is done, before anybody gets its result or its files.

    Returns:
        None where it cannot be cached.
    """
    if not _may_be_cached(task):
        return None
    sandbox = task.get("sandbox")
    value: bytes | None = None
    if task.get("function") is not None:
        try:
            value = task.get("kept") or pickle.dumps(task.get("return_value"), 4)
        except Exception as error:
            log.info("the result of %s is not cached: %s", task["uid"], error)
            return None
    stdout, stderr = task.get("stdout"), task.get("stderr")
    size = len(value or b"") + len(stdout or "") + len(stderr or "")
    if size > LARGEST:
        log.info("the result of %s is not cached: it has %d bytes, and %d are the limit", task["uid"], size, LARGEST)
        return None
    return Entry(
        schema=_SCHEMA,
        key=task["key"],
        python=platform.python_version(),
        session=str(session),
        uid=task["uid"],
        attempt=task.get("attempt", 0),
        sandbox=sandbox,
        files=_files(sandbox),
        links=tuple(_links(sandbox, [item["uid"] for item in task["metadata"]["dependencies"]])),
        value=value,
        stdout=stdout,
        stderr=stderr,
        started=task.get("started") or 0.0,
        ended=task.get("ended") or 0.0,
    )


def _files(sandbox: str | None) -> str:
    if sandbox is None:
        return ""
    found = fingerprint(sandbox)
    if not isinstance(found, dict):
        raise _Odd(f"sandbox {sandbox} is gone")
    own = found.pop(BOOKKEEPING, None)
    return digest((found, own.get("exit.json") if isinstance(own, dict) else None))


def _links(sandbox: str | None, dependencies: Sequence[str]) -> Iterator[str]:
    if sandbox is None or not dependencies:
        return
    with os.scandir(sandbox) as found:
        for item in found:
            if item.is_symlink() and any(f".{item.name}".endswith(f".{uid}") for uid in dependencies):
                yield item.name


def _read(path: Path) -> Entry:
    # Nothing but an entry is opened: a pipe would hold up the driver.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or _is_open_to_others(found):
            raise _Odd("its entry is no file of yours that only you can write")
        data, _, proof = stream.read().rstrip(b"\n").rpartition(b"\n")
    if keyed(path.name, data).encode() != proof:
        raise _Odd("its entry is damaged")
    try:
        entry = msgspec.json.decode(data, type=Entry)
    except msgspec.MsgspecError as error:
        raise _Odd(f"its entry is not understood: {error}") from error
    if entry.schema != _SCHEMA or entry.key != path.name:
        raise _Odd("its entry is of another format or task")
    return entry


def _checked(path: Path) -> Entry:
    entry = _read(path)
    if entry.python != platform.python_version():
        raise _Odd(f"it was made by Python {entry.python}")
    for directory in filter(None, (entry.session, entry.sandbox)):
        try:
            found = os.lstat(directory)
        except OSError as error:
            raise _Odd(f"{directory} is gone: {error.strerror}") from error
        if not stat.S_ISDIR(found.st_mode) or _is_open_to_others(found):
            raise _Odd(f"{directory} is no directory of yours that only you can write")
    if _files(entry.sandbox) != entry.files:
        raise _Odd(f"files in {entry.sandbox} have changed")
    return entry


def _is_open_to_others(found: os.stat_result) -> bool:
    return found.st_uid != os.geteuid() or bool(found.st_mode & 0o022)


def _unpickled(data: bytes) -> object:
    try:
        return pickle.loads(data)
    except Exception as error:
        raise _Odd(f"it cannot be loaded: {error}") from error


def lay_out(entry: Entry, task: Task, session: Path) -> bool:
    """Make the sandbox of a task whose result was found: each name in it is a link to what the other one left.

    Returns:
        Whether it is there.
    """
    if entry.sandbox is None:
        return True
    sandbox = str(session / attempt_name(task["uid"], task.get("attempt", 0)))
    outputs = {f"{entry.uid}.{ending}": f"{task['uid']}.{ending}" for ending in ("out", "err")}
    try:
        os.mkdir(sandbox, 0o700)
        for name in os.listdir(entry.sandbox):
            if name != BOOKKEEPING and name not in entry.links:
                os.symlink(f"{entry.sandbox}/{name}", f"{sandbox}/{outputs.get(name, name)}")
    except OSError as error:
        log.info("%s '%s' is run: its cached files cannot be linked: %s", task["uid"], task["name"], error)
        return False
    task["sandbox"] = sandbox
    return True


def collect(
    directory: str | os.PathLike[str],
    *,
    max_age: float | str | timedelta | None = None,
    max_size: int | str | None = None,
) -> Collected:
    """Remove entries that are of no use, or were not used for long; no session is touched.

    Args:
        directory: of the cache.
        max_age: of the last use: seconds, a timedelta, "30d", or as a walltime is written.
        max_size: of all entries together: bytes, or text such as "10GB"; those that were used last stay.

    Raises:
        ConfigurationError: there is no such directory, or it is not yours.
        TypeError, ValueError: an age or a size that cannot be read.
    """
    root = Path(directory).expanduser().absolute()
    age = None if max_age is None else _age(max_age)
    limit = None if max_size is None else parse_memory(max_size)
    if not root.is_dir():
        raise ConfigurationError(f"cache {root} is no directory; give the one that an engine got as cache=")
    _refuse_foreign(root)
    now, kept, size, removed = time.time(), 0, 0, 0
    for used, path, length in sorted(_entries(root, now), reverse=True):
        useless = (age is not None and now - used > age) or not _usable(path)
        if not useless and limit is not None and size + length > limit:
            # All that were used before this one go, too, be they small enough.
            useless, limit = True, size
        if useless:
            with suppress(FileNotFoundError):
                path.unlink()
            removed += 1
        else:
            kept, size = kept + 1, size + length
    return Collected(removed, kept, size)


def _age(value: float | str | timedelta) -> float:
    days = _DAYS.fullmatch(value.strip()) if isinstance(value, str) else None
    return parse_walltime(timedelta(days=int(days[1])) if days else value)


def _entries(root: Path, now: float) -> Iterator[tuple[float, Path, int]]:
    for path in root.iterdir():
        with suppress(FileNotFoundError):
            found = path.lstat()
            if _KEY.fullmatch(path.name):
                yield found.st_mtime, path, found.st_size
            elif path.name.endswith(_PART) and now - found.st_mtime > _ABANDONED:
                path.unlink()


def _usable(path: Path) -> bool:
    with suppress(_Odd, OSError):
        entry = _read(path)
        return os.path.isdir(entry.session) and (entry.sandbox is None or os.path.isdir(entry.sandbox))
    return False


def _main(arguments: Sequence[str] | None = None) -> int:
    import argparse

    parser = argparse.ArgumentParser(prog="python -m asyncflow_hpc.cache", description="Remove entries of a cache.")
    parser.add_argument("directory")
    parser.add_argument("--max-age", help="of the last use, such as 30d or 12:00:00")
    parser.add_argument("--max-size", help="of all entries together, such as 10GB")
    given = parser.parse_args(arguments)
    try:
        done = collect(given.directory, max_age=given.max_age, max_size=given.max_size)
    except (ConfigurationError, ValueError) as error:
        parser.error(str(error))
    print(f"{done.removed} entries removed, {done.kept} kept with {done.size} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
