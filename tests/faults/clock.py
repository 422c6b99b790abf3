"""A wall clock that a test sets, for the Python processes of a driver and of its tasks."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["DAY", "HOUR", "Clock"]

HOUR, DAY = 3600, 86400

_SITE = """\
import datetime, time

def _shift(clock=time.time):
    with open(PLACE) as stream:
        return float(stream.read())

def _time(clock=time.time):
    return clock() + _shift()

def _time_ns(clock=time.time_ns):
    return clock() + round(_shift() * 1e9)

class _Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(_time(), tz)

    @classmethod
    def today(cls):
        return cls.now()

    @classmethod
    def utcnow(cls):
        return cls.now(datetime.timezone.utc).replace(tzinfo=None)

time.time, time.time_ns, datetime.datetime = _time, _time_ns, _Datetime
"""


class Clock:
    """Says the true time, until it is set; what measures intervals is not touched, and no clock of other programs.

    Args:
        place: directory for its own files; made.

    Attributes:
        environment: for the processes that are to use it.
    """

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self._shift = place / "shift"
        (place / "sitecustomize.py").write_text(_SITE.replace("PLACE", repr(str(self._shift))))
        self.environment = {"PYTHONPATH": str(place)}
        self.set(0)

    def set(self, seconds: float) -> None:
        """Set it so many seconds before (below zero) or after the true time, also for processes that run."""
        new = self._shift.with_suffix(".new")
        new.write_text(str(seconds))
        os.rename(new, self._shift)
