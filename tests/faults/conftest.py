"""Fixtures of the fault tier."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from asyncflow_hpc import WorkflowEngine

from .on_slurm import Gate, Wrappers, backend, cluster


@pytest.fixture
def controller() -> Iterator[None]:
    """A controller that is there again at the end."""
    yield
    cluster("start-controller")


@pytest.fixture
async def slurm_flow(root: Path) -> AsyncIterator[WorkflowEngine]:
    """An engine whose tasks are jobs of a real Slurm."""
    async with WorkflowEngine.create(backend(), work_dir=root) as engine:
        yield engine


@pytest.fixture
def gate(root: Path) -> Gate:
    """What tasks wait for."""
    return Gate(root)


@pytest.fixture
def wrappers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wrappers:
    """Slurm's commands, counted."""
    return Wrappers(tmp_path / "wrappers", monkeypatch)
