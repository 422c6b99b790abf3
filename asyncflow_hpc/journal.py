"""The durable record of a session: JSON lines, each with a checksum, written by one driver at a time.

Each line is the JSON of an event with a last member `sum`: eight hex digits, the CRC-32 of the line up to the comma in
front of it. Other programs may read the lines as they are.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from .errors import JournalError, SessionError
from .events import SCHEMA, Event, SessionOpened, TaskEnded, TaskReady
from .room import reserve

__all__ = ["Journal", "Line", "journal_path", "parse_lines", "read_events"]

log = logging.getLogger(__name__)

_ENCODER = msgspec.json.Encoder(enc_hook=str)
_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)

# `,"sum":"01234567"}` and the end of the line.
_SUM = b',"sum":"%08x"}\n'
_SUM_LENGTH = len(_SUM % 0)

# Seconds between two writes: one for each line would cost more than all the rest.
_BETWEEN = 0.001

# Bytes that are set apart for the end of each attempt, for what else comes, and the multiple that is set apart at once.
_END, _MORE, _STEP = 512, 8192, 16384


def journal_path(session: str | Path) -> Path:
    """Say where the journal of a session is."""
    return Path(session, "journal.jsonl")


def line_of(event: Event) -> bytes:
    """Write one event as a line."""
    try:
        body = _ENCODER.encode(event)[:-1]
    except UnicodeEncodeError:
        # Of a file whose name is not UTF-8, in the text of an error, say.
        body = _ENCODER.encode(_escaped(event))[:-1]
    return body + _SUM % zlib.crc32(body)


def _escaped(event: Event) -> Event:
    """Write out, as `\\udcff`, what no UTF-8 stands for."""
    changes: dict[str, Any] = {}
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if isinstance(value, str):
            changes[name] = _printable(value)
        elif isinstance(value, tuple):
            changes[name] = tuple(map(_printable, value))
    return msgspec.structs.replace(event, **changes)


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a journal that is damaged.

    Attributes:
        number: counted from 1.
        offset: in bytes.
        problem: what is wrong with it, as a clause.
    """

    number: int
    offset: int
    problem: str


def parse_lines(data: bytes) -> Iterator[Event | Line]:
    """Understand the lines of a journal; a damaged one is told, and those behind it still come.

    Raises:
        JournalError: it was written by a newer version.
    """
    offset = 0
    # Not splitlines: a line ends with a newline and with nothing else.
    for number, line in enumerate(data.split(b"\n"), 1):
        if offset + len(line) >= len(data):
            if line:
                yield Line(number, offset, "it is torn: it has no end")
            return
        yield _parsed(line + b"\n", number, offset)
        offset += len(line) + 1


def _parsed(line: bytes, number: int, offset: int) -> Event | Line:
    body = line[:-_SUM_LENGTH]
    if _SUM % zlib.crc32(body) != line[-_SUM_LENGTH:]:
        return Line(number, offset, "its checksum does not fit")
    try:
        event = _DECODER.decode(line)
    except msgspec.MsgspecError as error:
        _refuse_newer(line, number)
        return Line(number, offset, f"it is no event: {error}")
    if isinstance(event, SessionOpened):
        _refuse_newer(line, number)
    return event


class _Version(msgspec.Struct):
    schema: int = 0


def _refuse_newer(line: bytes, number: int) -> None:
    try:
        schema = msgspec.json.decode(line, type=_Version).schema
    except msgspec.MsgspecError:
        return
    if schema > SCHEMA:
        raise JournalError(
            f"line {number} has format {schema}, and this version of asyncflow_hpc knows formats up to {SCHEMA}:"
            " use the version that wrote it, or a newer one"
        )


def read_events(session: str | Path, *, damaged: str = "refuse") -> Iterator[Event]:
    """Read the events of a session, in the order in which they were recorded.

    Args:
        session: its directory.
        damaged: "refuse" raises at a damaged line; "skip" tells it in the log and goes on. A torn last line, which a
            crash leaves, is dropped in both cases, and told.

    Raises:
        JournalError: there is no journal, it cannot be read, a newer version wrote it, or a line is damaged.
    """
    path = journal_path(session)
    for item in parse_lines(_content(path)):
        if not isinstance(item, Line):
            yield item
        elif item.problem.startswith("it is torn"):
            log.warning("the last line of %s, at byte %d, is torn and is dropped", path, item.offset)
        elif damaged == "skip":
            log.warning("line %d of %s, at byte %d, is skipped: %s", item.number, path, item.offset, item.problem)
        else:
            raise JournalError(
                f"line {item.number} of {path}, at byte {item.offset}, is damaged: {item.problem}. The other lines can"
                ' be read with read_events(session, damaged="skip"); to resume without it, remove that line'
            )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise JournalError(f"there is no journal {path}: give the directory of a session") from None
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be read: {error.strerror}") from error


