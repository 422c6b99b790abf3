"""Tasks as batch jobs of a scheduler, submitted through PSI/J."""

from __future__ import annotations

from typing import Any

from .backend import PsijExecutionBackend

__all__ = [
    "LsfExecutionBackend",
    "PbsClassicExecutionBackend",
    "PbsExecutionBackend",
    "PsijExecutionBackend",
]


class PbsExecutionBackend(PsijExecutionBackend):
    """Runs tasks as jobs of PBS Pro or OpenPBS; arguments as of `PsijExecutionBackend`."""

    def __init__(self, **options: Any) -> None:
        super().__init__("pbs", **options)


class PbsClassicExecutionBackend(PsijExecutionBackend):
    """Runs tasks as jobs of Torque; arguments as of `PsijExecutionBackend`."""

    def __init__(self, **options: Any) -> None:
        super().__init__("pbs_classic", **options)


class LsfExecutionBackend(PsijExecutionBackend):
    """Runs tasks as jobs of LSF; arguments as of `PsijExecutionBackend`."""

    def __init__(self, **options: Any) -> None:
        super().__init__("lsf", **options)
