"""One pilot: what is known of it, and how it and what runs in it are ended."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from asyncflow_hpc.states import FailureCause

from ..local.processes import kill_marked
from ..psij.commands import CommandTimeoutError, run_blocking
from ..psij.slurm import Slurm
from .environment import ERROR, JOB
from .settings import PilotSettings
from .states import PILOT_STATES

__all__ = ["Pilot", "agent_of", "cause_of_end", "end_pilot", "said_by", "scheduler_says"]

log = logging.getLogger(__name__)

# Which variable of a task names its pilot.
MARK = "RP_PILOT_ID"

# Seconds: that a command of Slurm may take, and by which a pilot's own clock may be behind ours.
_TIMEOUT, _SLACK = 20.0, 15.0

# Characters of a bootstrapper's words.
_LONGEST = 2000


@dataclass(eq=False, slots=True)
class Pilot:
    """A pilot on its way.

    Attributes:
        uid: that no other pilot has, in whatever session.
        state: in RADICAL-Pilot's word.
        sandbox: of the pilot, once that is known.
        nodes: their names, once it is active.
        busy: cores of all tasks that it was given and that have not ended.
        asked: why we ended it, if we did.
        active: when it became active, by the monotonic clock.
        agent: the processes without which it does nothing; on this machine alone.
        end: what is said of its end, and the cause for its tasks; then nothing is expected of it any more.
        gone: we have ended it, and that is sure.
    """

    uid: str
    state: str = "NEW"
    sandbox: str = ""
    nodes: Sequence[str] = ()
    busy: int = 0
    asked: FailureCause | None = None
    active: float | None = None
    agent: list[psutil.Process] = field(default_factory=list)
    end: tuple[str, FailureCause] | None = None
    gone: bool = False

    @property
    def address(self) -> dict[str, str]:
        """What a description says of where it goes."""
        return {"pilot": self.uid}

    @property
    def job(self) -> str | None:
        """The id of its job, or of its process session."""
        with suppress(OSError):
            return Path(self.sandbox, JOB).read_text(encoding="utf-8").strip() or None
        return None


def agent_of(pilot: Pilot) -> list[psutil.Process]:
    """Find the processes of a pilot's agent on this machine."""
    job = pilot.job
    if job is None:
        return []
    found: dict[int, tuple[psutil.Process, int]] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == int(job) and (process.name().startswith("rp.") or process.pid == int(job)):
                found[process.pid] = (process, process.ppid())
    # Their own children come and go.
    return [process for process, parent in found.values() if parent not in found or parent == int(job)]


def scheduler_says(pilots: Sequence[Pilot]) -> dict[str, tuple[str, FailureCause | None]]:
    """Ask Slurm for pilots; in a thread.

    Returns:
        For each whose job has ended, by its uid, what Slurm says, and the cause for its tasks.
    """
    slurm, ids = Slurm(), {pilot.job: pilot.uid for pilot in pilots}
    try:
        code, out, err = run_blocking(slurm.queue_command(), _TIMEOUT)
    except (OSError, CommandTimeoutError) as error:
        log.warning("nobody can say how the pilots are: %s", error)
        return {}
    if slurm.query_failure(err.decode(errors="replace"), code) is not None:
        return {}
    ended: dict[str, tuple[str, FailureCause | None]] = {}
    for status in slurm.parse_queue(out, err):
        meaning = slurm.meaning(status)
        if status.native_id in ids and meaning.final:
            reason = f" ({status.reason})" if status.reason not in ("", "None") else ""
            ended[ids[status.native_id]] = (
                f"Slurm says {status.state}{reason} of job {status.native_id}",
                meaning.cause,
            )
    return ended


def cause_of_end(pilot: Pilot, settings: PilotSettings, told: FailureCause | None, now: float) -> FailureCause:
    """Say why the tasks of a pilot that has ended cannot go on.

    Args:
        told: by the scheduler, or by who saw it end.
        now: by the monotonic clock.
    """
    if pilot.asked is not None:
        return pilot.asked
    if told in (FailureCause.WALLTIME, FailureCause.CANCELLED, FailureCause.PREEMPTED, FailureCause.NODE_FAILURE):
        return told
    if pilot.active is not None and now - pilot.active >= settings.runtime - _SLACK:
        return FailureCause.WALLTIME
    meaning = PILOT_STATES.get(pilot.state)
    return (meaning.cause if meaning is not None else None) or FailureCause.NODE_FAILURE


def end_pilot(pilot: Pilot, settings: PilotSettings) -> None:
    """End a pilot and all that runs in it; in a thread."""
    job = pilot.job
    if job is None or settings.kind == "other":
        return
    if settings.kind == "slurm":
        with suppress(OSError, CommandTimeoutError):
            code, out, err = run_blocking(["scancel", job], _TIMEOUT)
            pilot.gone = Slurm().cancel_failure((err + out).decode(errors="replace"), code) is None
        return
    with suppress(OSError, ValueError):
        os.killpg(int(job), signal.SIGKILL)
    kill_marked(MARK, pilot.uid)
    pilot.gone = True


def said_by(pilot: Pilot, place: Path, log_name: str) -> str:
    """Return the last words of a pilot's bootstrapper, or else of the session."""
    files = [Path(pilot.sandbox, name) for name in (ERROR, "agent_0.err", "bootstrap_0.err", "bootstrap_0.out")]
    for path in [*(files if pilot.sandbox else ()), place / log_name]:
        with suppress(OSError):
            lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip("#- \t")]
            errors = [line for line in lines if "error" in line.lower()]
            if lines:
                return "\n".join(errors or lines[-15:])[-_LONGEST:]
    return "it said nothing"


def is_alive(process: Any) -> bool:
    """Tell whether a process still does something."""
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def monotonic() -> float:
    """Return the clock by which pilots are timed."""
    return time.monotonic()
