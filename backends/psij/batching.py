"""What is asked about single jobs is put to the scheduler for many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Generic, TypeVar

__all__ = ["Batches"]

Answer = TypeVar("Answer")

# A command for more jobs takes long, and every scheduler's module takes as many.
_LARGEST = 500


class Batches(Generic[Answer]):
    """Runs one command at a time, for all jobs that came while the last one ran.

    Args:
        ask: runs it for some ids; returns what it said of each, and raises nothing that callers should see.
        start: begins a coroutine that somebody owns.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[str]], Awaitable[Mapping[str, Answer]]],
        start: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._ask = ask
        self._start = start
        self._waiting: dict[str, asyncio.Future[Answer | None]] = {}
        self._busy = False

    def add(self, native_id: str) -> asyncio.Future[Answer | None]:
        """Let a job take part in the next command; the future gets what that says of it, else None."""
        if native_id not in self._waiting:
            self._waiting[native_id] = asyncio.get_running_loop().create_future()
        answer = self._waiting[native_id]
        if not self._busy:
            self._busy = True
            self._start(self._work())
        return answer

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._next()
        finally:
            self._busy = False
            self._give(self._waiting, {})

    async def _next(self) -> None:
        batch = {native_id: self._waiting.pop(native_id) for native_id in list(self._waiting)[:_LARGEST]}
        found: Mapping[str, Answer] = {}
        try:
            found = await self._ask(list(batch))
        finally:
            self._give(batch, found)

    @staticmethod
    def _give(batch: Mapping[str, asyncio.Future[Answer | None]], found: Mapping[str, Answer]) -> None:
        for native_id, answer in batch.items():
            if not answer.done():
                answer.set_result(found.get(native_id))