class Journal:
    """Writes the journal of a session; used on the loop of its engine.

    What is appended reaches the kernel at the end of the same turn of the loop, or a millisecond after the lines before
    it, and the disk with the next `commit`. Where the file system can do it, room is set apart for the ends of all that
    was handed over: a full disk keeps more from being submitted, but what has run is known to a resume.

    Attributes:
        failure: why it cannot be written, or has no room for the ends of what would be submitted; None where it can.

    Args:
        path: of the file; what is torn at its end is cut off.
        still_ours: tells, in a thread, whether this driver still holds the session.

    Raises:
        JournalError: the file cannot be written.
    """

    def __init__(self, path: Path, still_ours: Callable[[], bool] = lambda: True) -> None:
        self.path = path
        self._still_ours = still_ours
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Event] = []
        self._refused = b""
        self._scheduled = False
        self._written = 0.0
        self._committing = asyncio.Lock()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise JournalError(_cannot(path, error)) from error
        self._size = self._cut_torn_end()
        self._running = 0
        self._secured: float = self._size
        self.failure: JournalError | None = None

    def _cut_torn_end(self) -> int:
        size = end = os.fstat(self._file).st_size
        while end > 0:
            begin = max(end - 65536, 0)
            found = os.pread(self._file, end - begin, begin).rfind(b"\n")
            if found >= 0:
                end = begin + found + 1
                break
            end = begin
        if end < size:
            log.warning("%d bytes of a torn last line of %s are dropped", size - end, self.path)
            os.ftruncate(self._file, end)
        return end

    def append(self, event: Event) -> None:
        """Record an event."""
        self._waiting.append(event)
        if type(event) is TaskReady:
            self._running += 1
        elif type(event) is TaskEnded:
            self._running -= 1
        if not self._scheduled and not self._loop.is_closed():
            self._scheduled = True
            wait = self._written + _BETWEEN - self._loop.time()
            if wait > 0:
                self._loop.call_later(wait, self.flush)
            else:
                self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Hand over to the kernel what was appended; what it does not take waits for the next time."""
        self._scheduled = False
        if self._file < 0 or not (self._waiting or self.failure):
            return
        # All of them at once: in between other things, each would take twice as long.
        data = self._refused + b"".join(map(line_of, self._waiting))
        self._waiting.clear()
        try:
            written = os.write(self._file, data)
            if written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._keep(data)
            self._fail(error)
            return
        self._refused = b""
        self._size += len(data)
        self._written = self._loop.time()
        try:
            self._secure()
        except OSError as error:
            self._fail(error)
            return
        if self.failure is not None:
            log.warning("%s can be written again", self.path)
            self.failure = None

    def _secure(self) -> None:
        needed = self._size + _MORE + _END * self._running
        if needed > self._secured:
            end = -(-needed // _STEP) * _STEP
            self._secured = end if reserve(self._file, self._size, end - self._size) else math.inf

    def _keep(self, data: bytes) -> None:
        self._refused = data
        # A part of a line would damage the next one.
        os.ftruncate(self._file, self._size)
        self._secured = min(self._secured, self._size)

    def _fail(self, error: OSError) -> None:
        if self.failure is None:
            self.failure = JournalError(_cannot(self.path, error))
            log.error("%s", self.failure)

    async def commit(self) -> None:
        """Wait until all that was appended is on the disk, together with whatever others wait for.

        Raises:
            JournalError: it cannot be written.
            SessionError: another driver has taken the session over.
        """
        async with self._committing:
            self.flush()
            if self.failure is not None:
                raise self.failure
            await self._loop.run_in_executor(None, self._force)

    def _force(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            raise JournalError(_cannot(self.path, error)) from error
        if not self.path.exists():
            raise JournalError(
                f"the journal {self.path} was removed, so nothing more is submitted: begin a new session"
            )
        if not self._still_ours():
            raise SessionError(
                f"another driver has taken over the session of {self.path}, while this one was stopped for long:"
                " it submits nothing more"
            )

    def close(self) -> None:
        """Write what is left, and let go of the file."""
        if self._file >= 0:
            self.flush()
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            os.close(self._file)
            self._file = -1


def _cannot(path: Path, error: OSError) -> str:
    return (
        f"the journal {path} cannot be written: {error.strerror}. Nothing more is submitted, as it could not be found"
        " again; make room, or let it be written"
    )
