"""Run the call in a sandbox: `python -m asyncflow_hpc.backends.run_function [SANDBOX]`.

SANDBOX is by default $ASYNCFLOW_SANDBOX, else the current directory. The call is read from `.asyncflow/call.pkl` in it,
and what became of it goes to `.asyncflow/result.pkl`. The current directory, the environment and the output are those
that the process was given. `ExitCode` says how it may end.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import IO, TYPE_CHECKING, Any

from asyncflow_hpc.errors import ConfigurationError, SerializationError, SessionError

from .call_files import (
    CALL,
    RESULT,
    CallFile,
    ExitCode,
    Sink,
    open_file,
    refuse_other_versions,
    remove_file,
    versions,
    write_file,
)

if TYPE_CHECKING:
    from contextvars import Context

__all__ = ["ExitCode", "main"]


def main(arguments: Sequence[str]) -> int:
    """Run the call and leave its result.

    Args:
        arguments: the sandbox, or none.

    Returns:
        The exit code of the process.
    """
    pid, output = os.getpid(), _Output()
    # LSF asks jobs to end with it: a KeyboardInterrupt would look like a failure of the function.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        sandbox = os.path.abspath(arguments[0] if arguments else os.environ.get("ASYNCFLOW_SANDBOX") or ".")
    except OSError as error:
        output.say(f"no function is run: the current directory is gone: {error.strerror}")
        return ExitCode.NO_CALL
    try:
        remove_file(sandbox, RESULT)
        call = open_file(sandbox, CALL)
    except (SessionError, ConfigurationError) as error:
        output.say(f"no function is run: {error}")
        return ExitCode.NO_CALL if isinstance(error, SessionError) else ExitCode.VERSIONS
    with call.pickles:
        answer = _answer(call)
    if os.getpid() != pid:
        from .calling import end_child

        end_child(answer)
    _say_why(answer, output)
    answer = output.flush(answer)
    return _deliver(sandbox, call, answer, pid, output)


def _answer(call: CallFile) -> dict[str, Any]:
    name = call.header["name"]
    try:
        refuse_other_versions(call.header, f"the call of task '{name}'")
    except ConfigurationError as error:
        return {"code": ExitCode.VERSIONS, "text": str(error)}
    # Not before: this imports cloudpickle.
    from .calling import Runner, attempt, failed

    try:
        _extend_search_path(call.header["search_path"])
        function, (args, kwargs), context = _load(call.pickles)
    except BaseException as error:
        answer = failed(error)
        answer.pop("exception", None)
        answer["text"] = (
            f"task '{name}' is not run: its function or its arguments cannot be unpickled by {sys.executable} on"
            f" {os.uname().nodename}: {answer['text']}. What they use must be installed there, or lie where the driver"
            " looks for modules"
        )
        return {"code": ExitCode.NO_FUNCTION, **answer}
    runner = Runner()
    answer = attempt(runner, function, args, kwargs, context)
    try:
        runner.close()
    except BaseException as error:
        return failed(error) if "result" in answer else answer
    return answer


def _extend_search_path(entries: Iterable[str]) -> None:
    # In the driver's order: there too, a module beside the script may stand before an installed one of its name.
    first = list(dict.fromkeys(entries))
    sys.path[:] = [*first, *(entry for entry in sys.path if os.path.abspath(entry) not in first)]


def _forget_current_directory() -> None:
    # With -m it comes first: a file of the task would stand for the module of its name.
    try:
        if not getattr(sys.flags, "safe_path", False) and sys.path[0] == os.getcwd():
            del sys.path[0]
    except (OSError, IndexError):
        pass


def _load(pickles: IO[bytes]) -> tuple[Callable[..., Any], tuple[Any, Any], Context]:
    from .calling import load_context

    return pickle.load(pickles), pickle.load(pickles), load_context(pickle.load(pickles))


class _Output:
    """The streams that the process was given, whatever the function puts in their place."""

    def __init__(self) -> None:
        self._streams = {"stdout": sys.stdout, "stderr": sys.stderr}

    def say(self, text: str) -> None:
        """Print to the standard error, if there is any."""
        try:
            print(text.rstrip("\n"), file=self._streams["stderr"], flush=True)
        except (OSError, ValueError, AttributeError):
            pass

    def flush(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Write out what was printed; it belongs to a result, which without it is a failure."""
        for name, stream in self._streams.items():
            try:
                if stream is not None and not stream.closed:
                    stream.flush()
            except (OSError, ValueError) as error:
                # The interpreter would try once more, and exit with a code of its own.
                setattr(sys, name, None)
                if "result" in answer:
                    from .calling import failed

                    answer = failed(error)
        return answer


def _say_why(answer: dict[str, Any], output: _Output) -> None:
    if "code" in answer:
        output.say(answer["text"])
    elif "text" in answer:
        # As Python does when a script raises, or calls sys.exit with a text.
        output.say(answer.get("traceback", answer["text"]))


def _deliver(sandbox: str, call: CallFile, answer: dict[str, Any], pid: int, output: _Output) -> int:
    try:
        try:
            return _write(sandbox, call, answer, pid)
        except SerializationError as error:
            output.say(str(error))
            unpicklable = {"code": ExitCode.UNPICKLABLE, "text": str(error)}
            if isinstance(error.__cause__, MemoryError):
                unpicklable["memory"] = True
            return _write(sandbox, call, unpicklable, pid)
    except SessionError as error:
        output.say(f"task '{call.header['name']}' ran, but its result is lost: {error}")
        return ExitCode.NO_RESULT


def _write(sandbox: str, call: CallFile, answer: dict[str, Any], pid: int) -> int:
    header = {"name": call.header["name"], "nonce": call.header["nonce"], **versions()}
    header |= {key: value for key, value in answer.items() if key not in ("result", "exception")}
    code = int(ExitCode.RAISED)
    if "code" in answer:
        header["kind"], code = "refused", int(answer["code"])
    elif "exit" in answer:
        header["kind"], code = "exit", answer["exit"]
    elif "result" in answer:
        header["kind"], code = "result", int(ExitCode.RETURNED)
    else:
        header["kind"], header["pickled"] = "raised", "exception" in answer
    write_file(sandbox, RESULT, header, lambda sink: _fill(sink, call.header["name"], answer, pid))
    return code


def _fill(sink: Sink, name: str, answer: dict[str, Any], pid: int) -> None:
    if "exception" in answer:
        sink.write(answer["exception"])
    if "result" not in answer:
        return
    from .calling import described
    from .pickling import dump_to

    value = answer["result"]
    try:
        dump_to(sink, value)
    except BaseException as error:
        raise SerializationError(
            f"task '{name}' ran, but its result, a {type(value).__name__}, cannot be pickled: {described(error)}"
        ) from error
    finally:
        # Pickling runs code of the value, which may fork as the function may.
        if os.getpid() != pid:
            os._exit(ExitCode.RAISED)


if __name__ == "__main__":
    _forget_current_directory()
    sys.exit(main(sys.argv[1:]))
