"""A driver or a machine that has too little of something for a moment: worth waiting for, and no news of any task."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["PAUSE", "is_short", "once_there_is_more"]

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Of processes, of descriptors here or on the machine, of memory.
_SHORT = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})

PAUSE = 0.1
"""Seconds between two tries."""

# Tries until nobody waits any more.
_TRIES = 600


def is_short(error: BaseException | None) -> bool:
    """Tell whether an error, or what it was raised from, is one of want."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _SHORT:
            return True
        error = error.__cause__
    return False


def once_there_is_more(function: Callable[[], Result]) -> Result:
    """Call a function until nothing is wanting, for a minute at most; blocks, and belongs into a thread.

    Raises:
        Exception: what the function has raised, for another reason or in the end.
    """
    for tried in range(_TRIES):
        try:
            return function()
        except Exception as error:
            if not is_short(error):
                raise
            if not tried:
                log.warning("waiting for this to pass: %s", error)
            time.sleep(PAUSE)
    return function()
