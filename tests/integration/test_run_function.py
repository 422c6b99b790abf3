"""Function tasks in a process of their own, as a run script starts it: what the driver gets whatever they do."""

from __future__ import annotations

import asyncio
import contextvars
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncflow_hpc.backends.call_files import CALL, RESULT, ExitCode, Sink, open_file, write_call, write_file
from asyncflow_hpc.backends.call_results import Failed, Result, Returned, read_result
from asyncflow_hpc.backends.pickling import FunctionPickles, dump_arguments, dump_context, dump_value
from asyncflow_hpc.errors import ConfigurationError, RemoteTraceback, SerializationError, SessionError
from asyncflow_hpc.states import FailureCause

MODULE = "asyncflow_hpc.backends.run_function"

# Known by its name in any process that can import this module.
COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


class Sandbox:
    """A sandbox with a hostile name, and the process of its call."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = str(path)
        self.bookkeeping = path / ".asyncflow"
        self.stdout = b""
        self.stderr = b""

    def write(self, function: Callable[..., Any], *args: Any, context: Any = None, **kwargs: Any) -> None:
        _, data = FunctionPickles().get("task", function)
        arguments = dump_arguments("task", args, kwargs)
        write_call(self.path, "task", data, arguments, dump_context(context) if context else None, sys.path)

    def start(self, *words: str, **options: Any) -> int:
        # Unbuffered output would hide what is not flushed.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        pipe = subprocess.PIPE
        options = {"stdout": pipe, "stderr": pipe, "cwd": self.path, "env": environment, **options}
        process = subprocess.Popen([sys.executable, *(words or ("-m", MODULE))], stdin=subprocess.DEVNULL, **options)
        # Returns once nobody has the output open any more: children that live on are waited for.
        out, err = process.communicate()
        self.stdout, self.stderr = out or b"", err or b""
        return process.returncode

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Result:
        self.write(function, *args, **kwargs)
        return read_result(self.path, self.start())

    def value(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = self.run(function, *args, **kwargs)
        assert isinstance(result, Returned), (result, self.stderr.decode())
        return result.value

    def failure(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Failed:
        result = self.run(function, *args, **kwargs)
        assert isinstance(result, Failed), result
        return result


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path / "a sandbox\nwith 'everything' $HOME ü")


def echo(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


ATOMS = st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.fractions()


@given(st.recursive(ATOMS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_values_go_and_come_back(tmp_path: Path, value: Any) -> None:
    sandbox = Sandbox(tmp_path / os.urandom(8).hex())
    assert sandbox.value(echo, value, key=value) == ((value,), {"key": value})


def test_objects_of_all_kinds_come_back(sandbox: Sandbox) -> None:
    class Local:
        value = 1

    number = 20
    values = [Local, len, COLOUR, os.path.join, Path("/a"), lambda x: x + number, range(3), memoryview(b"x").tobytes()]
    (back, *_), _ = sandbox.value(echo, values)
    assert back[:5] == values[:5]
    assert back[2] is COLOUR
    assert back[5](1) == 21
    assert back[6:] == values[6:]


def test_a_large_result(sandbox: Sandbox) -> None:
    size = 50 << 20
    value = sandbox.value(lambda: bytes(range(256)) * (size >> 8))
    assert (len(value), value[:256], value[-1]) == (size, bytes(range(256)), 255)


def test_a_function_runs_where_and_as_it_was_started(sandbox: Sandbox, tmp_path: Path) -> None:
    def look() -> Any:
        return os.getcwd(), os.environ["COLOUR"], os.getpid()

    sandbox.write(look)
    environment = {**os.environ, "COLOUR": "blue", "ASYNCFLOW_SANDBOX": sandbox.path}
    result = read_result(sandbox.path, sandbox.start(cwd=tmp_path, env=environment))
    assert isinstance(result, Returned)
    assert result.value[:2] == (str(tmp_path), "blue")
    assert result.value[2] != os.getpid()


def test_the_sandbox_may_be_an_argument(sandbox: Sandbox, tmp_path: Path) -> None:
    def moves() -> str:
        os.chdir("/")
        return "moved"

    sandbox.write(moves)
    code = sandbox.start("-m", MODULE, os.path.relpath(sandbox.path, tmp_path), cwd=tmp_path)
    assert read_result(sandbox.path, code) == Returned("moved")


SCRIPT = """
import subprocess, sys
from contextvars import ContextVar
from asyncflow_hpc.backends.call_files import write_call
from asyncflow_hpc.backends.call_results import Failed, Returned, read_result
from asyncflow_hpc.backends.pickling import FunctionPickles, dump_arguments
import beside

