"""Tasks on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import LocalExecutionBackend

__all__ = ["LocalExecutionBackend"]


def __getattr__(name: str) -> Any:
    # Not before it is asked for: the process that forks the calls of functions needs none of it, and each page of
    # memory that it has makes a fork slower.
    if name == "LocalExecutionBackend":
        from .backend import LocalExecutionBackend

        return LocalExecutionBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
