"""Calls in forked processes: their records are those of the run script, whatever the function does."""

from __future__ import annotations

import contextvars
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from asyncflow_hpc.backends.call_files import write_call
from asyncflow_hpc.backends.call_results import Failed, Returned, read_result
from asyncflow_hpc.backends.call_server import SERVE
from asyncflow_hpc.backends.evidence import Record, read_record, record_path, spool_of
from asyncflow_hpc.backends.forked_call import REFUSED, Request, leave_request
from asyncflow_hpc.backends.pickling import FunctionPickles, dump_arguments
from asyncflow_hpc.backends.staging import Delivery, Plan, Transfer

pytestmark = pytest.mark.timeout(15)


class Server:
    """A call server, and the calls that it gets."""

    def __init__(self, session: Path) -> None:
        self.session = session
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "the server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=session
        )
        assert self.event() == {"event": "ready"}

    def event(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def prepare(self, uid: str, function: Callable[..., Any], *args: Any, **more: Any) -> str:
        sandbox = str(self.session / uid)
        os.mkdir(sandbox)
        _, data = FunctionPickles().get("task", function)
        write_call(sandbox, "task", data, dump_arguments("task", args, {}), None, sys.path)
        leave_request(Request(uid=uid, session=str(self.session), sandbox=sandbox, nonce="secret", **more))
        return sandbox

    def send(self, uid: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"uid": uid, "sandbox": str(self.session / uid)}).encode() + b"\n")
        self.process.stdin.flush()

    def start(self, uid: str, function: Callable[..., Any], *args: Any, **more: Any) -> int:
        """Start a call; returns the process that leads its group."""
        sandbox = self.prepare(uid, function, *args, **more)
        self.send(uid)
        assert self.event() == {"event": "begun", "uid": uid}
        return int(os.readlink(f"{sandbox}/.asyncflow/claim").partition("#")[0])

    def end(self, uid: str) -> tuple[int, Record | None]:
        event = self.event()
        assert (event.pop("event"), event.pop("uid")) == ("ended", uid)
        path = record_path(self.session / uid)
        return event["code"], read_record(path, session=self.session.name, uid=uid, attempt=0, nonce="secret")

    def value(self, uid: str, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
        self.start(uid, function, *args, **more)
        code, record = self.end(uid)
        result = read_result(str(self.session / uid), code)
        assert isinstance(result, Returned) and record is not None and record.exit_code == 0, (result, record)
        return result.value

    def text(self, uid: str, ending: str) -> str:
        return (self.session / uid / f"{uid}.{ending}").read_text()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    session = tmp_path / "a session\nwith 'everything' $HOME ü"
    session.mkdir()
    server = Server(session)
    with server.process:
        yield server
        server.process.kill()


def wait_for(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.01)


def test_record(server: Server) -> None:
    before = time.time()

    def works() -> tuple[str, str | None, str]:
        print("printed")
        print("complained", file=sys.stderr)
        return os.getcwd(), os.environ.get("OF_THE_TASK"), os.environ["ASYNCFLOW_SANDBOX"]

    pid = server.start("task.000001", works, environment={"OF_THE_TASK": "yes"})
    code, record = server.end("task.000001")
    sandbox = str(server.session / "task.000001")
    assert read_result(sandbox, code) == Returned((sandbox, "yes", sandbox))
    assert record is not None and record.ended_by_itself and (record.stage, record.exit_code) == ("run", 0)
    assert record.native_id == str(pid) and record.host == os.uname().nodename
    assert before <= record.start <= record.end <= time.time()
    assert record.cpu_time is not None and (record.max_rss or 0) > 1_000_000
    assert [path.name for path in spool_of(server.session).iterdir()] == ["task.000001"]
    assert os.readlink(f"{sandbox}/.asyncflow/claim") == f"{pid}#the server"
    assert (server.text("task.000001", "out"), server.text("task.000001", "err")) == ("printed\n", "complained\n")


def test_what_is_not_run(server: Server) -> None:
    taken = server.prepare("task.000001", print, "never")
    os.symlink("cancelled", f"{taken}/.asyncflow/claim")
    server.send("task.000001")
    assert server.end("task.000001") == (REFUSED, None)
    foreign = server.prepare("task.000002", print, "never")
    os.chmod(f"{foreign}/.asyncflow/request.pkl", 0o666)
    server.send("task.000002")
    assert server.end("task.000002") == (125, None)
    assert server.text("task.000001", "out") == server.text("task.000002", "out") == ""


def fails() -> None:
    raise KeyError("why")


@pytest.mark.parametrize(
    ("function", "code", "number"),
    [
        (fails, 1, None),
        (lambda: sys.exit(3), 3, None),
        (lambda: os._exit(4), 4, None),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), None, signal.SIGKILL),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), None, signal.SIGSEGV),
    ],
    ids=["raises", "sys.exit", "os._exit", "SIGKILL", "SIGSEGV"],
)
def test_failures(server: Server, function: Callable[[], None], code: int | None, number: int | None) -> None:
    server.start("task.000001", function)
    _, record = server.end("task.000001")
    assert record is not None and (record.exit_code, record.signal) == (code, number)
    assert isinstance(read_result(str(server.session / "task.000001"), code), Failed)
    assert server.value("task.000002", lambda: 1) == 1


