"""The scripts of one attempt: `run.sh`, the words of its runner, and `task.sh`, the words of its user."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from asyncflow_hpc.data import BOOKKEEPING

from .evidence import marker_name, spool_of
from .runner import runner_place, write_runner
from .runner_text import RUNNER
from .sandbox import write_file
from .staging import Plan
from .staging.shell import names_of, stage_in_lines, stage_out_lines
from .task_script import TaskScript

__all__ = [
    "Apart",
    "Marks",
    "RunScript",
    "claimed_by",
    "forbid",
    "group_of",
    "marks_of",
    "said",
    "script_path",
    "write_script",
]

# Characters of what a script says about its failure.
_LONGEST = 4000

Apart = Literal["session", "group"]
"""What a task gets of its own beside a process group: a session, or none, where a scheduler ends jobs by session."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunScript:
    """Everything that the runner of one attempt needs to know.

    Attributes:
        task: the user's part.
        nonce: which the completion record repeats.
        plan: the files.
        umask: of the task, and of the targets of its outputs.
        native_id: shell words for what the scheduler calls the job.
        patience: seconds to wait for a file on a shared file system.
        apart: what the task gets of its own.
        forward: hand signals on to the task, where they do not reach it by themselves; only with "group".
        hurry: seconds from a signal until the runner kills the task, where its job is killed somewhat later; None where
            there is no need for it.
        daemons: end what the task has left in other sessions, where nobody else does.
        watched: the record may be read before the script has ended.
        durable: force the completion record to the disk: needed where it must outlive the machine.
        timer: GNU time, where the node has it; it tells the peak of memory.
        claim: only the job that comes first runs it; the same job may run it again, as when it was put back into the
            queue, until it has ended by itself. Where `native_id` gives nothing, it is run by hand.
    """

    task: TaskScript
    nonce: str
    plan: Plan = field(default_factory=Plan)
    umask: int = 0o077
    native_id: str = "$$"
    patience: int = 0
    apart: Apart = "session"
    forward: bool = False
    hurry: int | None = None
    daemons: bool = False
    watched: bool = True
    durable: bool = False
    timer: str | None = None
    claim: bool = False

    def text(self) -> str:
        """Write run.sh."""
        task, home = self.task, runner_place(self.task.session)
        title = " ".join(f"{task.uid} {task.name!r}, attempt {task.attempt}".split())
        lines = ["#!/bin/sh", f"# {title}: the words of its runner; the task itself is in task.sh."]
        lines.append("# shellcheck disable=SC2034,SC2154,SC2329")
        lines += [f"asyncflow_{name}={value}" for name, value in self._words().items()]
        lines.append(f"asyncflow_task() {{ asyncflow_run {shlex.join(task.start())}; }}")
        into, out = stage_in_lines(self.plan, self.patience), self._stage_out_lines()
        if into or out:
            lines += [f". {shlex.quote(f'{home}/stage.sh')}", *names_of(self.plan)]
        lines += _function("asyncflow_stage_in", into) + _function("asyncflow_stage_out", out)
        return "\n".join([*lines, f". {shlex.quote(f'{home}/run.sh')}", ""])

    def shown(self) -> str:
        """Return all that runs on the node, for people."""
        return "\n".join([self.text(), self.task.text(), RUNNER])

    def _words(self) -> Mapping[str, str]:
        task = self.task
        own = {
            "version": 2,
            "session": os.path.basename(task.session),
            "uid": task.uid,
            "attempt": task.attempt,
            "nonce": self.nonce,
        }
        return {
            "box": shlex.quote(task.sandbox),
            "out": shlex.quote(f"./{task.uid}.out"),
            "err": shlex.quote(f"{task.sandbox}/{task.uid}.err"),
            "marker": shlex.quote(f"{spool_of(task.session)}/{marker_name(task.uid, task.attempt)}"),
            "own": shlex.quote(json.dumps(own)[1:-1]),
            "native": f'"{self.native_id}"',
            "cwd": shlex.quote(task.cwd or ""),
            "umask": f"{self.umask:04o}",
            "apart": self.apart,
            "forward": _flag(self.forward),
            "hurry": "" if self.hurry is None else str(self.hurry),
            "timer": shlex.quote(self.timer or ""),
            "lines": _flag(task.has_lines),
            "daemons": _flag(self.daemons),
            "watched": _flag(self.watched),
            "durable": _flag(self.durable),
            "claims": _flag(self.claim),
        }

    def _stage_out_lines(self) -> list[str]:
        mark = f"{self.task.uid}.{self.task.attempt}.{self.nonce[:8]}"
        return stage_out_lines(self.plan.promised, self.plan.deliveries, mark)


