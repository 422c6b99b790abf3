"""What became of a call that another process was to run: the driver's side."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from asyncflow_hpc.errors import ConfigurationError, RemoteTraceback, SerializationError, SessionError
from asyncflow_hpc.states import FailureCause

from .call_files import (
    CALL,
    RESULT,
    CallFile,
    ExitCode,
    MissingFileError,
    open_file,
    read_header,
    refuse_other_versions,
)
from .calling import described

__all__ = ["Failed", "Result", "Returned", "raised_there", "read_result", "why_left"]


@dataclass(frozen=True)
class Returned:
    """The function returned, and its process exited with 0."""

    value: Any


@dataclass(frozen=True)
class Failed:
    """There is no value.

    Attributes:
        error: an exception, or a text where none came back; what `task["exception"]` takes.
        cause: in our normal form.
        exit_code: of the task: what the function gave to sys.exit, 1 after an exception, else that of its process.
        missing: there is no result at all. A file system that lags may still bring it: read again before you judge.
    """

    error: Exception | str
    cause: FailureCause
    exit_code: int | None
    missing: bool = False


Result = Returned | Failed

_OWN_FAILURES: dict[int, tuple[type[Exception], str]] = {
    ExitCode.NO_CALL: (SessionError, "the call was missing, damaged or not to be trusted"),
    ExitCode.VERSIONS: (ConfigurationError, "the call was pickled by other versions than those that were to run it"),
    ExitCode.NO_FUNCTION: (SerializationError, "the function or its arguments could not be unpickled"),
    ExitCode.UNPICKLABLE: (SerializationError, "the result could not be pickled"),
    ExitCode.NO_RESULT: (SessionError, "the result could not be written"),
}


def read_result(sandbox: str, exit_code: int | None) -> Result:
    """Read what a call in a sandbox has led to.

    Args:
        sandbox: where `write_call` left the call.
        exit_code: of the process that was to run it, as a shell (128 + signal) or as subprocess (-signal) gives it;
            None where it is not known.

    Returns:
        A value only if the function returned it in this very call and its process then exited with 0.

    Raises:
        OSError: it cannot be read for want of something, such as a descriptor: read again.
    """
    try:
        nonce = read_header(sandbox, CALL).get("nonce")
        result = open_file(sandbox, RESULT)
    except MissingFileError as error:
        return _without_result(exit_code, str(error), missing=True)
    except (SessionError, ConfigurationError) as error:
        return _without_result(exit_code, str(error))
    with result.pickles:
        if nonce is None or result.header.get("nonce") != nonce:
            return _without_result(exit_code, f"{sandbox} holds the result of another call", missing=True)
        try:
            refuse_other_versions(result.header, f"the result in {sandbox}")
        except ConfigurationError as error:
            return Failed(error, FailureCause.BACKEND, exit_code)
        return _judge(result, exit_code)


def _without_result(exit_code: int | None, reason: str, *, missing: bool = False) -> Failed:
    if exit_code in _OWN_FAILURES:
        kind, text = _OWN_FAILURES[exit_code]
        error = kind(f"{text} (exit code {exit_code}); the task's standard error says more")
        return Failed(error, FailureCause.BACKEND, exit_code)
    text = f"the process that ran the function ended with {_described(exit_code)} and left no result: {reason}"
    if exit_code == 0:
        text += "; nothing shows that the function returned, and it may have called os._exit()"
    # As where a worker of the local backend ends so: the function's doing.
    cause = FailureCause.EXIT_CODE if missing and exit_code == 0 else _cause(exit_code)
    return Failed(text, cause, exit_code, missing)


def _described(exit_code: int | None) -> str:
    if exit_code is None:
        return "an exit code that is not known"
    number = _signal(exit_code)
    return f"exit code {exit_code}" + (f" (signal {number})" if number else "")


def _signal(exit_code: int) -> int | None:
    number = -exit_code if exit_code < 0 else exit_code - 128
    return number if 0 < number <= 64 else None


def _cause(exit_code: int | None) -> FailureCause:
    if not exit_code:
        return FailureCause.BACKEND
    return FailureCause.SIGNAL if _signal(exit_code) else FailureCause.EXIT_CODE


def _judge(result: CallFile, exit_code: int | None) -> Result:
    header = result.header
    kind = header["kind"]
    if kind == "result":
        return _value(result, exit_code)
    if kind == "exit":
        return Failed(why_left(header), FailureCause.EXIT_CODE, header["exit"])
    cause = FailureCause.MEMORY if header.get("memory") else None
    if kind == "raised":
        return Failed(_raised(result), cause or FailureCause.EXIT_CODE, 1)
    refused = _OWN_FAILURES[header["code"]][0](header["text"])
    if header.get("traceback"):
        refused.__cause__ = RemoteTraceback(header["traceback"])
    code = 1 if header["code"] == ExitCode.UNPICKLABLE else header["code"]
    return Failed(refused, cause or FailureCause.BACKEND, code)


def _value(result: CallFile, exit_code: int | None) -> Result:
    if exit_code != 0:
        text = f"the function returned, but its process then ended with {_described(exit_code)}"
        return Failed(text, _cause(exit_code), exit_code)
    try:
        return Returned(pickle.load(result.pickles))
    except BaseException as error:
        text = f"the result of task '{result.header['name']}' cannot be unpickled: {described(error)}"
        return Failed(SerializationError(text), FailureCause.BACKEND, 1)


def _raised(result: CallFile) -> Exception | str:
    header, error = result.header, None
    if header["pickled"]:
        try:
            error = pickle.load(result.pickles)
        except BaseException:
            # Its class may differ here from what it is over there; the text says what the object cannot.
            pass
    if not isinstance(error, Exception):
        return str(header["traceback"])
    return raised_there(error, header["traceback"])


def raised_there(error: Exception, trace: str) -> Exception:
    """Let an exception of another process show where it was raised."""
    # Not by assignment: a class may refuse it, as a frozen dataclass does.
    with suppress(Exception):
        BaseException.__setattr__(error, "__cause__", RemoteTraceback(trace))
    return error


def why_left(answer: Mapping[str, Any]) -> str:
    """Say what a function did that called sys.exit; see `calling.left`."""
    text = f": {answer['text']}" if answer.get("text") else ""
    return f"the function called sys.exit({answer['exit']}) instead of returning{text}"
