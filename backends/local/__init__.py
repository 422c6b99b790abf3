"""Tasks as processes of this machine."""

from .backend import LocalExecutionBackend

__all__ = ["LocalExecutionBackend"]