def _flag(value: bool) -> str:
    return "yes" if value else ""


def _function(name: str, lines: Sequence[str]) -> list[str]:
    flag = name.replace("_stage_", "_stages_")
    return [f"{flag}=yes", f"{name}() {{", *lines, "}"] if lines else [f"{flag}="]


class Marks(NamedTuple):
    """What the runner has noted about the command of an attempt, apart from the record.

    Attributes:
        began: it has been started.
        code: with which it ended, as a shell gives it; None where that was not noted.
    """

    began: bool
    code: int | None


def marks_of(sandbox: str) -> Marks:
    """Read the marks of an attempt; blocks as long as the file system does."""
    try:
        names = os.listdir(f"{sandbox}/{BOOKKEEPING}")
    except OSError:
        return Marks(False, None)
    codes = [name.partition(".")[2] for name in names if name.startswith("code.")]
    return Marks("began" in names, int(codes[0]) if codes and codes[0].isdecimal() else None)


def group_of(sandbox: str) -> int | None:
    """Return the process group of the task that runs in a sandbox of this machine; None where there is none yet."""
    try:
        with open(f"{sandbox}/{BOOKKEEPING}/group", encoding="ascii") as stream:
            number = int(stream.read(20))
    except (OSError, ValueError):
        return None
    return number if number > 1 else None


def script_path(sandbox: str) -> str:
    """Say where the script of an attempt lies."""
    return f"{sandbox}/{BOOKKEEPING}/run.sh"


def claimed_by(sandbox: str) -> str | None:
    """Say which job runs an attempt that only one may run, by its native id; None where none has begun."""
    try:
        return os.readlink(f"{sandbox}/{BOOKKEEPING}/claim")
    except OSError:
        return None


def forbid(sandbox: str) -> bool:
    """See to it that no job begins to run an attempt any more, should one that seems lost turn up.

    Returns:
        False where one has begun already, or nobody can say.
    """
    try:
        os.symlink("none", f"{sandbox}/{BOOKKEEPING}/claim")
    except OSError:
        return False
    return True


def said(sandbox: str) -> str:
    """Return what the script of an attempt said when staging failed."""
    try:
        with open(f"{sandbox}/{BOOKKEEPING}/error", encoding="utf-8", errors="replace") as stream:
            return stream.read(_LONGEST).strip()
    except OSError:
        return "its files could not be staged"


def write_script(script: RunScript) -> str:
    """Write the scripts of an attempt into its sandbox, which is there already, and the runner into its session.

    Returns:
        The path of run.sh.

    Raises:
        OSError: they cannot be written.
    """
    task = script.task
    write_runner(task.session)
    path = script_path(task.sandbox)
    for directory in (os.path.dirname(path), spool_of(task.session)):
        # To make it in vain costs more than to look.
        if not os.path.isdir(directory):
            with suppress(FileExistsError):
                os.mkdir(directory, 0o700)
    write_file(path, os.fsencode(script.text()), 0o700)
    write_file(f"{os.path.dirname(path)}/task.sh", os.fsencode(task.text()), 0o700)
    for ending in ("out", "err"):
        # The script appends to them, with whatever mask the node has.
        write_file(f"{task.sandbox}/{task.uid}.{ending}", b"")
    return path