class Broken(Exception):
    def __init__(self, code, text):
        super().__init__(code, text)
        self.code = code

class Point:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return isinstance(other, Point) and self.x == other.x

VARIABLE = ContextVar("variable")
offset = 10

def shift(point): return Point(point.x + offset + beside.ONE), VARIABLE
def breaks(): raise Broken(7, "text")

def run(function, *args):
    sandbox = sys.argv[1]
    data = FunctionPickles().get("task", function)[1]
    write_call(sandbox, "task", data, dump_arguments("task", args, {}), None, sys.path)
    words = [sys.executable, "-m", "asyncflow_hpc.backends.run_function"]
    return read_result(sandbox, subprocess.run(words, cwd=sandbox, stderr=subprocess.DEVNULL).returncode)

assert run(shift, Point(1)) == Returned((Point(12), VARIABLE))
failed = run(breaks)
assert type(failed.error) is Broken and failed.error.args == (7, "text") and failed.error.code == 7, failed
"""


def test_functions_of_the_main_script_and_modules_beside_it(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("ONE = 1\n")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    assert sandbox.start(str(script), sandbox.path, cwd="/") == 0, sandbox.stderr.decode()


def test_files_of_the_sandbox_are_no_modules(sandbox: Sandbox) -> None:
    Path(sandbox.path, "wave.py").write_text("raise SystemExit('the wrong one')\n")

    def imports() -> bool:
        import wave

        return hasattr(wave, "open")

    assert sandbox.value(imports) is True


def test_only_what_is_needed_is_imported(sandbox: Sandbox) -> None:
    def modules() -> list[str]:
        import sys

        return list(sys.modules)

    heavy = {"asyncio", "asyncflow_hpc.engine", "asyncflow_hpc.task", "numpy", "psij", "psutil", "rich", "typeguard"}
    assert heavy.isdisjoint(sandbox.value(modules))


def test_context_variables(sandbox: Sandbox) -> None:
    context = contextvars.Context()
    context.run(COLOUR.set, "red")

    async def reads() -> str:
        await asyncio.sleep(0)
        return COLOUR.get()

    assert sandbox.value(reads, context=context) == "red"
    assert sandbox.value(COLOUR.get, context=context) == "red"
    assert sandbox.value(reads) == "none"


def test_what_an_async_function_leaves_is_ended(sandbox: Sandbox) -> None:
    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            print("generator closed")

    async def endless(stubborn: bool) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                print("cancelled")
                if not stubborn:
                    raise

    async def leaves(kept: list[Any]) -> int:
        kept += [asyncio.ensure_future(endless(False)), asyncio.ensure_future(endless(True)), generator()]
        await asyncio.sleep(0)
        return int(await anext(kept[-1]))

    assert sandbox.value(leaves, []) == 1
    lines = sandbox.stdout.decode().splitlines()
    assert lines.count("cancelled") >= 2
    assert "generator closed" in lines


class SeveralArguments(Exception):
    def __init__(self, code: int, *, text: str) -> None:
        super().__init__(code)
        self.text = text

    def __reduce__(self) -> Any:
        return _several, (self.args[0], self.text)


def _several(code: int, text: str) -> SeveralArguments:
    return SeveralArguments(code, text=text)


@pytest.mark.parametrize("is_async", [False, True])
def test_an_exception_comes_back_with_its_traceback(sandbox: Sandbox, is_async: bool) -> None:
    def where_it_happens() -> None:
        raise SeveralArguments(4, text="four") from KeyError("before")

    async def later() -> None:
        where_it_happens()

    found = sandbox.failure(later if is_async else where_it_happens)
    assert (found.cause, found.exit_code) == (FailureCause.EXIT_CODE, 1)
    assert isinstance(found.error, SeveralArguments)
    assert (found.error.args, found.error.text) == ((4,), "four")
    assert isinstance(found.error.__cause__, RemoteTraceback)
    text = str(found.error.__cause__)
    assert "KeyError: 'before'" in text
    assert "where_it_happens" in text
    assert "calling.py" not in text
    assert "base_events.py" not in text
    assert text.strip() in sandbox.stderr.decode()


class Unreadable(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("stays here")

    def __str__(self) -> str:
        raise RuntimeError("no text either")


@pytest.mark.parametrize("error", [Unreadable, KeyboardInterrupt, GeneratorExit])
def test_an_exception_that_cannot_travel_comes_as_text(sandbox: Sandbox, error: type[BaseException]) -> None:
    def fails() -> None:
        raise error()

    found = sandbox.failure(fails)
    assert found.cause is FailureCause.EXIT_CODE
    assert isinstance(found.error, str)
    assert error.__name__ in found.error
    assert "in fails" in found.error


def test_memory(sandbox: Sandbox) -> None:
    def greedy() -> bytes:
        return bytes(1 << 60)

    found = sandbox.failure(greedy)
    assert (type(found.error), found.cause) == (MemoryError, FailureCause.MEMORY)


@pytest.mark.parametrize(
    ("argument", "exit_code", "process"),
    [(0, 0, 0), (None, 0, 0), (3, 3, 3), ("a text", 1, 1), (True, 1, 1), (256, 256, 0), (-1, -1, 255),
     (241, 241, 241), (1 << 100, -1, 255)],
)  # fmt: skip
def test_sys_exit_is_no_result(sandbox: Sandbox, argument: Any, exit_code: int, process: int) -> None:
    async def leaves() -> None:
        sys.exit(argument)

    sandbox.write(leaves)
    ended = sandbox.start()
    assert ended == process
    found = read_result(sandbox.path, ended)
    assert isinstance(found, Failed)
    assert (found.cause, found.exit_code) == (FailureCause.EXIT_CODE, exit_code)
    assert f"sys.exit({exit_code})" in str(found.error)
    assert ("a text" in str(found.error)) == ("a text" in sandbox.stderr.decode()) == (argument == "a text")


@pytest.mark.parametrize(
    ("end", "cause", "exit_code"),
    [
        (lambda: os._exit(0), FailureCause.EXIT_CODE, 0),
        (lambda: os._exit(3), FailureCause.EXIT_CODE, 3),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), FailureCause.SIGNAL, -9),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), FailureCause.SIGNAL, -15),
    ],
)
def test_a_process_that_ends_before_its_function(
    sandbox: Sandbox, end: Callable[[], Any], cause: FailureCause, exit_code: int
) -> None:
    assert sandbox.value(lambda: "earlier") == "earlier"
    found = sandbox.failure(end)
    assert (found.cause, found.exit_code, found.missing) == (cause, exit_code, True)


def test_a_call_that_runs_again_keeps_nothing_of_the_first_time(sandbox: Sandbox) -> None:
    def once() -> str:
        open("been here", "x").close()
        return "first"

    def dies() -> str:
        if os.path.exists("been here"):
            os._exit(0)
        return once()

    assert sandbox.value(dies) == "first"
    assert sandbox.start() == 0
    assert isinstance(read_result(sandbox.path, 0), Failed)


@pytest.mark.parametrize("ending", ["returns", "raises", "exits"])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_child_that_comes_back_has_no_result(sandbox: Sandbox, ending: str, is_async: bool) -> None:
    def forks() -> str:
        child = os.fork()
        if not child:
            print("the child")
            if ending == "raises":
                raise KeyError("of the child")
            if ending == "exits":
                sys.exit(9)
            return "child"
        return f"parent of {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}"

    async def forks_later() -> str:
        answer = forks()
        if answer != "child":
            # Only a loop that the child has left alone hears of a thread.
            await asyncio.to_thread(subprocess.run, ["true"])
        return answer

    code = {"returns": 0, "raises": 1, "exits": 9}[ending]
    assert sandbox.value(forks_later if is_async else forks) == f"parent of {code}"
    assert sandbox.stdout == b"the child\n"


def test_a_child_that_outlives_its_parent_has_no_result(sandbox: Sandbox) -> None:
    def forks() -> str:
        reading, writing = os.pipe()
        if not os.fork():
            os.close(writing)
            # Ends when the parent has.
            os.read(reading, 1)
            return "child"
        os._exit(0)

    found = sandbox.failure(forks)
    assert (found.cause, found.missing) == (FailureCause.EXIT_CODE, True)


class ForksWhenPickled:
    def __reduce__(self) -> Any:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        return str, ("parent" if child else "child",)


def test_a_child_of_the_pickling_has_no_result(sandbox: Sandbox) -> None:
    assert sandbox.value(ForksWhenPickled) == "parent"
    assert sorted(os.listdir(sandbox.bookkeeping)) == [CALL, RESULT]


def test_a_process_that_dies_after_its_function_has_not_succeeded(sandbox: Sandbox) -> None:
    def returns() -> str:
        import atexit

        atexit.register(os._exit, 7)
        return "value"

    found = sandbox.failure(returns)
    assert (found.cause, found.exit_code) == (FailureCause.EXIT_CODE, 7)


def test_a_result_that_cannot_be_pickled(sandbox: Sandbox) -> None:
    found = sandbox.failure(lambda: [b"x" * 1_000_000, threading.Lock()])
    assert isinstance(found.error, SerializationError)
    assert (found.cause, found.exit_code) == (FailureCause.BACKEND, 1)
    assert "'task' ran, but its result, a list, cannot be pickled" in str(found.error)
    assert "lock" in str(found.error)
    assert str(found.error) in sandbox.stderr.decode()
    assert sorted(os.listdir(sandbox.bookkeeping)) == [CALL, RESULT]


def test_a_result_that_does_not_fit(sandbox: Sandbox) -> None:
    def too_much() -> bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        return b"x" * 1_000_000

    found = sandbox.failure(too_much)
    assert isinstance(found.error, SessionError)
    assert (found.cause, found.exit_code) == (FailureCause.BACKEND, ExitCode.NO_RESULT)
    assert "its result is lost" in sandbox.stderr.decode()
    assert os.listdir(sandbox.bookkeeping) == [CALL]


def test_output_is_complete(sandbox: Sandbox) -> None:
    def prints() -> None:
        print("ä" * 100_000)
        print("last words", file=sys.stderr, end="")

    sandbox.value(prints)
    assert sandbox.stdout.decode() == "ä" * 100_000 + "\n"
    assert sandbox.stderr == b"last words"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_that_cannot_be_written_is_a_failure(sandbox: Sandbox, stream: str) -> None:
    def prints() -> str:
        print("lost", file=getattr(sys, stream), end="")
        return "value"

    sandbox.write(prints)
    with open("/dev/full", "wb") as full:
        code = sandbox.start(**{stream: full})
    found = read_result(sandbox.path, code)
    assert isinstance(found, Failed)
    assert (type(found.error), found.exit_code, code) == (OSError, 1, 1)


def test_output_may_be_replaced_and_closed(sandbox: Sandbox) -> None:
    def bends() -> str:
        import io

        print("before")
        sys.stdout.close()
        sys.stdout = io.StringIO()
        print("nowhere")
        return "value"

    assert sandbox.value(bends) == "value"
    assert sandbox.stdout == b"before\n"


def test_no_output_at_all(sandbox: Sandbox) -> None:
    sandbox.write(lambda: print("nowhere"))
    start = ["sh", "-c", 'exec "$0" "$@" >&- 2>&-', sys.executable, "-m", MODULE]
    assert read_result(sandbox.path, subprocess.run(start, cwd=sandbox.path).returncode) == Returned(None)


def refused(sandbox: Sandbox, code: ExitCode, *words: str) -> Failed:
    assert sandbox.start(*words) == code, sandbox.stderr.decode()
    result = read_result(sandbox.path, code)
    assert isinstance(result, Failed)
    assert (result.cause, result.exit_code) == (FailureCause.BACKEND, code)
    return result


def mark() -> None:
    open("it ran", "x").close()


@pytest.fixture
def unrun(sandbox: Sandbox) -> Any:
    sandbox.write(mark)
    yield sandbox
    assert not os.path.exists(os.path.join(sandbox.path, "it ran"))


def by_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def by_others(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, 65534, -1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "damaged"),
        (by_link, "symbolic link"),
        (by_others, "belongs to user 65534"),
        (lambda path: path.chmod(0o606), "written by others"),
    ],
)
def test_a_call_that_is_not_to_be_trusted_is_not_run(
    unrun: Sandbox, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(unrun.bookkeeping / CALL)
    found = refused(unrun, ExitCode.NO_CALL)
    assert isinstance(found.error, SessionError)
    assert message in unrun.stderr.decode()
    assert "Traceback" not in unrun.stderr.decode()


def change_header(sandbox: Sandbox, **changes: Any) -> None:
    call = open_file(sandbox.path, CALL)
    with call.pickles as stream:
        pickles = stream.read()

    def fill(sink: Sink) -> None:
        sink.write(pickles)

    write_file(sandbox.path, CALL, {**call.header, **changes}, fill)


@pytest.mark.parametrize("changes", [{"python": [3, 99]}, {"cloudpickle": "99.1.0"}])
def test_other_versions_run_nothing(unrun: Sandbox, changes: dict[str, Any]) -> None:
    change_header(unrun, **changes, executable="/opt/driver/python", host="login1")
    found = refused(unrun, ExitCode.VERSIONS)
    assert isinstance(found.error, ConfigurationError)
    for text in (
        "3.99" if "python" in changes else "99.1.0",
        "/opt/driver/python on login1",
        sys.executable,
        "pre_exec",
    ):
        assert text in str(found.error)
    assert str(found.error) in unrun.stderr.decode()


def test_a_python_without_cloudpickle_says_so(unrun: Sandbox) -> None:
    program = f"import runpy, sys; sys.modules['cloudpickle'] = None; runpy.run_module({MODULE!r}, run_name='__main__')"
    found = refused(unrun, ExitCode.VERSIONS, "-c", program)
    assert "no cloudpickle" in str(found.error)


def test_another_format_runs_nothing(unrun: Sandbox) -> None:
    path = unrun.bookkeeping / CALL
    path.write_bytes(path.read_bytes().replace(b"asyncflow_hpc 0001", b"asyncflow_hpc 0002", 1))
    assert isinstance(refused(unrun, ExitCode.VERSIONS).error, ConfigurationError)
    assert "format 2" in unrun.stderr.decode()


def test_a_missing_module_is_named(sandbox: Sandbox) -> None:
    function = pickle.dumps(mark, 0).replace(__name__.encode(), b"not_a_module")
    write_call(sandbox.path, "task", function, dump_arguments("task", (), {}), None, [])
    found = refused(sandbox, ExitCode.NO_FUNCTION)
    assert isinstance(found.error, SerializationError)
    assert "No module named 'not_a_module'" in str(found.error)
    assert isinstance(found.error.__cause__, RemoteTraceback)


class EndsWhenUnpickled:
    def __reduce__(self) -> Any:
        return sys.exit, (0,)


def test_arguments_that_cannot_be_unpickled(sandbox: Sandbox) -> None:
    arguments = dump_value(((EndsWhenUnpickled(),), {}))
    write_call(sandbox.path, "task", dump_value(echo), arguments, None, sys.path)
    assert "SystemExit: 0" in str(refused(sandbox, ExitCode.NO_FUNCTION).error)
