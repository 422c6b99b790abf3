"""Who may run now: counting cores, GPUs and memory of one machine."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Grant", "Request", "Slots"]


class Request(NamedTuple):
    """What a task occupies while it runs; memory in bytes."""

    cores: int = 1
    gpus: int = 0
    memory: int = 0


@dataclass(frozen=True)
class Grant:
    """What a task was given: the request, and which GPUs."""

    request: Request
    gpus: tuple[str, ...] = ()


class Slots:
    """A queue in order of arrival, in which small tasks slip into gaps without starving big ones.

    Tasks of one shape wait in a queue of their own, so that starting one costs the same however many wait.

    Args:
        cores, memory: what the machine has; memory in bytes.
        gpus: names of its GPUs.
        overtaking: how many tasks may be started ahead of the oldest one that does not fit.
    """

    def __init__(self, cores: int, gpus: tuple[str, ...] = (), memory: int = 0, overtaking: int = 32) -> None:
        self.total = Request(cores, len(gpus), memory)
        self._free = list(self.total)
        self._gpus = list(gpus)
        self._queues: dict[Request, deque[tuple[int, str]]] = {}
        self._waiting: dict[str, int] = {}
        self._granted: dict[str, Grant] = {}
        self._number = 0
        self._overtaking = overtaking
        self._overtaken: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def granted(self) -> int:
        """How many tasks run."""
        return len(self._granted)

    def lacking(self, request: Request) -> str | None:
        """Say what the whole machine has too little of for a request, or None if it fits."""
        total = self.total
        if request.cores <= total.cores and request.gpus <= total.gpus and request.memory <= total.memory:
            return None
        for name, wanted, there in zip(Request._fields, request, total, strict=True):
            if wanted > there:
                return f"{wanted} {name}, and there are {there}"
        return None

    def put(self, uid: str, request: Request, first: bool = False) -> None:
        """Let a task wait; before all others if it is to be the first."""
        self._number += 1
        number = -self._number if first else self._number
        self._waiting[uid] = number
        queue = self._queues.get(request)
        if queue is None:
            queue = self._queues[request] = deque()
        if first:
            queue.appendleft((number, uid))
        else:
            queue.append((number, uid))

    def remove(self, uid: str) -> bool:
        """Take out a task that waits; False if it does not."""
        return self._waiting.pop(uid, None) is not None

    def take(self) -> tuple[str, Grant] | None:
        """Start the next task that may run now, if there is one."""
        heads = self._heads()
        if not heads:
            return None
        oldest = heads[0][0]
        for number, request in heads:
            if self.fits(request):
                self._overtaken.pop(number, None)
                if number != oldest:
                    self._overtaken[oldest] = self._overtaken.get(oldest, 0) + 1
                return self._grant(request)
            if self._overtaken.get(oldest, 0) >= self._overtaking:
                return None
        return None

    def _heads(self) -> list[tuple[int, Request]]:
        heads = []
        spent = []
        for request, queue in self._queues.items():
            while queue and self._waiting.get(queue[0][1]) != queue[0][0]:
                # It was taken out while it waited.
                self._overtaken.pop(queue.popleft()[0], None)
            if queue:
                heads.append((queue[0][0], request))
            else:
                spent.append(request)
        for request in spent:
            del self._queues[request]
        if len(heads) > 1:
            heads.sort()
        return heads

    def _grant(self, request: Request) -> tuple[str, Grant]:
        _, uid = self._queues[request].popleft()
        del self._waiting[uid]
        self._free = [free - wanted for free, wanted in zip(self._free, request, strict=True)]
        gpus, self._gpus = tuple(self._gpus[: request.gpus]), self._gpus[request.gpus :]
        grant = self._granted[uid] = Grant(request, gpus)
        return uid, grant

    def ahead(self, request: Request) -> str | None:
        """Take out the oldest task that waits, if all that wait have one shape: a place of that shape is kept for it.

        It runs once another passes its place on to it.
        """
        if len(self._queues) > 1:
            self._heads()
        queue = self._queues.get(request)
        if queue is None or len(self._queues) > 1 or request.gpus:
            return None
        while queue:
            number, uid = queue.popleft()
            self._overtaken.pop(number, None)
            if self._waiting.get(uid) == number:
                del self._waiting[uid]
                return uid
        return None

    def pass_on(self, old: str, new: str) -> Grant:
        """Give a task that was taken out by `ahead` what another of its shape had."""
        grant = self._granted[new] = self._granted.pop(old)
        return grant

    def fits(self, request: Request) -> bool:
        """Tell whether there is room for a request now."""
        cores, gpus, memory = self._free
        return request.cores <= cores and request.gpus <= gpus and request.memory <= memory

    def release(self, uid: str) -> None:
        """Take back what a task was given."""
        grant = self._granted.pop(uid)
        self._free = [free + wanted for free, wanted in zip(self._free, grant.request, strict=True)]
        self._gpus += grant.gpus

    def waiting(self) -> list[str]:
        """Uids of the tasks that wait."""
        return list(self._waiting)
