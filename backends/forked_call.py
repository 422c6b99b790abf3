"""A call in a forked process: what the run script does around a function, done without starting anything.

The process that forks is warm: it has imported what every call needs. See `call_server.py`.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import select
import signal
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from asyncflow_hpc.errors import SessionError, StagingError

from . import pickling, run_function
from .evidence import marker_name, spool_of
from .sandbox import own_variables, write_file
from .staging.apply import deliver, perform, survey

if TYPE_CHECKING:
    from .staging import Plan

__all__ = ["REFUSED", "Request", "claim_text", "leave_request", "run_forked"]

REFUSED = 75
"""Exit code where the attempt is another's, or the driver has taken it back: nothing was run."""

_REQUEST = "request.pkl"

# As in the run script: what ends a task from outside and leaves it some time; SIGKILL leaves none.
_SIGNALS = ("HUP", "INT", "TERM", "USR1", "USR2", "XCPU")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Everything that the run script of a function would say; see `RunScript`.

    Attributes:
        step: the native id names the job, the step and the node of Slurm as well.
    """

    uid: str
    session: str
    sandbox: str
    nonce: str
    attempt: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    plan: Plan | None = None
    cwd: str | None = None
    patience: int = 0
    durable: bool = False
    umask: int = 0o077
    step: bool = False


def leave_request(request: Request) -> None:
    """Leave a request in its sandbox, beside the call, and the two files of its output.

    Raises:
        OSError: it cannot be written.
    """
    os.makedirs(spool_of(request.session), 0o700, exist_ok=True)
    write_file(f"{request.sandbox}/.asyncflow/{_REQUEST}", pickle.dumps(request, pickle.HIGHEST_PROTOCOL))
    for ending in ("out", "err"):
        write_file(f"{request.sandbox}/{request.uid}.{ending}", b"")


def _read_request(sandbox: str) -> Request:
    path = f"{sandbox}/.asyncflow/{_REQUEST}"
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:
        found = os.fstat(stream.fileno())
        # Reading a pickle runs what is in it.
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise SessionError(f"{path} is not read: it may be somebody else's")
        request: Request = pickle.load(stream)
        return request


def claim_text(native: str, server: str) -> str:
    """Say what stands in the claim of an attempt: the native id of its process, and who forked it."""
    return f"{native}#{server}"


def run_forked(sandbox: str, server: str, lifeline: int, begun: Callable[[], None], close: Callable[[], None]) -> int:
    """Run the call in a sandbox, and leave its completion record; in a process forked for it.

    Args:
        server: name of what forks such processes, for the claim.
        lifeline: read end of a pipe; when nobody has its other end, all that runs here is killed.
        begun: called when the attempt is this process's.
        close: closes, in the process of the function, what is no business of it.

    Returns:
        The exit code of the attempt, as a shell would say it.
    """
    os.setsid()
    request = _read_request(sandbox)
    os.umask(request.umask)
    attempt = _Attempt(request, lifeline, close)
    os.chdir(sandbox)
    try:
        os.symlink(claim_text(attempt.native, server), ".asyncflow/claim")
    except FileExistsError:
        return REFUSED
    begun()
    return attempt.run()


class _Attempt:
    def __init__(self, request: Request, lifeline: int, close: Callable[[], None]) -> None:
        self._request = request
        self._lifeline, self._close = lifeline, close
        self._noted, self._usage, self._times = "", "", ""
        self._missing: list[int] = []
        self.native = _native_id(request.step)

    def run(self) -> int:
        start = time.time()
        self._wake, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for name in _SIGNALS:
            signal.signal(getattr(signal, f"SIG{name}"), self._note)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        write_file(".asyncflow/host", f"{os.uname().nodename}\n".encode())
        stage, code = self._stages()
        # What the function has left behind in its group.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)
        self._record(stage, code, start)
        return code

    def _note(self, number: int, _: object) -> None:
        self._noted = signal.Signals(number).name.removeprefix("SIG")

    def _stages(self) -> tuple[str, int]:
        request, plan = self._request, self._request.plan
        try:
            if plan is not None and plan.stages_in:
                _stage_in(plan, request)
            if request.cwd is not None and not os.path.isdir(request.cwd):
                raise StagingError(f"{request.cwd} is not there")
        except StagingError as error:
            return self._fail("stage_in", str(error))
        code = self._function()
        if code != 0 or plan is None:
            return "run", code
        directory = request.cwd or request.sandbox
        self._missing = [
            number for number, name in enumerate(plan.promised) if not os.path.exists(os.path.join(directory, name))
        ]
        if self._missing:
            return "stage_out", 0
        try:
            _deliver(plan, request, directory)
        except StagingError as error:
            return self._fail("stage_out", str(error))
        return "run", 0

    def _fail(self, stage: str, text: str) -> tuple[str, int]:
        write_file(f"{self._request.sandbox}/.asyncflow/error", f"{text}\n".encode(errors="surrogateescape"))
        return stage, 1

    def _function(self) -> int:
        pid = os.fork()
        if pid == 0:
            self._become_function()
        poll = select.poll()
        poll.register(self._lifeline, 0)
        poll.register(self._wake, select.POLLIN)
        while True:
            ended, status, used = os.wait4(pid, os.WNOHANG)
            if ended:
                break
            if any(descriptor == self._lifeline for descriptor, _ in poll.poll()):
                os.killpg(0, signal.SIGKILL)
            os.read(self._wake, 4096)
        code = os.waitstatus_to_exitcode(status)
        # As GNU time writes it: KB, and seconds.
        rss = used.ru_maxrss // (1024 if sys.platform == "darwin" else 1)
        self._usage = f"{rss} {used.ru_utime:.2f} {used.ru_stime:.2f}"
        return code if code >= 0 else 128 - code

    def _become_function(self) -> NoReturn:
        """Run the function as `python -m asyncflow_hpc.backends.run_function` would, and end as that would."""
        signal.set_wakeup_fd(-1)
        for name in (*_SIGNALS, "CHLD"):
            signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_DFL)
        self._close()
        for descriptor in (self._lifeline, self._wake):
            with suppress(OSError):
                os.close(descriptor)
        request = self._request
        for descriptor, ending in ((1, "out"), (2, "err")):
            path = f"{request.sandbox}/{request.uid}.{ending}"
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(opened, descriptor)
            os.close(opened)
        if request.cwd is not None:
            os.chdir(request.cwd)
        os.environ.update(_variables(request))
        pickling.forked()
        sys.argv[1:] = [request.sandbox]
        sys.exit(run_function.main([request.sandbox]))

    def _record(self, stage: str, code: int, start: float) -> None:
        request = self._request
        record = {
            "version": 1,
            "session": os.path.basename(request.session),
            "uid": request.uid,
            "attempt": request.attempt,
            "nonce": request.nonce,
            "stage": stage,
            "exit_code": code,
            "signal": None,
            "noted": self._noted,
            "missing": self._missing,
            "start": start,
            "end": time.time(),
            "host": os.uname().nodename,
            "native_id": self.native,
            "times": "",
            "usage": self._usage,
        }
        path = f"{request.sandbox}/.asyncflow/exit.json"
        with open(os.open(f"{path}.part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(record, file)
            file.write("\n")
            file.flush()
            if request.durable:
                os.fsync(file.fileno())
        os.rename(f"{path}.part", path)
        write_file(f"{spool_of(request.session)}/{marker_name(request.uid, request.attempt)}", b"")


def _native_id(step: bool) -> str:
    if not step:
        return str(os.getpid())
    job, number, node = (os.environ.get(f"SLURM{name}", "") for name in ("_JOB_ID", "_STEP_ID", "D_NODENAME"))
    return f"{job}.{number}@{node}:{os.getpid()}"


def _variables(request: Request) -> dict[str, str]:
    own = own_variables(request.uid, request.session, request.sandbox, request.attempt)
    return {**own, **request.environment}


def _stage_in(plan: Plan, request: Request) -> None:
    found = survey(plan, float(request.patience))
    assert found is not None
    perform(found, request.sandbox)
    if found.shared:
        lines = [f"several dependencies have left {name}: it is linked from none of them\n" for name in found.shared]
        write_file(".asyncflow/staging.log", "".join(lines).encode(errors="surrogateescape"))


def _deliver(plan: Plan, request: Request, directory: str) -> None:
    if not plan.deliveries:
        return
    try:
        deliver(plan.deliveries, directory, f"{request.uid}.{request.attempt}.{request.nonce[:8]}")
    except OSError as error:
        raise StagingError(f"outputs cannot be copied: {os.strerror(error.errno or errno.EIO)}") from error
