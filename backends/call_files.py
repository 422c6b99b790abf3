"""The files in which a call goes to another process and its result comes back: `.asyncflow/call.pkl`, `result.pkl`.

Each begins with a line of fixed length that holds the format and the SHA-256 and size of all that follows. A line of
JSON comes next, which any Python can read, and then the pickles, which only some can.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import IO, Any

from asyncflow_hpc.errors import ConfigurationError, SessionError

from .shortage import is_short

__all__ = [
    "CALL", "RESULT", "CallFile", "ExitCode", "MissingFileError", "Sink",
    "open_file", "read_header", "refuse_other_versions", "remove_file", "versions", "write_call", "write_file",
]  # fmt: skip

CALL, RESULT = "call.pkl", "result.pkl"

FORMAT = 1
# A function may put another in its place.
_to_json = json.dumps
_FIRST_LINE = re.compile(rb"asyncflow_hpc (\d{4}) ([0-9a-f]{64}) ([0-9a-f]{16})\n")
_FIRST_WORDS = re.compile(rb"asyncflow_hpc (\d{4}) ")


class ExitCode(IntEnum):
    """How a process that ran a call ended; a sys.exit of the function may give any other code, and these too."""

    RETURNED = 0
    """The function returned, and its result is written."""
    RAISED = 1
    """The function raised, and the result holds the exception."""
    NO_CALL = 240
    """The call is missing, damaged, or not to be trusted; there is no result."""
    VERSIONS = 241
    """The call was pickled by another version of Python, cloudpickle or asyncflow_hpc."""
    NO_FUNCTION = 242
    """The function, an argument or a context variable cannot be unpickled here; a module may be missing."""
    UNPICKLABLE = 243
    """The function returned what cannot be pickled, and the result says so."""
    NO_RESULT = 244
    """The result cannot be written; there is none."""


class MissingFileError(SessionError):
    """A file of the bookkeeping is not there, or not there yet."""


@dataclass(frozen=True)
class CallFile:
    """A file that is whole and our own.

    Attributes:
        header: the line of JSON.
        pickles: where they begin; to be closed by who uses it.
    """

    header: dict[str, Any]
    pickles: IO[bytes]


class Sink:
    """Writes to a stream, and keeps the digest and the size of what it was given.

    Attributes:
        failure: why the stream took no more; tells a full disk from a value that cannot be pickled.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._size = 0
        self.failure: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write all of it.

        Raises:
            OSError: it cannot be written.
        """
        view = memoryview(data)
        self._digest.update(view)
        self._size += view.nbytes
        try:
            return self._stream.write(view)
        except OSError as error:
            self.failure = error
            raise

    def first_line(self) -> bytes:
        """The line that goes before what was written."""
        return f"asyncflow_hpc {FORMAT:04} {self._digest.hexdigest()} {self._size:016x}\n".encode()


def write_call(
    sandbox: str,
    name: str,
    function_pickle: bytes,
    arguments: bytes,
    context: list[tuple[bytes, bytes]] | None,
    search_path: Iterable[str],
) -> None:
    """Leave a call in a sandbox for `run_function`.

    Args:
        sandbox: exists.
        name: of the task, for messages.
        function_pickle: from `pickling.FunctionPickles`.
        arguments: from `pickling.dump_arguments`.
        context: from `pickling.dump_context`.
        search_path: where the function's modules are found besides the places where Python looks by itself.

    Raises:
        SessionError: it cannot be written.
        OSError: the process lacks what it takes, such as a descriptor.
    """
    header = {
        "name": name,
        "nonce": os.urandom(16).hex(),
        "search_path": [os.path.abspath(entry) for entry in search_path],
        **versions(),
    }
    try:
        os.mkdir(f"{sandbox}/.asyncflow", 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise SessionError(f"sandbox {sandbox} cannot be used: {error.strerror}") from error

    def fill(sink: Sink) -> None:
        for part in (function_pickle, arguments, pickle.dumps(context, pickle.HIGHEST_PROTOCOL)):
            sink.write(part)

    write_file(sandbox, CALL, header, fill)


def write_file(sandbox: str, file: str, header: Mapping[str, Any], fill: Callable[[Sink], None]) -> None:
    """Write a file of the bookkeeping: whole and on the disk, or not at all.

    Args:
        sandbox: where.
        file: CALL or RESULT.
        header: for JSON.
        fill: writes the pickles; what it raises passes through.

    Raises:
        SessionError: it cannot be written.
    """
    path = f"{sandbox}/.asyncflow/{file}"
    temporary = f"{file}.{os.urandom(8).hex()}"
    with _bookkeeping(sandbox) as directory:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
            try:
                _write(descriptor, header, fill)
                os.rename(temporary, file, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=directory)
                raise
        except OSError as error:
            raise SessionError(f"{path} cannot be written: {error.strerror}; is the disk or the quota full?") from error
        # Not every file system can do this for a directory.
        with suppress(OSError):
            os.fsync(directory)


def _write(descriptor: int, header: Mapping[str, Any], fill: Callable[[Sink], None]) -> None:
    with open(descriptor, "wb") as stream:
        # The function may have changed the umask.
        os.fchmod(descriptor, 0o600)
        sink = Sink(stream)
        stream.write(sink.first_line())
        sink.write(_to_json(header).encode() + b"\n")
        try:
            fill(sink)
        except BaseException:
            if sink.failure is not None:
                raise sink.failure from None
            raise
        stream.seek(0)
        stream.write(sink.first_line())
        stream.flush()
        os.fsync(descriptor)


def remove_file(sandbox: str, file: str) -> None:
    """Remove a file of the bookkeeping, if it is there.

    Raises:
        SessionError: it cannot be removed, or the sandbox is not to be trusted.
    """
    with _bookkeeping(sandbox) as directory:
        try:
            os.unlink(file, dir_fd=directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise SessionError(f"{sandbox}/.asyncflow/{file} cannot be removed: {error.strerror}") from error


def open_file(sandbox: str, file: str) -> CallFile:
    """Open a file of the bookkeeping once all of it is known to be as it was written.

    Raises:
        SessionError: it is missing (MissingFileError), damaged, or not to be trusted.
        ConfigurationError: another version of asyncflow_hpc has written it.
        OSError: the process lacks what it takes to say anything about it, such as a descriptor.
    """
    stream = _open(sandbox, file)
    try:
        return CallFile(_header(f"{sandbox}/.asyncflow/{file}", stream, verify=True), stream)
    except BaseException:
        stream.close()
        raise


def read_header(sandbox: str, file: str) -> dict[str, Any]:
    """Read the line of JSON alone, without looking whether the pickles are as they were written.

    Raises:
        SessionError, ConfigurationError, OSError: as for `open_file`.
    """
    with _open(sandbox, file) as stream:
        return _header(f"{sandbox}/.asyncflow/{file}", stream, verify=False)


@contextmanager
def _bookkeeping(sandbox: str) -> Iterator[int]:
    path = f"{sandbox}/.asyncflow"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} does not exist; is this the sandbox of a task?") from error
    except OSError as error:
        if is_short(error):
            raise
        raise SessionError(f"{path} is not the directory that it should be: {error.strerror}") from error
    try:
        _refuse_foreign(path, os.fstat(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


def _open(sandbox: str, file: str) -> IO[bytes]:
    path = f"{sandbox}/.asyncflow/{file}"
    with _bookkeeping(sandbox) as directory:
        try:
            # Opening a FIFO would wait for its other end.
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        except FileNotFoundError as error:
            raise MissingFileError(f"{path} does not exist") from error
        except OSError as error:
            if is_short(error):
                raise
            reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
            raise SessionError(f"{path} is not read: {reason}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise SessionError(f"{path} is not read: it is no regular file")
        _refuse_foreign(path, found)
    except BaseException:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def _refuse_foreign(path: str, found: os.stat_result) -> None:
    # Reading a pickle runs what is in it.
    if found.st_uid != os.geteuid():
        raise SessionError(f"{path} is not used: it belongs to user {found.st_uid}, not to user {os.geteuid()}")
    if found.st_mode & 0o022:
        mode = stat.S_IMODE(found.st_mode)
        raise SessionError(f"{path} is not used: it can be written by others (mode {mode:04o}); `chmod go-w` it")


def _header(path: str, stream: IO[bytes], *, verify: bool) -> dict[str, Any]:
    damaged = SessionError(f"{path} is damaged; run the task again, and look for a full disk or quota")
    line = stream.readline(200)
    words = _FIRST_WORDS.match(line)
    if words is not None and int(words[1]) != FORMAT:
        raise ConfigurationError(
            f"{path} has format {int(words[1])}, and the asyncflow_hpc of {sys.executable} knows format {FORMAT}:"
            " install the same version of asyncflow_hpc for the driver and for its tasks"
        )
    first = _FIRST_LINE.fullmatch(line)
    if first is None or os.fstat(stream.fileno()).st_size != len(line) + int(first[3], 16):
        raise damaged
    if verify and _digest(stream) != first[2].decode():
        raise damaged
    stream.seek(len(line))
    try:
        header = json.loads(stream.readline())
    except (ValueError, RecursionError) as error:
        raise damaged from error
    if not isinstance(header, dict):
        raise damaged
    return header


def _digest(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def versions() -> dict[str, Any]:
    """Say what pickles here: the part of a header that `refuse_other_versions` compares."""
    # Late, so that a Python without cloudpickle can still say what it lacks.
    try:
        from cloudpickle import __version__ as cloudpickle
    except ImportError:
        cloudpickle = None
    return {
        "python": list(sys.version_info[:2]),
        "cloudpickle": cloudpickle,
        "executable": sys.executable,
        "host": os.uname().nodename,
    }


def refuse_other_versions(header: Mapping[str, Any], what: str) -> None:
    """See that this Python can read the pickles behind a header.

    Args:
        header: with the `versions` of who wrote it.
        what: the pickles hold, for the message.

    Raises:
        ConfigurationError: it is another minor version of Python, or another major version of cloudpickle.
    """
    here = versions()
    if header["python"] == here["python"] and _major(header) == _major(here) is not None:
        return
    raise ConfigurationError(
        f"{what} was pickled by {_described(header)}, and this is {_described(here)}. Functions cross only between"
        " equal versions x.y of Python and equal major versions of cloudpickle: run the task with such a Python (load"
        " its module or activate its environment in pre_exec), or run the driver with the Python that the task has"
    )


def _major(header: Mapping[str, Any]) -> str | None:
    return str(header["cloudpickle"]).partition(".")[0] if header["cloudpickle"] else None


def _described(header: Mapping[str, Any]) -> str:
    major, minor = header["python"]
    library = f"cloudpickle {header['cloudpickle']}" if header["cloudpickle"] else "no cloudpickle"
    return f"Python {major}.{minor} with {library} ({header['executable']} on {header['host']})"
