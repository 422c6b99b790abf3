"""What the emulated batch system is made of: queues, nodes, jobs. No process, no file, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

__all__ = ["Chunk", "Dependency", "Ended", "Job", "Launch", "Node", "Queue", "Settings", "Share", "State"]


class State(Enum):
    """Where a job is."""

    HELD = "held"
    WAITING = "until its start time"
    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"


class Ended(Enum):
    """Why a job ended."""

    ITSELF = "by itself, or by a signal that the batch system did not send"
    CANCELLED = "somebody deleted it"
    WALLTIME = "its walltime was over"
    MEMORY = "it used more memory than it asked for"
    DEPENDENCY = "a job that it depends on did not end as it had to"
    REQUEUED = "it goes back into the queue"


@dataclass(slots=True)
class Queue:
    """A queue and its limits.

    Attributes:
        walltime: seconds that a job may ask for.
        cores: that a job may ask for.
        most: jobs of a user, queued or running.
        enabled: it takes jobs.
        started: its jobs run.
        closed: to users, by an access list.
        standard: seconds of a job that asks for none.
    """

    name: str
    walltime: float | None = None
    cores: int | None = None
    most: int | None = None
    enabled: bool = True
    started: bool = True
    closed: bool = False
    standard: float | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """How the emulated batch system is set up.

    Attributes:
        nodes: how many it pretends to have.
        cores, gpus: of each of them.
        queues: the first takes jobs that name none.
        speed: by which its clock is faster: walltimes and the delays below are divided by it.
        start_delay: seconds from a job's submission to its start, at least.
        kill_delay: seconds from the signal that asks a job to end to the one that ends it.
        walltime_delay: seconds over its walltime before a job is ended.
        history: seconds for which ended jobs are known.
        home: in which jobs of PBS and Torque start; None for the user's.
        server: its name.
    """

    nodes: int
    cores: int
    gpus: int
    queues: Sequence[Queue]
    speed: float
    start_delay: float
    kill_delay: float
    walltime_delay: float
    history: float
    server: str
    home: str | None = None


@dataclass(slots=True)
class Node:
    """A pretended machine, with what of it is free."""

    name: str
    cores: set[int]
    gpus: set[int]
    size: int
    users: int = 0
    closed: bool = False

    def fits(self, cores: int, gpus: int, alone: bool) -> bool:
        """Tell whether it has that much free now."""
        return not self.closed and len(self.cores) >= cores and len(self.gpus) >= gpus and not (alone and self.users)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Parts of a job that are alike, each of them on one node."""

    count: int
    cores: int = 1
    ranks: int = 1
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """What a part of a job has got."""

    node: Node
    cores: tuple[int, ...]
    gpus: tuple[int, ...]
    ranks: int


@dataclass(frozen=True, slots=True)
class Launch:
    """How the script of a job is started.

    Attributes:
        shell: the program that leads the session of the job.
        output, errors: files, None for no file, errors too for the same as output.
        truncate: replace the files instead of adding to them.
    """

    shell: str
    script: bytes
    environment: Mapping[str, str]
    directory: str
    umask: int
    output: str | None = None
    errors: str | None = None
    joined: bool = False
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class Dependency:
    """What must have become of another job: "after", "afterok", "afternotok" or "afterany"."""

    kind: str
    number: str


@dataclass(slots=True, eq=False)
class Job:
    """A job.

    Attributes:
        number: without the server's name; "41[]" for an array, "41[2]" for a part of it.
        place: "free", "pack" (one node) or "scatter" (a node for each chunk).
        holds: letters: u of the user, o of an operator, s of the system, for dependencies.
        begin: before which it does not start, in seconds since the epoch.
        shown: what the flavour of the batch system wants to tell about it.
        code: exit code, below zero for a signal.
        asked: why it is being ended; None while it is not.
        by: who asked.
        undelivered: its output could not be put where it was to be.
    """

    number: str
    name: str
    queue: str
    chunks: Sequence[Chunk]
    launch: Launch
    place: str = "free"
    alone: bool = False
    walltime: float | None = None
    memory: int | None = None
    rerunnable: bool = True
    holds: set[str] = field(default_factory=set)
    begin: float | None = None
    after: Sequence[Dependency] = ()
    shown: dict[str, Any] = field(default_factory=dict)
    array: Job | None = None
    index: int | None = None
    parts: list[Job] = field(default_factory=list)
    state: State = State.QUEUED
    created: float = 0.0
    changed: float = 0.0
    eligible: float | None = None
    started: float | None = None
    ended: float | None = None
    runs: int = 0
    pid: int | None = None
    shares: Sequence[Share] = ()
    code: int | None = None
    asked: Ended | None = None
    why: Ended | None = None
    by: str = ""
    comment: str = ""
    used: int = 0
    undelivered: bool = False
    timers: list[Any] = field(default_factory=list)

    @property
    def cores(self) -> int:
        """All that it asks for."""
        return sum(chunk.count * chunk.cores for chunk in self.chunks)

    @property
    def ended_well(self) -> bool:
        """It ran, and ended with code 0."""
        return self.state is State.ENDED and self.code == 0 and self.why is Ended.ITSELF
