"""The completion record that an attempt leaves: where it lies, what it says, and whether it can be believed."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from .sandbox import attempt_name

__all__ = [
    "STAGES",
    "Record",
    "RecordError",
    "marker_name",
    "parse_marker",
    "parse_record",
    "read_record",
    "record_path",
    "spool_of",
]

log = logging.getLogger(__name__)

STAGES = ("stage_in", "pre_exec", "run", "post_exec", "stage_out", "lost")
"""In which an attempt ends: "pre_exec" before its command began, "lost" where nobody knows how its command ended."""

_VERSION = 2
_LARGEST_FILE = 64 * 1024
_LARGEST_ATTEMPT = 99_999
_LARGEST_SIGNAL = 64
# The year 5138: beyond it, a time is no time.
_LATEST = 1e11

# What open() says of a symbolic link, of a socket, and of a name below a file.
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.EOPNOTSUPP, errno.ENOTDIR)

_MARKER = re.compile(r"([A-Za-z][A-Za-z0-9_-]*\.[0-9]{6,})(?:\.([1-9][0-9]{0,4}))?")
_TIMES = re.compile(r"\s*" + r"\s+".join([r"([0-9]{1,9})m([0-9]{1,9}(?:[.,][0-9]{1,9})?)s"] * 4) + r"\s*")
_USAGE = re.compile(r"\s*([0-9]{1,15})\s+([0-9]{1,9}(?:[.,][0-9]{1,9})?)\s+([0-9]{1,9}(?:[.,][0-9]{1,9})?)\s*")


class RecordError(ValueError):
    """A completion record cannot be read or believed; the message is a clause that says why."""


@dataclass(frozen=True, slots=True)
class Record:
    """How an attempt ended, in its own words.

    Attributes:
        session, uid, attempt: whose it is; the session by the name of its directory.
        nonce: the secret that the attempt was given.
        stage: in which it ended, one of STAGES.
        exit_code: of that stage, None if a signal ended it.
        signal: number of the signal that ended it, else None.
        noted: names of the signals that the runner itself got, such as "TERM", with blanks between them.
        missing: indices of the task's promised outputs that are not there; no upper limit has been checked.
        start, end: seconds since the epoch, by the node's clock.
        host: the node.
        native_id: what the scheduler calls the job, else None.
        cpu_time: user and system seconds, None if the node offers no way to know.
        max_rss: peak memory of the largest process in bytes, None if the node offers no way to know.
        oom_kills: processes that the kernel has killed for want of memory in the attempt's cgroup while it ran, None if
            the node offers no way to know.
        cgroup: path of that cgroup, which others may share; "" where it is not known.
    """

    session: str
    uid: str
    attempt: int
    nonce: str
    stage: str
    exit_code: int | None
    signal: int | None
    noted: str
    missing: tuple[int, ...]
    start: float
    end: float
    host: str
    native_id: str | None
    cpu_time: float | None
    max_rss: int | None
    oom_kills: int | None = None
    cgroup: str = ""

    @property
    def in_staging(self) -> bool:
        """Whether it ended while its files were staged."""
        return self.stage in ("stage_in", "stage_out")

    @property
    def ended_by_itself(self) -> bool:
        """Whether nothing from outside had to do with its end; else its job may be put back into the queue."""
        return self.signal is None and not self.noted

    @property
    def memory_is_its_own(self) -> bool:
        """Whether the cgroup in which it ran was made for its job alone, as the name says."""
        number = re.match(r"[0-9]+", self.native_id or "")
        # A step or a process of a pilot shares the cgroup of the pilot's job.
        if number is None or "@" in (self.native_id or ""):
            return False
        return re.search(rf"(?<![0-9]){number[0]}(?![0-9])", self.cgroup) is not None


def record_path(sandbox: str | Path) -> Path:
    """Say where the attempt in a sandbox leaves its completion record."""
    return Path(sandbox, ".asyncflow", "exit.json")


@lru_cache(64)
def spool_of(session: str | Path) -> Path:
    """Say in which directory the attempts of a session drop their markers."""
    return Path(session, ".spool")


def marker_name(uid: str, attempt: int) -> str:
    """Name the marker of an attempt: `<uid>`, for retry n `<uid>.<n>`.

    A uid is a word, a dot, and six digits or more; a retry has five digits at most and no leading zero. So the length
    of the last number tells what it is.

    Args:
        uid: of the task, such as "task.000001".
        attempt: 0 to 99,999.

    Raises:
        ValueError: no marker can have that name.
    """
    name = attempt_name(uid, attempt)
    if parse_marker(name) != (uid, attempt):
        raise ValueError(f"attempt {attempt!r} of {uid!r} cannot have a marker")
    return name


def parse_marker(name: str) -> tuple[str, int] | None:
    """Say whose marker has a name.

    Args:
        name: of a file in the spool.

    Returns:
        The uid and the attempt, or None if the name is not one that `marker_name` gives.
    """
    found = _MARKER.fullmatch(name)
    return (found[1], int(found[2] or 0)) if found else None


def read_record(path: str | Path, *, session: str, uid: str, attempt: int, nonce: str | None) -> Record | None:
    """Read the completion record of one attempt, if there is one that can be believed.

    A record is refused, with a warning, if it is torn, belongs to another session, task or attempt, or may have been
    written by somebody else. It blocks as long as the file system does.

    Args:
        path: of the record.
        session: name of the session's directory.
        uid, attempt: whose record it must be.
        nonce: what the attempt was given to prove itself; None where that is not known.

    Returns:
        The record, or None if there is none or it was refused.

    Raises:
        OSError: the file system did not answer as it should, so nobody can say whether there is a record; ask again.
    """
    try:
        record = parse_record(*_content(path))
        _refuse_foreign(record, session, uid, attempt, nonce)
    except FileNotFoundError:
        return None
    except RecordError as error:
        log.warning("the completion record %s is refused: %s", path, error)
        return None
    return record


def _content(path: str | Path) -> tuple[bytes, float]:
    """Return what is in a record, and when it was written."""
    try:
        # Without O_NONBLOCK, a FIFO in place of the record would stop the thread for good.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise RecordError("it is not a regular file") from error
        raise
    try:
        found = os.fstat(descriptor)
        _refuse_forged(found)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(_LARGEST_FILE + 1)
    finally:
        os.close(descriptor)
    if len(data) > _LARGEST_FILE:
        raise RecordError(f"it is larger than {_LARGEST_FILE} bytes")
    if data and not data.strip():
        # Room that was made for it.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return data, found.st_mtime


def _refuse_forged(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise RecordError("it is not a regular file")
    if found.st_uid != os.geteuid():
        raise RecordError(f"it belongs to user {found.st_uid}")
    if found.st_mode & 0o022:
        raise RecordError(f"it can be written by others (mode {stat.S_IMODE(found.st_mode):04o})")


def _refuse_foreign(record: Record, session: str, uid: str, attempt: int, nonce: str | None) -> None:
    for what, found, expected in (
        ("session", record.session, session),
        ("task", record.uid, uid),
        ("attempt", record.attempt, attempt),
    ):
        if found != expected:
            raise RecordError(f"it is of {what} {shortened(found)}, not of {shortened(expected)}")
    if nonce is not None and record.nonce != nonce:
        raise RecordError("its nonce is not the one that the attempt was given")


def parse_record(data: bytes, written: float | None = None) -> Record:
    """Understand a completion record.

    Args:
        data: a JSON object, with or without a newline behind it.
        written: seconds since the epoch; by this clock it ended, if it has counted its seconds by another one.

    Raises:
        RecordError: it is torn, is no record, or says what cannot be.
    """
    found = _object_in(data)
    version = _whole(found, "version", 1)
    if version > _VERSION:
        raise RecordError(f"it has version {shortened(version)}, and only {_VERSION} is known here")
    exit_code, signal = _outcome(found)
    start, end = _times(found, written)
    cpu_time, max_rss = _resources(_text(found, "times"), _text(found, "usage"))
    return Record(
        session=_text(found, "session"),
        uid=_text(found, "uid"),
        attempt=_whole(found, "attempt", 0, _LARGEST_ATTEMPT),
        nonce=_text(found, "nonce"),
        stage=_stage(found),
        exit_code=exit_code,
        signal=signal,
        noted=_text(found, "noted"),
        missing=_missing(found),
        start=start,
        end=end,
        host=_text(found, "host"),
        native_id=_native_id(found),
        cpu_time=cpu_time,
        max_rss=max_rss,
        oom_kills=_oom_kills(found),
        cgroup=_text(found, "cgroup") if "cgroup" in found else "",
    )


def _times(found: Mapping[str, Any], written: float | None) -> tuple[float, float]:
    clock = found.get("clock")
    if clock is None:
        return _moment(found, "start"), _moment(found, "end")
    if not isinstance(clock, list) or len(clock) != 2:
        raise RecordError(f"its field 'clock' is {shortened(clock)} and not two times")
    first, last = (_moment({"clock": value}, "clock") for value in clock)
    end = last if written is None else written
    return end - max(0.0, last - first), end


def _oom_kills(found: Mapping[str, Any]) -> int | None:
    counts = found.get("oom", [None, None])
    if not isinstance(counts, list) or len(counts) != 2:
        raise RecordError(f"its field 'oom' is {shortened(counts)} and not two counts")
    if None in counts:
        return None
    before, after = (_whole({"oom": count}, "oom", 0) for count in counts)
    return max(0, after - before)


def _object_in(data: bytes) -> dict[str, Any]:
    if not data.rstrip().endswith(b"}"):
        raise RecordError(f"it is torn: its {len(data)} bytes are not a whole JSON object")
    try:
        found = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise RecordError(f"it is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise RecordError("it is not a JSON object")
    return found


def _value(found: Mapping[str, Any], key: str) -> Any:
    try:
        return found[key]
    except KeyError:
        raise RecordError(f"it has no field '{key}'") from None


def _text(found: Mapping[str, Any], key: str) -> str:
    value = _value(found, key)
    if not isinstance(value, str):
        raise RecordError(f"its field '{key}' is {shortened(value)} and not a string")
    return value


def _whole(found: Mapping[str, Any], key: str, low: int, high: float = float("inf")) -> int:
    value = _value(found, key)
    if type(value) is not int or not low <= value <= high:
        raise RecordError(f"its field '{key}' is {shortened(value)} and not a whole number from {low} to {high}")
    return value


def _moment(found: Mapping[str, Any], key: str) -> float:
    value = _value(found, key)
    if type(value) not in (int, float) or not 0 <= value <= _LATEST:
        raise RecordError(f"its field '{key}' is {shortened(value)} and not a time in seconds since the epoch")
    return float(value)


def _stage(found: Mapping[str, Any]) -> str:
    stage = _text(found, "stage")
    if stage not in STAGES:
        raise RecordError(f"its field 'stage' is {shortened(stage)} and not one of {', '.join(STAGES)}")
    return stage


def _native_id(found: Mapping[str, Any]) -> str | None:
    return None if _value(found, "native_id") is None else _text(found, "native_id") or None


def _missing(found: Mapping[str, Any]) -> tuple[int, ...]:
    value = _value(found, "missing")
    if not isinstance(value, list) or not all(type(index) is int and index >= 0 for index in value):
        raise RecordError(f"its field 'missing' is {shortened(value)} and not a list of indices")
    return tuple(value)


def _outcome(found: Mapping[str, Any]) -> tuple[int | None, int | None]:
    status = _whole(found, "exit_code", 0, 255)
    if _value(found, "signal") is not None:
        return None, _whole(found, "signal", 1, _LARGEST_SIGNAL)
    # To a shell, 128 + n means ended by signal n.
    if 128 < status <= 128 + _LARGEST_SIGNAL:
        return None, status - 128
    return status, None


def _resources(times: str, usage: str) -> tuple[float | None, int | None]:
    if used := _USAGE.fullmatch(usage):
        return _seconds(used[2]) + _seconds(used[3]), int(used[1]) * 1024
    if took := _TIMES.fullmatch(times):
        # The first two are of the shell itself, and what it did is no work of the task.
        return 60 * (int(took[5]) + int(took[7])) + _seconds(took[6]) + _seconds(took[8]), None
    return None, None


def _seconds(text: str) -> float:
    return float(text.replace(",", "."))
