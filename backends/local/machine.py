"""What the machine has."""

from __future__ import annotations

import os

from asyncflow_hpc.errors import ConfigurationError
from asyncflow_hpc.units import parse_memory

__all__ = ["total_memory", "usable_cores"]


def usable_cores() -> int:
    """Count the cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def total_memory(name: str, wanted: int | str | None) -> int:
    """Say how much memory a backend hands out, in bytes.

    Args:
        name: of the backend, for the message.
        wanted: bytes, or text such as "8GB"; that of the machine where None.

    Raises:
        ConfigurationError: it is no amount of memory.
    """
    if wanted is None:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return parse_memory(wanted)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"memory of backend '{name}': {error}") from None
