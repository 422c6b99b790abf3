"""What a session's journal records: one frozen value for each kind of event.

Times are seconds since the epoch by the driver's clock, which may jump: the order of events is that of the lines.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "SCHEMA",
    "Event",
    "SessionClosed",
    "SessionOpened",
    "TaskEnded",
    "TaskReady",
    "TaskRunning",
    "TaskSubmitted",
]

SCHEMA = 1
"""Version of the format; a reader refuses a newer one."""


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True, gc=False):
    time: float


class SessionOpened(_Event, tag="session", frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A driver begins, or goes on with, a session; the first line of a journal, and of each resume.

    Attributes:
        schema: version of the format.
        uid: of the session.
        secret: from which the nonces of its attempts are made.
        host, pid: of the driver.
        script: its command line.
        version: of asyncflow_hpc.
        python: version of Python.
        resumed: an earlier driver's lines come before.
        keys: version of the way in which keys are made.
        modules: digests of the files of the modules that it had imported, other than those of packages.
    """

    schema: int
    uid: str
    secret: str
    host: str = ""
    pid: int = 0
    script: tuple[str, ...] = ()
    version: str = ""
    python: str = ""
    resumed: bool = False
    keys: int = 1
    modules: dict[str, str] = {}


class TaskReady(_Event, tag="task", frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An attempt of a task is about to be handed to its backend; nothing of it has happened yet.

    Attributes:
        uid, attempt: of the task; 0 for its first attempt.
        name: of the function.
        kind: function, executable or prompt.
        backend: name of the backend.
        key: by which a later driver recognizes it; "" where it cannot be recognized.
        parts: digests of what the key was made of, in the order of `recognition.PARTS`, to say what has changed.
        dependencies: uids.
        workflow: its workflow_id.
        service: whether it is one.
        cached: directory of the session and uid of the task whose result it got from a cache; nothing was run.
    """

    uid: str
    name: str
    kind: str
    backend: str
    attempt: int = 0
    key: str = ""
    parts: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()
    workflow: str | None = None
    service: bool = False
    cached: str = ""


class TaskSubmitted(_Event, tag="submitted", frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A scheduler has taken an attempt, or has put it back into its queue."""

    uid: str
    attempt: int = 0
    native_id: str | None = None


class TaskRunning(_Event, tag="running", frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An attempt runs."""

    uid: str
    attempt: int = 0
    native_id: str | None = None


class TaskEnded(_Event, tag="ended", frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An attempt has ended.

    Attributes:
        state: DONE, FAILED or CANCELED.
        cause: why it failed, else None.
        started, ended: when it ran, where that is known.
        text: what went wrong, the beginning of it.
        kept: the pickled result of a function, where it is small; a large one is in the sandbox.
        max_rss: peak memory in bytes.
        cpu_time: seconds.
    """

    uid: str
    state: str
    attempt: int = 0
    cause: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    started: float | None = None
    ended: float | None = None
    native_id: str | None = None
    text: str = ""
    kept: bytes | None = None
    max_rss: int | None = None
    cpu_time: float | None = None


class SessionClosed(_Event, tag="closed", frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A driver has ended in order.

    Attributes:
        detached: batch jobs were left to a resume.
    """

    detached: bool = False


Event = SessionOpened | TaskReady | TaskSubmitted | TaskRunning | TaskEnded | SessionClosed
