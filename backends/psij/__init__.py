"""Tasks as batch jobs of a scheduler, submitted through PSI/J."""

from .backend import PsijExecutionBackend

__all__ = ["PsijExecutionBackend"]
