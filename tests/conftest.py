"""Fixtures for all tiers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncflow_hpc.testing.leftovers import assert_none_left
from asyncflow_hpc.testing.waiting import until

__all__ = ["until"]

# Only the outermost conftest.py may name plugins.
pytest_plugins = ["asyncflow_hpc.testing.plugin"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests in one process that share what only one may use at a time."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_shared_by(item)))


def _shared_by(item: pytest.Item) -> str:
    spec = getattr(item, "callspec", None)
    if spec is None:
        params, words, indices = {}, [], {}
    else:
        params, words, indices = spec.params, spec.id.split("-"), spec.indices
    if params.get("accounting") == "with accounting":
        return "the Slurm with accounting"
    if "slurm" in words or (item.path.parent.name == "faults" and "slurm" in item.path.name):
        return "the Slurm"
    if "batch_system" in params:
        return f"the emulated {params['batch_system']}"
    if "backend_under_test" in params:
        return f"contract {indices['backend_under_test']}"
    return str(item.path)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory for sessions, with a hostile name; at the end no process may be left that ran in it."""
    path = tmp_path / "a place with spaces, 'quotes' and ü"
    path.mkdir()
    yield path
    assert_none_left(path)
