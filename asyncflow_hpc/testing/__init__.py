"""For authors of backends: the contract suite, and what it is told about a backend; for rehearsals: emulators."""

from __future__ import annotations

from .emulators import Emulation, emulate
from .under_test import FEATURES, BackendUnderTest

__all__ = ["FEATURES", "BackendUnderTest", "Emulation", "emulate"]
