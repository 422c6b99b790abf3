"""The emulated batch system itself: it takes jobs, starts them where there is room, and ends them.

What touches processes and the clock is given to it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from .model import Chunk, Dependency, Ended, Job, Node, Queue, Settings, Share, State

__all__ = ["BatchSystem", "Machine"]

_TERM, _KILL = 15, 9


class Machine(Protocol):
    """Clock and processes."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def later(self, delay: float, call: Callable[[], None]) -> Any:
        """Call something in so many seconds; returns what has a method `cancel`."""

    def start(self, job: Job) -> int | None:
        """Start the script of a job; returns its process id, or None if it cannot be started."""

    def signal(self, job: Job, number: int) -> None:
        """Send a signal to all processes of a job."""

    def signal_script(self, job: Job, number: int) -> None:
        """Send a signal to the script of a job alone."""


class BatchSystem:
    """Queues, nodes and jobs.

    Args:
        signals: which a job gets when it is to end, one after the other, with the kill delay between them.
        warning: signal before them when a walltime is over, else None.
        dead_dependents_end: a job ends when one that it depends on has not ended as it must; else it waits for ever.
    """

    def __init__(
        self,
        settings: Settings,
        machine: Machine,
        signals: tuple[int, ...] = (_TERM, _KILL),
        warning: int | None = None,
        dead_dependents_end: bool = True,
    ) -> None:
        self.settings = settings
        self.queues = {queue.name: queue for queue in settings.queues}
        self.default = settings.queues[0].name
        self.nodes = [
            Node(f"n{number}", set(range(settings.cores)), set(range(settings.gpus)), settings.cores)
            for number in range(1, settings.nodes + 1)
        ]
        self.jobs: dict[str, Job] = {}
        self.history = settings.history
        self.purging = True
        self._machine = machine
        self._signals = signals
        self._warning = warning
        self._dead_dependents_end = dead_dependents_end
        self._numbers = itertools.count(1)
        self._queued: dict[str, Job] = {}
        self._unfinished: Counter[str] = Counter()
        self._dependents: dict[str, list[Job]] = {}
        self._impossible: dict[Any, bool] = {}
        self._due = False

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._machine.now()

    def elapsed(self, job: Job) -> float:
        """Seconds for which a job has run, by the batch system's own clock."""
        if job.started is None:
            return 0.0
        until = job.ended if job.ended is not None else self.now()
        return (until - job.started) * self.settings.speed

    def number(self) -> int:
        """Make a number for a new job."""
        return next(self._numbers)

    def unfinished(self, queue: str) -> int:
        """Count the jobs of a queue that have not ended."""
        return self._unfinished[queue]

    def submit(self, job: Job) -> None:
        """Take a job, whose queue is there and takes it."""
        job.created = job.changed = self.now()
        self.jobs[job.number] = job
        self._unfinished[job.queue] += 1
        if job.array is not None:
            job.array.parts.append(job)
        open_ones = [one for one in job.after if not self._settled(one)]
        if any(self._settled(one) is False for one in job.after):
            self._drop_dependent(job)
            return
        for one in open_ones:
            self._dependents.setdefault(one.number, []).append(job)
        if open_ones:
            job.holds.add("s")
        if job.begin is not None and job.begin > self.now():
            self._later(job.begin - self.now(), lambda: self._enqueue(job))
        self._enqueue(job)

    def _enqueue(self, job: Job) -> None:
        # Of an array, its parts are queued.
        if job.state in (State.ENDED, State.RUNNING) or job.parts:
            return
        self._queued.pop(job.number, None)
        if job.holds:
            job.state = State.HELD
        elif job.begin is not None and job.begin > self.now():
            job.state = State.WAITING
        else:
            job.state = State.QUEUED
            if job.eligible is None:
                job.eligible = self.now()
            self._queued[job.number] = job
            self.look_again(self._scaled(self.settings.start_delay))

    def look_again(self, delay: float = 0.0) -> None:
        """Start what has room, soon; many causes lead to one look."""
        if delay > 0:
            self._later(delay, self.look_again)
        elif not self._due:
            self._due = True
            self._later(0.0, self._schedule)

    def _schedule(self) -> None:
        self._due = False
        free = sum(len(node.cores) for node in self.nodes if not node.closed)
        ready = self.now() - self._scaled(self.settings.start_delay)
        failed: set[Any] = set()
        for job in list(self._queued.values()):
            if not free:
                break
            if job.state is not State.QUEUED or (job.eligible or 0.0) > ready + 1e-3 or not self._may_start(job):
                continue
            shape = (tuple(job.chunks), job.place, job.alone)
            shares = None if shape in failed else self._place(job)
            if shares is None:
                failed.add(shape)
                job.comment = job.comment or "no room"
                continue
            free -= sum(len(share.cores) for share in shares)
            self._start(job, shares)

    def _may_start(self, job: Job) -> bool:
        queue = self.queues.get(job.queue)
        return queue is None or queue.started

    def never(self, job: Job) -> bool:
        """Tell whether no node could ever run a job."""
        shape = (tuple(job.chunks), job.place)
        if shape not in self._impossible:
            gpus = set(range(self.settings.gpus))
            empty = [Node(node.name, set(range(node.size)), gpus, node.size) for node in self.nodes]
            self._impossible[shape] = _placed(job.chunks, job.place, False, empty) is None
        return self._impossible[shape]

    def _place(self, job: Job) -> list[Share] | None:
        return _placed(job.chunks, job.place, job.alone, self.nodes)

    def _start(self, job: Job, shares: list[Share]) -> None:
        del self._queued[job.number]
        for share in shares:
            share.node.cores.difference_update(share.cores)
            share.node.gpus.difference_update(share.gpus)
            share.node.users += 1
            share.node.closed = share.node.closed or job.alone
        job.shares, job.comment = shares, ""
        job.state, job.started, job.ended = State.RUNNING, self.now(), None
        job.changed = job.started
        job.runs += 1
        job.pid = self._machine.start(job)
        if job.array is not None and job.array.state is not State.RUNNING:
            job.array.state, job.array.started, job.array.changed = State.RUNNING, job.started, job.started
        if job.pid is None:
            self.over(job, 254)
            return
        self._resolve(job.number, "after")
        if job.walltime is not None:
            delay = self._scaled(job.walltime + self.settings.walltime_delay)
            job.timers.append(self._later(delay, lambda: self.end(job, Ended.WALLTIME)))

    def end(self, job: Job, why: Ended, by: str = "") -> None:
        """Begin to end a job that runs, or end at once one that does not."""
        if job.state is State.ENDED:
            return
        for part in job.parts:
            self.end(part, why, by)
        if job.parts:
            return
        if job.state is not State.RUNNING:
            job.why, job.by = why, by
            self._finish(job)
            return
        if job.asked is not None:
            return
        job.asked, job.by, job.changed = why, by, self.now()
        if why in (Ended.MEMORY, Ended.REQUEUED):
            self._machine.signal(job, _KILL)
            return
        if why is Ended.WALLTIME and self._warning is not None:
            self._machine.signal(job, self._warning)
        self._ask_to_end(job, self._signals)

    def _ask_to_end(self, job: Job, signals: tuple[int, ...]) -> None:
        self._machine.signal(job, signals[0])
        if signals[1:]:
            delay = self._scaled(self.settings.kill_delay)
            job.timers.append(self._later(delay, lambda: self._ask_to_end(job, signals[1:])))

    def over(self, job: Job, code: int) -> None:
        """Take note that the script of a job has ended.

        Args:
            code: exit code, below zero for a signal.
        """
        if job.state is not State.RUNNING:
            return
        # What it has started ends with it.
        self._machine.signal(job, _KILL)
        self._free(job)
        if job.asked is Ended.REQUEUED:
            job.asked, job.started, job.shares, job.pid = None, None, (), None
            job.state = State.QUEUED
            job.changed = job.eligible = self.now()
            self._enqueue(job)
            return
        job.code, job.why = code, job.asked or Ended.ITSELF
        self._finish(job)

    def _free(self, job: Job) -> None:
        for timer in job.timers:
            timer.cancel()
        job.timers.clear()
        for share in job.shares:
            share.node.cores.update(share.cores)
            share.node.gpus.update(share.gpus)
            share.node.users -= 1
            share.node.closed = share.node.closed and not job.alone
        self.look_again()

    def _finish(self, job: Job) -> None:
        self._queued.pop(job.number, None)
        job.state, job.ended = State.ENDED, self.now()
        self._unfinished[job.queue] -= 0 if job.parts else 1
        job.changed = job.ended
        self._resolve(job.number)
        if self.purging:
            self._later(self._scaled(self.history), lambda: self._purge(job))
        array = job.array
        if array is not None and all(part.state is State.ENDED for part in array.parts):
            array.code = max(1 if part.code else 0 for part in array.parts)
            array.why = job.why if job.why is not Ended.ITSELF else Ended.ITSELF
            self._finish(array)

    def _purge(self, job: Job) -> None:
        if self.jobs.get(job.number) is job:
            del self.jobs[job.number]

    def _settled(self, one: Dependency) -> bool | None:
        """Tell whether a dependency holds: None while nobody knows."""
        job = self.jobs.get(one.number)
        if job is None or (one.kind == "after" and job.started is not None):
            return True
        if job.state is not State.ENDED:
            return None
        well = job.ended_well
        return {"afterok": well, "afternotok": not well}.get(one.kind, True)

    def _resolve(self, number: str, kind: str | None = None) -> None:
        for job in self._dependents.get(number, ()) if kind else self._dependents.pop(number, ()):
            if job.state is State.ENDED:
                continue
            found = [self._settled(one) for one in job.after]
            if False in found:
                self._drop_dependent(job)
            elif all(found):
                job.holds.discard("s")
                self._enqueue(job)

    def _drop_dependent(self, job: Job) -> None:
        if self._dead_dependents_end:
            job.why = Ended.DEPENDENCY
            self._finish(job)
        else:
            job.holds.add("s")
            job.state, job.comment = State.HELD, "never"

    def hold(self, job: Job, letter: str) -> None:
        """Hold a job that does not run."""
        for part in job.parts:
            self.hold(part, letter)
        job.holds.add(letter)
        job.changed = self.now()
        self._enqueue(job)

    def release(self, job: Job, letters: Iterable[str]) -> None:
        """Take holds from a job."""
        for part in job.parts:
            self.release(part, letters)
        job.holds.difference_update(letters)
        job.changed = self.now()
        self._enqueue(job)

    def kill(self, job: Job, number: int, script_only: bool = False) -> None:
        """Send a signal to a job that runs, as a user may."""
        if job.state is State.RUNNING:
            (self._machine.signal_script if script_only else self._machine.signal)(job, number)

    def lose(self, job: Job) -> None:
        """Forget a job, and end what it runs, without a trace."""
        running = job.state is State.RUNNING
        self._unfinished[job.queue] -= 0 if job.parts or job.state is State.ENDED else 1
        self._queued.pop(job.number, None)
        self.jobs.pop(job.number, None)
        if running:
            self._machine.signal(job, _KILL)
            self._free(job)
        job.state, job.pid = State.ENDED, None

    def purge(self) -> None:
        """Forget all jobs that have ended."""
        for number in [number for number, job in self.jobs.items() if job.state is State.ENDED]:
            del self.jobs[number]

    def queue_named(self, name: str | None) -> Queue | None:
        """Return a queue; the default one where no name is given."""
        return self.queues.get(name or self.default)

    def _scaled(self, seconds: float) -> float:
        return seconds / self.settings.speed

    def _later(self, delay: float, call: Callable[[], None]) -> Any:
        return self._machine.later(delay, call)


def _placed(chunks: Sequence[Chunk], place: str, alone: bool, nodes: list[Node]) -> list[Share] | None:
    """Find room; nothing is taken yet."""
    if place == "pack":
        tried = (_placed(chunks, "free", alone, [node]) for node in nodes)
        return next((found for found in tried if found is not None), None)
    free = {node.name: (sorted(node.cores), sorted(node.gpus)) for node in nodes if node.fits(0, 0, alone)}
    by_name = {node.name: node for node in nodes}
    shares: list[Share] = []
    used: set[str] = set()
    for chunk in chunks:
        for _ in range(chunk.count):
            for name, (cores, gpus) in free.items():
                taken = place == "scatter" and name in used
                if not taken and len(cores) >= chunk.cores and len(gpus) >= chunk.gpus:
                    break
            else:
                return None
            used.add(name)
            shares.append(Share(by_name[name], tuple(cores[: chunk.cores]), tuple(gpus[: chunk.gpus]), chunk.ranks))
            free[name] = (cores[chunk.cores :], gpus[chunk.gpus :])
    return shares
