"""For authors of backends: the contract suite, and what it is told about a backend."""

from __future__ import annotations

from .under_test import FEATURES, BackendUnderTest

__all__ = ["FEATURES", "BackendUnderTest"]
