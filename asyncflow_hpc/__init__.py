"""Asynchronous Python workflows on laptops, batch systems and pilots."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import InputFile, OutputFile
    from .engine import WorkflowEngine
    from .registry import backend_for
    from .retries import RetryPolicy
    from .sites import load_site, site_names
    from .task import TaskDescription

__all__ = [
    "InputFile",
    "LocalExecutionBackend",
    "NoopExecutionBackend",
    "OutputFile",
    "RetryPolicy",
    "TaskDescription",
    "WorkflowEngine",
    "__version__",
    "backend_for",
    "load_site",
    "site_names",
]

_HOMES = {
    "InputFile": ".data",
    "OutputFile": ".data",
    "RetryPolicy": ".retries",
    "TaskDescription": ".task",
    "WorkflowEngine": ".engine",
    "backend_for": ".registry",
    "load_site": ".sites",
    "site_names": ".sites",
}

# By their registered names: the engine's package does not know where backends live.
_BACKENDS = {"LocalExecutionBackend": "local", "NoopExecutionBackend": "noop"}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for, so that `import asyncflow_hpc` costs next to nothing."""
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name], __name__), name)
    elif name in _BACKENDS:
        from .registry import load_backend

        value = load_backend(_BACKENDS[name])
    elif name == "__version__":
        from importlib.metadata import version

        value = version("asyncflow-hpc")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
