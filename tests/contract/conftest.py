"""The backends that the contract suite runs over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import LocalExecutionBackend, WorkflowEngine

BACKENDS: dict[str, Callable[[], Any]] = {
    "local": lambda: LocalExecutionBackend(cores=2, gpus=2),
    "local-script": lambda: LocalExecutionBackend(cores=2, gpus=2, scripted=True),
    "local-thread": lambda: LocalExecutionBackend(functions="thread", cores=2, gpus=2),
    "local-executor": lambda: LocalExecutionBackend(ThreadPoolExecutor(2), cores=2, gpus=2),
}


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Any:
    """A backend of each kind."""
    return BACKENDS[request.param]()


@pytest.fixture
async def flow(backend: Any, root: Path) -> AsyncIterator[WorkflowEngine]:
    """An engine on it."""
    async with WorkflowEngine.create(backend=backend, work_dir=root) as engine:
        yield engine


@pytest.fixture
async def processes(root: Path) -> AsyncIterator[WorkflowEngine]:
    """An engine whose functions run in processes of their own."""
    async with WorkflowEngine.create(backend=BACKENDS["local"](), work_dir=root) as engine:
        yield engine
