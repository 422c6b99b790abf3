"""Fixtures of the contract suite.

They live beside its tests and not in the plugin, so that a fixture `backend` or `flow` of an author's own conftest.py
does not take their place.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.testing import plugin
from asyncflow_hpc.testing.leftovers import assert_none_left
from asyncflow_hpc.testing.under_test import BackendUnderTest

__all__ = ["backend", "backend_under_test", "flow", "root"]


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Refuse to run without the plugin."""
    if not config.pluginmanager.has_plugin(plugin.__name__):
        raise pytest.UsageError(
            f"the contract suite needs its plugin: write pytest_plugins = [{plugin.__name__!r}] in conftest.py,"
            f" or give -p {plugin.__name__}"
        )


@pytest.fixture
def backend_under_test(request: pytest.FixtureRequest) -> BackendUnderTest:
    """What is told about a backend; the plugin runs a test over all."""
    under_test: BackendUnderTest = request.param
    return under_test


@pytest_asyncio.fixture
async def backend(
    request: pytest.FixtureRequest, backend_under_test: BackendUnderTest, root: Path
) -> AsyncIterator[Any]:
    """A backend that is not started; shut down at the end, before it is looked what it left in `root`."""
    made = backend_under_test.make()
    plugin.skip_where_lacking(request.node, backend_under_test, made)
    yield made
    await made.shutdown()


@pytest.fixture
def root(tmp_path: Path, backend_under_test: BackendUnderTest) -> Iterator[Path]:
    """A directory for sessions, with a hostile name; at the end nothing may run that was started in it."""
    path = tmp_path / "a place with spaces, 'quotes' and ü"
    path.mkdir()
    yield path
    assert_none_left(path, backend_under_test.leftovers, backend_under_test.lag)


@pytest_asyncio.fixture
async def flow(backend: Any, root: Path) -> AsyncIterator[WorkflowEngine]:
    """An engine on the backend."""
    async with WorkflowEngine.create(backend=backend, work_dir=root) as engine:
        yield engine
