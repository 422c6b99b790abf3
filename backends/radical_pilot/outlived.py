"""Pilots that have outlived their driver: what a session is told of its pilots for that case, and how they are ended.

RADICAL-Pilot lets nobody but its own process use a pilot, so one that is left over is of no use: before its tasks are
run again on another one, it must be gone. The process that holds the session of RADICAL-Pilot ends the pilots when the
driver dies; it may have died, too, or may not be done yet.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from asyncflow_hpc.data import BOOKKEEPING
from asyncflow_hpc.errors import SessionError

from ..psij.commands import CommandTimeoutError, run_blocking
from ..psij.scheduler import JobStatus
from ..psij.slurm import Slurm
from .environment import JOB
from .pilots import MARK

__all__ = ["Note", "end_outlived", "forget_note", "leave_note", "processes_of"]

log = logging.getLogger(__name__)

_NOTE = ".pilots"
_PLACE = re.compile(r"asyncflow-pilots\.([0-9a-f]{12})")

# Seconds: until processes and jobs that were ended are gone, until jobs are ended again, between two looks, and that a
# command may take.
_DYING, _LEAVING, _AGAIN, _PAUSE, _TIMEOUT = 20.0, 120.0, 15.0, 0.1, 20.0

_NOT_GONE = "they were cancelled, and have not ended; resume it when they have"


@dataclass(frozen=True, slots=True)
class Note:
    """By what a later driver finds the pilots that may have tasks of a session.

    Attributes:
        place: the directory of their pool; no other has its name, and each of their processes or jobs bears it.
        kind: of their settings.
        host, pid: the driver's.
    """

    place: str
    kind: str
    host: str
    pid: int

    @property
    def mark(self) -> str:
        """With what the uids of its pilots begin."""
        return f"pilot.{self.place[-12:]}."


def _path(session: Path, place: Path) -> Path:
    return session / BOOKKEEPING / f"{place.name}{_NOTE}"


def leave_note(session: Path, place: Path, kind: str) -> None:
    """Leave word in a session, before a pilot gets the first of its tasks; on the disk when this returns.

    Raises:
        SessionError: it cannot be written.
    """
    path, note = _path(session, place), Note(str(place), kind, socket.gethostname(), os.getpid())
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(0o700, exist_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as stream:
            json.dump(asdict(note), stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(part, path)
        _sync(path.parent)
        _sync(session)
    except OSError as error:
        raise SessionError(f"{path} cannot be written: {error.strerror}; make room, or let it be written") from error


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def forget_note(session: Path, place: Path) -> None:
    """Take back a note: nothing of the session runs in these pilots any more."""
    path = _path(session, place)
    path.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()


def end_outlived(session: Path, spare: Path | None = None) -> None:
    """End the pilots that earlier drivers of a session have left; blocks until they are gone.

    Args:
        session: its directory; its lease is ours.
        spare: the place of pilots that are in use, and have no task of it.

    Raises:
        SessionError: nobody can say that they are gone.
    """
    for path in sorted(Path(session, BOOKKEEPING).glob(f"*{_NOTE}")):
        note = _read(path)
        if note is None or (spare is not None and note.place == str(spare)):
            continue
        here = note.host == socket.gethostname()
        if here:
            _refuse_living(note, session)
            _end_processes(note, session)
        elif note.kind == "slurm":
            log.warning("the driver of %s was on %s, where processes of it may still run", session, note.host)
        else:
            raise SessionError(
                f"pilots of session {session} may still run on {note.host}: resume it there; or, if nothing of it can"
                f" run there any more, as after a reboot, remove {path}"
            )
        if note.kind == "slurm":
            _end_jobs(note, session)
        _remove(Path(note.place))
        forget_note(session, Path(note.place))


def _read(path: Path) -> Note | None:
    try:
        note = Note(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        # Another backend of this engine was faster.
        return None
    except (OSError, ValueError, TypeError) as error:
        raise SessionError(
            f"{path}, which says what pilots a session had, cannot be read: {error}; see to it that none of them runs,"
            " and remove it"
        ) from error
    if _PLACE.fullmatch(os.path.basename(note.place)) is None:
        raise SessionError(f"{path} names {note.place!r}, which is no place of pilots; remove it if none of them runs")
    return note


def _refuse_living(note: Note, session: Path) -> None:
    """Refuse to end pilots whose driver lives: they may have tasks of others."""
    for process in processes_of(note):
        with suppress(psutil.Error):
            if process.ppid() == note.pid:
                raise SessionError(
                    f"session {session} has left tasks in pilots that process {note.pid} still has: shut down its"
                    " PilotPool or its backend first"
                )


def processes_of(note: Note) -> list[psutil.Process]:
    """Find the processes of this user, on this machine, that belong to pilots or to what holds them."""
    return [process for process in psutil.process_iter() if _belongs(process, note)]


def _belongs(process: psutil.Process, note: Note) -> bool:
    try:
        if process.pid == os.getpid() or process.uids().real != os.getuid():
            return False
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # What gives itself a name, as RADICAL-Pilot's own do, writes it over its environment.
        if process.name().startswith("rp.") and _is_below(process.cwd(), note.place):
            return True
        environment = process.environ()
    except (psutil.Error, OSError):
        return False
    # What holds the session and what starts the agent have the first, tasks the second.
    return _is_below(environment.get("RADICAL_BASE", ""), note.place) or environment.get(MARK, "").startswith(note.mark)


def _is_below(path: str, place: str) -> bool:
    return f"{path}/".startswith(f"{place}/")


def _end_processes(note: Note, session: Path) -> None:
    """Kill what belongs to pilots on this machine, with all that it has started, until nothing is left."""
    until = time.monotonic() + _DYING
    while found := processes_of(note):
        log.info("ending %d processes of pilots that session %s has left", len(found), session)
        for process in found:
            for one in _with_children(process):
                with suppress(psutil.Error):
                    one.kill()
        if time.monotonic() > until:
            pids = ", ".join(str(process.pid) for process in found)
            raise SessionError(
                f"processes of pilots that session {session} has left cannot be ended: {pids}; end them, and resume"
                " it again"
            )
        # Their end cannot be waited for: they are not our children.
        time.sleep(_PAUSE)


def _with_children(process: psutil.Process) -> Iterator[psutil.Process]:
    # Some may have thrown away their environment.
    with suppress(psutil.Error):
        yield from process.children(recursive=True)
    yield process


def _end_jobs(note: Note, session: Path) -> None:
    """Cancel the jobs of pilots until Slurm says twice that none of them is left.

    Between the two, a job may turn up that was being submitted when its driver died.
    """
    slurm, known = Slurm(), _jobs_in(Path(note.place))
    until, gone, trouble = time.monotonic() + _LEAVING, 0, ""
    asked: float | None = None
    while gone < 2:
        try:
            listed = _listed(slurm, note, known)
        except (OSError, CommandTimeoutError, ValueError) as error:
            if not trouble:
                log.warning("Slurm cannot say whether pilots that session %s has left still run: %s", session, error)
            gone, trouble = 0, str(error)
        else:
            left = [status.native_id for status in listed if not slurm.meaning(status).final]
            gone, trouble = 0 if left else gone + 1, ""
            # Also those that Slurm does not list: should it have told a lie, they do not go on.
            ids = left or (known if asked is None else [])
            if ids and (asked is None or time.monotonic() - asked >= _AGAIN):
                asked = time.monotonic()
                log.info("cancelling jobs %s: pilots that session %s has left", ", ".join(ids), session)
                with suppress(OSError, CommandTimeoutError):
                    run_blocking(["scancel", *ids], _TIMEOUT)
        if gone < 2 and time.monotonic() > until:
            jobs = ", ".join(known) or f"below {note.place}"
            raise SessionError(
                f"pilots that session {session} has left may still run, so nothing is run again: jobs {jobs}; "
                + (f"Slurm cannot say: {trouble}; resume it when Slurm answers" if trouble else _NOT_GONE)
            )
        time.sleep(10 * _PAUSE if gone < 2 else 0)


def _jobs_in(place: Path) -> list[str]:
    """Find the jobs of which a pool has taken note, in the sandboxes of their pilots."""
    found = []
    for path in place.glob(f"*/*/*/{JOB}"):
        with suppress(OSError):
            found.append(path.read_text(encoding="utf-8").strip())
    return [job for job in found if job.isdecimal()]


def _listed(slurm: Slurm, note: Note, known: Sequence[str]) -> list[JobStatus]:
    """Ask Slurm for the jobs of pilots.

    Raises:
        OSError, CommandTimeoutError, ValueError: it does not say.
    """
    code, out, err = run_blocking(slurm.queue_command(), _TIMEOUT)
    failure = slurm.query_failure(err.decode(errors="replace"), code)
    report = slurm.parse_queue(out, err)
    if failure is not None or not report.complete:
        raise ValueError(failure or "; ".join(report.problems) or "its answer breaks off")
    return [status for status in report if _is_pilot(status, note, known)]


def _is_pilot(status: JobStatus, note: Note, known: Sequence[str]) -> bool:
    if _is_below(status.directory, note.place):
        return True
    # An id may be another job's by now.
    return status.native_id in known and status.directory == ""


def _remove(place: Path) -> None:
    """Remove the files of pilots that are gone; nothing of a task is there."""
    with suppress(OSError):
        if not place.is_symlink() and place.stat().st_uid == os.getuid():
            shutil.rmtree(place, ignore_errors=True)
