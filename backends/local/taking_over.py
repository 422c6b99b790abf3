"""What an earlier driver of the session has left on this machine: results to take, and processes to end."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncflow_hpc.data import BOOKKEEPING
from asyncflow_hpc.errors import SessionError
from asyncflow_hpc.session import Session
from asyncflow_hpc.states import TaskState
from asyncflow_hpc.task import Task, TaskDescription, describe

from ..away import result_of, take_verdict
from ..evidence import read_record, record_path
from ..output import read_large
from ..sandbox import sandbox_of
from ..shortage import is_short, once_there_is_more
from ..staging.apply import deliver_again, missing
from ..staging.plan import Plan, make_plan
from ..verdict import Verdict, verdict_on
from .captures import remove_captures
from .processes import MARK, kill_marked
from .worker import ANSWER_FILE

if TYPE_CHECKING:
    from asyncflow_hpc.earlier import Earlier

__all__ = ["KEPT", "end_earlier", "keep_result", "leave_mark", "take_over"]

log = logging.getLogger(__name__)

KEPT = 4096
"""Bytes of a pickled result that go into the journal; a larger one goes into its sandbox."""

_RESULT, _MARK_FILE = "value.pkl", ".mark"


def _own(sandbox: str, name: str) -> str:
    return f"{sandbox}/{BOOKKEEPING}/{name}"


def leave_mark(session: Path, mark: str) -> None:
    """Leave word, before the first process starts, by which mark a later driver finds it; removed with the captures."""
    path = Path(_own(str(session), f"{mark}{_MARK_FILE}"))
    try:
        path.parent.mkdir(0o700, exist_ok=True)
        path.write_text(socket.gethostname(), encoding="utf-8")
    except OSError as error:
        raise SessionError(f"{path} cannot be written: {error.strerror}; make room, or let it be written") from error


def end_earlier(session: Path) -> None:
    """End the processes that earlier drivers have left on this machine; blocks until they are gone.

    Raises:
        SessionError: nobody can say whether they are.
    """
    place = session / BOOKKEEPING
    try:
        names = os.listdir(place) if place.exists() else []
    except OSError as error:
        raise _unsure(session, str(error)) from error
    for mark in [name.removesuffix(_MARK_FILE) for name in names if name.endswith(_MARK_FILE)]:
        try:
            host = (place / f"{mark}{_MARK_FILE}").read_text(encoding="utf-8")
        except FileNotFoundError:
            # Another local backend of this engine was faster.
            continue
        except OSError as error:
            raise _unsure(session, str(error)) from error
        if host != socket.gethostname():
            log.warning("processes of session %s may still run on %s, where only you can end them", session, host)
            continue
        if not kill_marked(MARK, mark):
            raise _unsure(session, "the log says why")
        remove_captures(str(session), mark)


def _unsure(session: Path, why: str) -> SessionError:
    return SessionError(
        f"nobody can say whether processes of the last driver of {session} still run: {why}; resume it again later"
    )


def keep_result(task: Task, data: bytes, sandbox: str | None) -> None:
    """Keep the pickled result of a function for a resume: a small one in the journal, else in the sandbox."""
    if len(data) <= KEPT:
        task["kept"] = data
    elif sandbox is not None:
        path = _own(sandbox, _RESULT)
        try:
            os.makedirs(f"{sandbox}/{BOOKKEEPING}", 0o700, exist_ok=True)
            Path(f"{path}.part").write_bytes(data)
            os.rename(f"{path}.part", path)
        except OSError as error:
            # It has done its work, and its driver has the result.
            log.warning("a resume will run %s again: its result cannot be kept in %s: %s", task["uid"], path, error)
            with suppress(OSError):
                os.unlink(f"{path}.part")


def take_over(tasks: Sequence[Task], session: Session, boxed: bool) -> tuple[list[Task], list[Task]]:
    """Find out what attempts of an earlier driver have come to; blocks as long as the files take.

    Args:
        boxed: functions run in sandboxes, too.

    Returns:
        Those that are DONE by evidence, with their results in their dicts: by the journal and what lies in the sandbox,
        or by a completion record. And those of which nothing has happened, so that they can still run.
    """
    done, waiting = [], []
    for task in tasks:
        earlier: Earlier = task["earlier"]
        sandbox = sandbox_of(str(session.path), earlier.uid, earlier.attempt)
        if earlier.unfinished and not os.path.lexists(sandbox):
            waiting.append(task)
        elif once_there_is_more(partial(_is_done, task, session, sandbox, boxed or task.get("function") is None)):
            done.append(task)
    return done, waiting


def _is_done(task: Task, session: Session, sandbox: str, boxed: bool) -> bool:
    earlier: Earlier = task["earlier"]
    try:
        description = describe(task)
        plan = make_plan(task, str(session.path), lambda directory: os.stat(directory).st_dev)
        verdict = _verdict(task, earlier, description, plan, session, sandbox)
        if verdict is None or verdict.state is not TaskState.DONE:
            return False
        if boxed:
            # Others may want its files.
            if not os.path.isdir(sandbox) or missing(plan.promised, description.cwd or sandbox):
                return False
            deliver_again(plan.deliveries, description.cwd or sandbox, earlier.uid)
            task["sandbox"] = sandbox
        return _load(task, earlier, verdict, sandbox)
    except Exception as error:
        if is_short(error):
            # It is no reason to run it again.
            raise
        log.warning("what %s left in %s cannot be used: %s", earlier.uid, sandbox, error)
        return False


def _verdict(
    task: Task, earlier: Earlier, description: TaskDescription, plan: Plan, session: Session, sandbox: str
) -> Verdict | None:
    if earlier.ended is not None:
        return Verdict(TaskState(earlier.ended.state), exit_code=earlier.ended.exit_code)
    record = read_record(
        record_path(sandbox),
        session=session.path.name,
        uid=earlier.uid,
        attempt=earlier.attempt,
        nonce=session.nonce(earlier.uid, earlier.attempt),
    )
    if record is not None:
        task["started"], task["ended"] = record.start, record.end
        return verdict_on(record, plan.promised, description.cwd or sandbox, "", description.on_oom)
    if task.get("function") is not None and os.path.exists(_own(sandbox, ANSWER_FILE)):
        return Verdict(TaskState.DONE, exit_code=0)
    return None


def _load(task: Task, earlier: Earlier, verdict: Verdict, sandbox: str) -> bool:
    task["exit_code"] = 0
    if earlier.ended is not None:
        task["started"], task["ended"] = earlier.ended.started or 0.0, earlier.ended.ended or 0.0
    if task.get("function") is None or task.get("capture_stdio"):
        task["stdout"], task["stderr"] = (_output(sandbox, earlier.uid, ending) for ending in ("out", "err"))
    if task.get("function") is None:
        return True
    if earlier.ended is not None and earlier.ended.kept is not None:
        task["return_value"] = pickle.loads(earlier.ended.kept)
    elif os.path.exists(path := _own(sandbox, _RESULT)):
        task["return_value"] = _unpickled(path)
    elif os.path.exists(path := _own(sandbox, ANSWER_FILE)):
        return _take_answer(task, _unpickled(path))
    else:
        # Through the run script: its result lies with its call.
        return take_verdict(task, verdict, result_of(task, verdict, sandbox))[0] is TaskState.DONE
    return True


def _take_answer(task: Task, answer: dict[str, Any]) -> bool:
    if "result" not in answer:
        return False
    task["return_value"] = pickle.loads(answer["result"])
    keep_result(task, answer["result"], task["sandbox"])
    return True


def _unpickled(path: str) -> Any:
    with open(path, "rb") as stream:
        return pickle.load(stream)


def _output(sandbox: str, uid: str, ending: str) -> str:
    # A function leaves files only where it has printed something.
    path = f"{sandbox}/{uid}.{ending}"
    return read_large(path) if os.path.lexists(path) else ""
