"""Function tasks in worker processes, each call alone in its process."""

from __future__ import annotations

import asyncio
import signal
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .processes import End
from .slots import Request
from .worker_process import Call, WorkerProcess

__all__ = ["FunctionWorkers", "Queue", "died_of_memory", "memory_kills"]

# Calls that a worker has ahead at most; it gets more when half of them have begun.
_DEPTH = 8

# Calls that may start elsewhere while those ahead of one worker wait for its present call.
_OVERTAKING = 64


class Queue(Protocol):
    """Where calls wait until they run, whether they were sent ahead or not."""

    def next_calls(self, request: Request, most: int, workers: int) -> list[Call]:
        """Take out calls of one shape that are next to run, to send them ahead; so many workers share."""

    def put_back(self, calls: Sequence[Call]) -> None:
        """Let calls that were sent ahead wait again, before all others."""


class FunctionWorkers:
    """Worker processes, started when they are needed and kept for the next call.

    A busy worker is sent calls ahead of their time, so that neither it nor the driver needs to wake up for each. Such
    a call has no room of its own until the one before it is answered, and can be had back until it begins. A worker
    that dies takes the one call with it that it runs.

    The caller sees to it that no more calls run at once than there should be workers.

    Args:
        mark: of the backend.
        queue: where the calls wait.
        shared: a worker runs its calls itself, one after the other; if not, it forks a process for each.
    """

    def __init__(self, mark: str, queue: Queue, *, shared: bool) -> None:
        self._mark = mark
        self._server = "worker" if shared else "fork_server"
        self._queue = queue
        self._idle: deque[WorkerProcess] = deque()
        self._busy: dict[WorkerProcess, None] = {}
        # Those with calls ahead, by their last answer.
        self._laden: OrderedDict[WorkerProcess, None] = OrderedDict()
        self._all: set[WorkerProcess] = set()
        self._starts = 0
        self._gone = asyncio.Event()
        self._gone.set()

    def __len__(self) -> int:
        return len(self._all)

    def run(self, call: Call) -> None:
        """Run a call.

        Raises:
            OSError: no worker can be started.
        """
        worker = self._idle.pop() if self._idle else self._start()
        while not worker.send([call]):
            # It died while it was idle; the call never reached it.
            call.worker = None
            worker = self._idle.pop() if self._idle else self._start()
        worker.call = call
        self._busy[worker] = None
        call.started(worker.pid)

    def _start(self) -> WorkerProcess:
        worker = WorkerProcess(self._mark, self._server, self._answered, self._refill, self._ended)
        self._all.add(worker)
        self._gone.clear()
        return worker

    def _answered(self, worker: WorkerProcess, answer: dict[str, Any]) -> None:
        call = worker.call
        assert call is not None
        worker.proven, worker.barred = True, False
        worker.dead = worker.dead or answer["retire"]
        if worker.dead:
            self._take_back(worker)
        self._settle(worker, call, answer)

    def _settle(self, worker: WorkerProcess, call: Call, answer: dict[str, Any] | End) -> None:
        """Hand over what came of a call; its room goes to the next one ahead of its worker."""
        if not worker.ahead:
            self._let_go(worker, call)
            call.answered(answer)
            return
        call.worker = None
        worker.call = follower = worker.ahead.popleft()
        self._laden.pop(worker, None)
        follower.take_over(call)
        call.answered(answer)
        follower.started(worker.pid)
        self.count_start()
        worker.since = self._starts
        if worker.ahead:
            self._laden[worker] = None

    def _let_go(self, worker: WorkerProcess, call: Call) -> None:
        call.worker = worker.call = None
        self._busy.pop(worker, None)
        if not worker.dead:
            self._idle.append(worker)

    def count_start(self) -> None:
        """Take note that something was started; calls ahead of a worker that has not answered for long come back."""
        self._starts += 1
        if self._laden:
            slowest = next(iter(self._laden))
            if self._starts - slowest.since > _OVERTAKING:
                self._recover(slowest)

    def refill(self) -> None:
        """Send calls ahead of all workers that have few."""
        for others, worker in enumerate(reversed(self._busy)):
            self._fill(worker, len(self._busy) - others)

    def _refill(self, worker: WorkerProcess) -> None:
        self._fill(worker, len(self._busy))

    def _fill(self, worker: WorkerProcess, sharing: int) -> None:
        call, room = worker.call, _DEPTH - len(worker.ahead)
        if call is None or worker.dead or worker.barred or not worker.proven or room < _DEPTH // 2 or worker.sending:
            return
        calls = self._queue.next_calls(call.request, room, sharing)
        if not calls:
            return
        if not worker.ahead:
            self._laden[worker] = None
            worker.since = self._starts
        worker.ahead += calls
        # Where it has died meanwhile, its end is on the way and brings them back.
        worker.send(calls)

    def reclaim(self, fits: Callable[[Request], bool]) -> bool:
        """Take back the calls ahead of one worker, if they could run elsewhere now; False if there are none."""
        return any(fits(worker.ahead[0].request) and self._recover(worker) for worker in list(self._laden))

    def _recover(self, worker: WorkerProcess) -> bool:
        before = len(worker.ahead)
        if self._take_back(worker):
            # Its token came along. The worker will pass over the message that it has, so it gets another.
            assert worker.call is not None
            worker.send([worker.call])
        return len(worker.ahead) < before

    def _take_back(self, worker: WorkerProcess) -> bool:
        """Take back what a worker has not begun; returns whether its present call is part of that."""
        worker.barred = True
        self._laden.pop(worker, None)
        places = worker.take_back()
        back = [call for call in worker.ahead if call.place in places]
        if back:
            worker.ahead = deque(call for call in worker.ahead if call.place not in places)
            for call in back:
                call.worker = None
            self._queue.put_back(back)
        return worker.call is not None and worker.call.place in places

    def recall(self, call: Call) -> None:
        """Settle whether a call that was sent has begun or even ended; what is ahead of its worker comes back."""
        worker = call.worker
        if worker is not None:
            if worker.ahead:
                self._recover(worker)
            worker.drain()

    def recall_all(self) -> None:
        """Take back all that was sent ahead."""
        for worker in list(self._busy):
            if worker.ahead:
                self._recover(worker)
                worker.drain()

    def terminate(self, call: Call, grace: float) -> None:
        """End the worker that runs a call, with nothing ahead of it; even if it answers first, it gets no other."""
        if call.worker is not None:
            call.worker.dead = True
            call.worker.terminate(grace)

    def _ended(self, worker: WorkerProcess, end: End) -> None:
        worker.dead = True
        lost = worker.call if self._take_back(worker) else None
        # An answer that was sent before the end still counts.
        worker.drain()
        worker.close()
        self._all.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if lost is not None and lost is worker.call:
            self._let_go(worker, lost)
            lost.never_began(end)
        while worker.call is not None:
            self._settle(worker, worker.call, end)
        if not self._all:
            self._gone.set()

    async def close(self, grace: float) -> None:
        """End all workers and wait for them."""
        for worker in list(self._all):
            worker.terminate(grace if worker.call is not None else 0)
        await self._gone.wait()

    def kill(self) -> None:
        """Kill all workers without waiting."""
        for worker in self._all:
            worker.kill()


def died_of_memory(end: End, kills_before: int) -> bool:
    """Tell whether the kernel killed a process for want of memory.

    Args:
        end: of the process.
        kills_before: `memory_kills()` when it was started.
    """
    return end.signal == signal.SIGKILL and memory_kills() > kills_before


def memory_kills() -> int:
    """Count the processes that this kernel has killed for want of memory; 0 where it does not say.

    Source: proc(5), /proc/vmstat, oom_kill (since Linux 4.13).
    """
    try:
        with open("/proc/vmstat", encoding="ascii") as stream:
            for line in stream:
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    except (OSError, ValueError):
        pass
    return 0
