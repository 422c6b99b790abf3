"""Waiting for what only shows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["until"]


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that nobody tells of; the test's own time limit bounds it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
