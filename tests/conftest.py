"""Fixtures for all tiers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from asyncflow_hpc.testing.leftovers import assert_none_left
from asyncflow_hpc.testing.waiting import until

from .surroundings import make_known

__all__ = ["until"]

# Only the outermost conftest.py may name plugins.
pytest_plugins = ["asyncflow_hpc.testing.plugin", "tests.processes"]

make_known()

# How long an example takes says something about the machine alone.
hypothesis.settings.register_profile("asyncflow", deadline=None)
hypothesis.settings.load_profile("asyncflow")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory for sessions, with a hostile name; at the end no process may be left that ran in it."""
    path = tmp_path / "a place with spaces, 'quotes' and ü"
    path.mkdir()
    yield path
    assert_none_left(path)
