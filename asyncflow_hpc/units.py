"""Durations and sizes as users write them."""

from __future__ import annotations

import re
from datetime import timedelta

__all__ = ["LONGEST_WALLTIME", "parse_memory", "parse_walltime"]

LONGEST_WALLTIME = 1_000_000 * 86400.0
"""Seconds; more has no place in what is written for schedulers."""

_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d{1,2})(?::(\d{1,2}))?")
_DAYS_HOURS = re.compile(r"(\d+)-(\d+)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


def parse_walltime(value: object) -> float:
    """Read a duration.

    Args:
        value: seconds, a timedelta, "HH:MM", "HH:MM:SS", "D-HH", "D-HH:MM" or "D-HH:MM:SS".

    Returns:
        Seconds, above zero, up to a million days.

    Raises:
        TypeError: a value of another type; the message says what it should be.
        ValueError: not a duration, not above zero, or too long.
    """
    try:
        seconds = _seconds(value)
    except OverflowError:
        seconds = float("inf")
    if not 0 < seconds <= LONGEST_WALLTIME:
        raise ValueError("a duration is above zero, and at most a million days")
    return seconds


def _seconds(value: object) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        if found := _CLOCK.fullmatch(value.strip()):
            days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
            if minutes < 60 and seconds < 60:
                return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
        elif found := _DAYS_HOURS.fullmatch(value.strip()):
            return float((int(found[1]) * 24 + int(found[2])) * 3600)
    else:
        raise TypeError("seconds, a timedelta, 'HH:MM:SS' or 'D-HH:MM:SS'")
    raise ValueError("a duration is written as seconds, a timedelta, 'HH:MM:SS' or 'D-HH:MM:SS'")


def parse_memory(value: object) -> int:
    """Read a size of memory.

    Args:
        value: bytes, or text such as "512MB", "4G", "1.5 TiB"; units are powers of 1024, as in Slurm, PBS and LSF.

    Returns:
        Bytes, above zero.

    Raises:
        TypeError: a value of another type; the message says what it should be.
        ValueError: not a size, or not above zero.
    """
    size = 0
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif not isinstance(value, str):
        raise TypeError("bytes, or text such as '512MB' or '4GB'")
    elif found := _SIZE.fullmatch(value.strip()):
        whole, _, part = found[1].partition(".")
        size = int(whole + part) * 1024 ** _POWERS[found[2].upper()] // 10 ** len(part)
    if size <= 0:
        raise ValueError("a size of memory is written as bytes, or text such as '512MB' or '4GB', above zero")
    return size
