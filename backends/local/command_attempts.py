"""Attempts of executable tasks: a process in a sandbox, started directly or through the run script."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping

from asyncflow_hpc.errors import SessionError, StagingError
from asyncflow_hpc.states import FailureCause, TaskState

from ..away import result_of, take_verdict
from ..evidence import read_record, record_path
from ..run_script import RunScript, group_of, said, write_script
from ..sandbox import current_umask, make_sandbox
from ..shortage import is_short
from ..staging.apply import Survey, perform, survey
from ..task_script import TaskScript
from ..verdict import verdict_on
from .attempts import SANDBOX_REMOVED, Attempt
from .functions import died_of_memory
from .launch import launch_line
from .processes import MARK, Child, End

__all__ = ["CommandAttempt"]

# So many links are made on the loop, as fast as a process is started; for more, the script does it.
_FEW = 256


class CommandAttempt(Attempt):
    """An executable task: a process in a sandbox."""

    leaves_output = True
    _child: Child | None = None
    _made = False
    _nonce = ""

    def start(self) -> None:
        """Make the sandbox and start the process."""
        if not self._made:
            make_sandbox(self.sandbox)
            self._made = True
        self.task["sandbox"] = self.sandbox
        try:
            links = self._links()
            if links is not None:
                perform(links, self.sandbox)
        except StagingError as error:
            self._not_staged(error)
            return
        if links is None:
            self._start_script()
        else:
            self._start_command()
        assert self._child is not None
        self._running(str(self._child.pid))

    def _links(self) -> Survey | None:
        """Find what is to be staged before the command is started directly; None if that is for the script to do."""
        description = self.description
        more = description.pre_exec or description.post_exec or description.launcher or description.ranks > 1
        if self.backend.scripted or more or self.plan.deliveries:
            return None
        links = survey(self.plan, most=_FEW)
        return links if links is not None and links.quick(_FEW) else None

    def _not_staged(self, error: StagingError) -> None:
        self.task["exception"] = str(error)
        # As where the script finds out.
        for ending in ("out", "err"):
            os.close(self._open(ending))
        self.task["stdout"] = self.task["stderr"] = ""
        self._over = True
        self._conclude(TaskState.FAILED, FailureCause.STAGING)

    def _start_script(self) -> None:
        task, description = self.task, self.description
        self._nonce = self.backend.session.nonce(task["uid"], self.number)
        session = str(self.backend.session.path)
        environment = self._environment()
        mark = {MARK: environment.pop(MARK)}
        script = RunScript(
            task=TaskScript.of(task, description, session, self.sandbox, self.number, self._argv(), environment),
            nonce=self._nonce,
            plan=self.plan,
            umask=current_umask(),
            watched=False,
        )
        self._check_directory(description.cwd or self.sandbox)
        try:
            path = write_script(script)
        except OSError as error:
            if is_short(error):
                raise
            raise SessionError(f"the run script of {task['uid']} cannot be written: {error}") from error
        null = self.backend.null
        # The runner takes no variable of the user.
        start = self._spawner(self.sandbox, null, null, mark)
        self._child = start(["/bin/sh", path], beside=functools.partial(group_of, self.sandbox))

    def _argv(self) -> list[str]:
        return launch_line(self.task, self.description)

    def _check_directory(self, cwd: str) -> None:
        if not os.path.isdir(cwd):
            raise SessionError(f"directory {cwd} of {self.task['uid']} is not there")

    def _start_command(self) -> None:
        out = self._open("out")
        try:
            err = self._open("err")
            try:
                self._child = self._spawn(out, err)
            finally:
                os.close(err)
        finally:
            os.close(out)

    def _open(self, ending: str) -> int:
        try:
            return os.open(self._path(ending), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            if is_short(error):
                raise
            raise SessionError(f"{self._path(ending)} cannot be made: {error.strerror}") from error

    def _spawner(
        self, cwd: str, out: int, err: int, variables: Mapping[str, str], umask: int = 0o077
    ) -> Callable[..., Child]:
        environment = {os.fsencode(k): os.fsencode(v) for k, v in variables.items()}
        self._kills_before = self.backend.kills_before
        return functools.partial(
            Child,
            on_end=self._ended,
            cwd=cwd,
            env={**os.environb, **environment},
            stdin=self.backend.null,
            stdout=out,
            stderr=err,
            umask=umask,
        )

    def _spawn(self, out: int, err: int) -> Child:
        argv = self._argv()
        cwd = self.description.cwd or self.sandbox
        # What it leaves has the permissions that its user wants.
        start = self._spawner(cwd, out, err, self._environment(), umask=-1)
        try:
            return start(argv)
        except OSError as error:
            self._check_directory(cwd)
            if is_short(error):
                raise
            # sh says in its own words, and with its exit codes 126 and 127, why a program does not start.
            return start(["/bin/sh", "-c", 'exec "$@"', "sh", *argv])

    def _ended(self, end: End) -> None:
        self._over = True
        self.backend.free(self)
        self.task["cpu_time"] = end.cpu_time
        if end.max_rss is not None:
            self.task["max_rss"] = end.max_rss
        self._settle(end)

    def _judge(self, end: End | None) -> None:
        assert end is not None
        if self._nonce:
            self._judge_record(end)
        else:
            self._conclude(*self._judge_end(end, self._kills_before))

    def _judge_record(self, end: End) -> None:
        """Judge by the completion record; that the script ended is no evidence of how the task did."""
        record = read_record(
            record_path(self.sandbox),
            session=self.backend.session.path.name,
            uid=self.task["uid"],
            attempt=self.number,
            nonce=self._nonce,
        )
        if record is None:
            state, cause = self._judge_end(end, self._kills_before)
            if state is TaskState.DONE or cause is FailureCause.EXIT_CODE:
                state, cause = TaskState.FAILED, FailureCause.LOST
                self.task["exception"] = f"it left no completion record; its script ended with {end.exit_code}"
                # Nothing of the machine was lost: the task would do it again.
                if not os.path.isdir(self.sandbox):
                    cause, self.task["exception"] = FailureCause.BACKEND, SANDBOX_REMOVED
                elif not os.path.isdir(os.path.dirname(record_path(self.sandbox))):
                    cause = FailureCause.BACKEND
                    self.task["exception"] = "the directory .asyncflow in its sandbox was removed while it ran"
            self._conclude(state, cause)
            return
        directory, on_oom = self.description.cwd or self.sandbox, self.description.on_oom
        verdict = verdict_on(record, self.plan.promised, directory, said(self.sandbox), on_oom)
        if self._cause is not None:
            self._conclude(*self._judge_end(End(verdict.exit_code, verdict.signal), self._kills_before))
            return
        state, cause = take_verdict(self.task, verdict, result_of(self.task, verdict, self.sandbox))
        if cause is FailureCause.SIGNAL and died_of_memory(End(None, verdict.signal), self._kills_before):
            cause = FailureCause.MEMORY
        self._conclude(state, cause)

    def _terminate(self, grace: float) -> None:
        if self._child is not None:
            self._child.terminate(grace)

    def kill(self) -> None:
        """Kill the process group."""
        if self._child is not None:
            self._child.kill()
