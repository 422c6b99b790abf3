"""The end of an engine: what may finish first, what is cancelled, and what a user reads about it."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .components import BLOCK
from .outcome import text_of

if TYPE_CHECKING:
    from .futures import TaskFuture
    from .recording import Recording

__all__ = ["cancel_running", "finish", "report", "resume_hint", "unfinished"]

log = logging.getLogger(__name__)

# Seconds in which a backend that stays open should have ended the tasks of an engine that closes.
CANCEL_TIMEOUT = 30

# Names of tasks that a warning lists.
_LISTED = 3

# Characters of the error that it repeats.
_LINE = 200


async def finish(live: Mapping[str, TaskFuture], error: Exception) -> None:
    """Wait until all that was called has ended, except services.

    Args:
        live: the unfinished components of an engine, by uid.
        error: why the script ends.
    """
    waiting = unfinished(live)
    if waiting:
        log.warning(
            '%s: %s run to their end first (on_error="finish"; Ctrl-C ends them)', _shown(error), _counted(waiting)
        )
    while waiting:
        await asyncio.wait(waiting)
        waiting = unfinished(live)


async def cancel_running(live: Mapping[str, TaskFuture]) -> None:
    """Cancel what the backends have, and wait for it."""
    running = [future for future in live.values() if future._submitted]
    await asyncio.gather(*(future._spec.lane.cancel(future) for future in running))
    if running:
        # The next engine numbers its tasks alike, so these must be out of the backend.
        await asyncio.wait(running, timeout=CANCEL_TIMEOUT)


def report(
    engine: str, lost: Sequence[TaskFuture], reason: BaseException | str | None, recording: Recording | None
) -> None:
    """Log one warning about the end of an engine, where something was cut off or went wrong.

    Args:
        engine: its uid.
        lost: what it took down with it.
        reason: the exception that ended the script's `async with`, or the signal; None where neither did.
        recording: of its session; None where nothing is recorded.
    """
    if isinstance(reason, SystemExit) and not reason.code:
        reason = None
    # Some have ended meanwhile; and where nothing went wrong, the script may have cancelled some on purpose.
    lost = [
        future
        for future in lost
        if (not future.done() or future.cancelled()) and (reason is not None or not future._cancelling)
    ]
    if not lost and reason is None:
        return
    text = f"engine {engine} ends"
    if reason is not None:
        text += f" after {reason if isinstance(reason, str) else _shown(reason)}"
    if lost:
        names = ", ".join(f"{future.uid} '{future._spec.name}'" for future in lost[:_LISTED])
        more = f" and {len(lost) - _LISTED} more" if len(lost) > _LISTED else ""
        text += f" with {_counted(lost)} unfinished: {names}{more}"
        if reason is None:
            text += "; await the future of each call before the end, for example with asyncio.gather"
    log.warning("%s%s", text, resume_hint(recording))


def unfinished(live: Mapping[str, TaskFuture]) -> list[TaskFuture]:
    """Return what a script may wait for: all but services."""
    return [future for future in live.values() if not future._spec.is_service and not future.done()]


def _counted(futures: Sequence[TaskFuture]) -> str:
    blocks = sum(future._spec.kind == BLOCK for future in futures)
    counts = ((len(futures) - blocks, "task"), (blocks, "block"))
    return " and ".join(f"{count} {word}{'s' if count > 1 else ''}" for count, word in counts if count)


def _shown(error: BaseException) -> str:
    line = " ".join(text_of(error).split("\n", 1)[0].split())
    return line.removesuffix(":") if len(line) <= _LINE else f"{line[:_LINE]}..."


def resume_hint(recording: Recording | None) -> str:
    """Return lines with the directory of a session and what to type, or to write, to go on with it."""
    session = None if recording is None else recording.resumable
    return "" if session is None else f"\nsession: {session}\nto resume it: {_resume_line(str(session))}"


def _resume_line(session: str) -> str:
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is None or not os.path.isfile(script):
        # Typed into an interpreter or a notebook.
        return f"WorkflowEngine.create(..., resume={session!r})"
    return f"ASYNCFLOW_RESUME={shlex.quote(session)} {shlex.join(sys.orig_argv)}"
