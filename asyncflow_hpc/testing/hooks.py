"""Hooks of the contract suite."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from .under_test import BackendUnderTest

__all__ = ["pytest_asyncflow_backends"]


@pytest.hookspec
def pytest_asyncflow_backends() -> Mapping[str, BackendUnderTest]:  # type: ignore[empty-body]
    """Return the backends that the contract suite shall run over, by the names under which it shows them."""
