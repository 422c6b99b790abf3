"""The two engines under measurement, behind one switch: both have the same names."""

from __future__ import annotations

import importlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

MODULES = {"ours": "asyncflow_hpc", "peer": "radical.asyncflow"}


def load(side: str) -> Any:
    """The package of "ours" or "peer"; untyped, since both are driven through the API they share."""
    return importlib.import_module(MODULES[side])


@asynccontextmanager
async def noop_engine(side: str) -> AsyncIterator[Any]:
    """An engine on the no-op backend, which runs nothing: what remains is the engine's own cost."""
    async with engine_on(side, load(side).NoopExecutionBackend()) as flow:
        yield flow


@asynccontextmanager
async def local_engine(side: str, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
    """An engine on the local backend made with these arguments."""
    async with engine_on(side, await load(side).LocalExecutionBackend(*args, **kwargs)) as flow:
        yield flow


@asynccontextmanager
async def engine_on(side: str, backend: Any) -> AsyncIterator[Any]:
    # A probe's current directory is its own and is removed after it.
    flow = await load(side).WorkflowEngine.create(backend=backend, work_dir=os.getcwd())
    try:
        yield flow
    finally:
        await flow.shutdown()