def test_calls_share_nothing(server: Server) -> None:
    def makes() -> tuple[float, int, contextvars.ContextVar[int]]:
        return random.random(), os.getpid(), contextvars.ContextVar("made")

    results = [server.value(f"task.{number:06}", makes) for number in (1, 2)]
    for one, other in zip(*results, strict=True):
        assert one != other and one is not other


def test_the_end_of_a_process_of_python(server: Server) -> None:
    def leaves_something_to_do(path: str) -> None:
        import atexit

        atexit.register(lambda: Path(path, "at exit").touch())
        threading.Thread(target=lambda: (time.sleep(0.2), Path(path, "thread").touch())).start()

    sandbox = server.session / "task.000001"
    server.value("task.000001", leaves_something_to_do, str(sandbox))
    assert (sandbox / "at exit").exists() and (sandbox / "thread").exists()


def sleeps() -> None:
    Path("child").write_text(str(subprocess.Popen(["sleep", "600"]).pid))
    Path("child").rename("up")
    time.sleep(600)


def family(server: Server, pid: int) -> list[psutil.Process]:
    """A call that sleeps, once it is up: its leader, the function, and what that has started."""
    wait_for((server.session / "task.000001" / "up").exists)
    leader = psutil.Process(pid)
    found = [leader, *leader.children(recursive=True)]
    assert len(found) == 3
    return found


def all_gone(processes: list[psutil.Process]) -> None:
    wait_for(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes))


def test_asked_to_end(server: Server) -> None:
    pid = server.start("task.000001", sleeps)
    processes = family(server, pid)
    os.killpg(pid, signal.SIGTERM)
    _, record = server.end("task.000001")
    assert record is not None and (record.signal, record.noted) == (signal.SIGTERM, "TERM")
    assert not record.ended_by_itself
    all_gone(processes)


def test_what_a_function_leaves_ends_with_it(server: Server) -> None:
    child = server.value("task.000001", lambda: subprocess.Popen(["sleep", "600"]).pid)
    wait_for(lambda: not psutil.pid_exists(child))


@pytest.mark.parametrize("victim", ["leader", "input", "server and input"])
def test_nothing_outlives_what_it_hangs_on(server: Server, victim: str) -> None:
    pid = server.start("task.000001", sleeps)
    processes = family(server, pid)
    if victim == "leader":
        os.kill(pid, signal.SIGKILL)
        assert server.end("task.000001") == (128 + signal.SIGKILL, None)
    else:
        if victim == "server and input":
            server.process.kill()
            server.process.wait()
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.process.wait() in (0, -signal.SIGKILL)
    all_gone(processes)


def test_files(server: Server, tmp_path: Path) -> None:
    (tmp_path / "in.dat").write_text("in")
    plan = Plan(
        transfers=(Transfer((str(tmp_path / "in.dat"),), "sub/in.dat", "link", "in.dat"),),
        promised=("out.dat",),
        deliveries=(Delivery("out.dat", str(tmp_path / "kept" / "out.dat")),),
    )
    server.value("task.000001", lambda: Path("out.dat").write_text(Path("sub/in.dat").read_text()), plan=plan)
    assert (tmp_path / "kept" / "out.dat").read_text() == "in"
    ends: list[tuple[Callable[[], Any], dict[str, Any], tuple[Any, ...]]] = [
        (lambda: None, {"plan": plan}, ("stage_out", 0, (0,))),
        (lambda: None, {"plan": Plan(transfers=(Transfer(("/nowhere",), "x", "link", "x"),))}, ("stage_in", 1, ())),
        (lambda: None, {"cwd": "/nowhere"}, ("stage_in", 1, ())),
        (fails, {"plan": plan}, ("run", 1, ())),
    ]
    for number, (function, more, end) in enumerate(ends, 2):
        server.start(f"task.{number:06}", function, **more)
        _, record = server.end(f"task.{number:06}")
        assert record is not None and (record.stage, record.exit_code, record.missing) == end
    assert "/nowhere" in (server.session / "task.000003" / ".asyncflow" / "error").read_text()
