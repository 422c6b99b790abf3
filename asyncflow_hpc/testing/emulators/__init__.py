"""Emulated batch systems: the commands of PBS Pro, Torque and LSF over a small one on this machine."""

from __future__ import annotations

from .emulation import Emulation, emulate

__all__ = ["Emulation", "emulate"]
