"""Tasks in pilots: RADICAL-Pilot holds an allocation, and tasks run in it without queueing."""

from .backend import RadicalExecutionBackend
from .pool import PilotPool

__all__ = ["PilotPool", "RadicalExecutionBackend"]
