"""What a scheduler's commands say when they fail: rules, and how they decide; no process, no clock."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from .scheduler import Permanent, Transient

__all__ = ["LATE", "LATER", "SOON", "Rule", "Rules", "cleaned", "other_than"]

_LONGEST = 1000

# Seconds: a hiccup, a server that is restarted or too busy, and limits that wait for jobs to end.
SOON, LATER, LATE = 2.0, 10.0, 30.0

# Exit codes of a shell whose command a signal ended, up to SIGTERM; above that, PBS has codes of its own.
_KILLED = range(129, 144)

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Rule(NamedTuple):
    """What a message means.

    Attributes:
        pattern: of the message, whatever the case of its letters.
        delay: seconds until another attempt makes sense; None if none does.
        unclear: the job may be in the queue all the same.
        while_queued: only the end of other jobs can help.
        limit: it is a limit on the number of jobs.
        advice: what to do about a permanent failure.
    """

    pattern: str
    delay: float | None = None
    unclear: bool = False
    while_queued: bool = False
    limit: bool = False
    advice: str = ""


class Rules:
    """The rules of one submit command; the first that fits decides.

    Args:
        command: its name.
        rules: in the order in which they are tried.
        prefix: pattern of what its messages begin with.
    """

    def __init__(self, command: str, rules: Sequence[Rule], prefix: str) -> None:
        self._command = command
        self._rules = [(re.compile(rule.pattern, re.IGNORECASE), rule) for rule in rules]
        self._prefix = re.compile(prefix, re.IGNORECASE)

    def failure(self, text: str, returncode: int) -> Transient | Permanent:
        """Tell whether a submission that failed may work another time.

        What fits no rule counts as permanent, but the job may be in the queue: a wrapper or a hook may have failed
        after the submission. Where a signal ended the command, nobody knows, and another attempt may succeed.

        Args:
            text: what the command has printed, on both streams.
            returncode: negative if a signal ended it; 0 if it ended well, but told no id.
        """
        said = cleaned(text, self._prefix)
        for pattern, rule in self._rules:
            if pattern.search(text):
                if rule.delay is None:
                    return Permanent(said, rule.advice)
                return Transient(said, rule.delay, rule.unclear, rule.while_queued, rule.limit)
        if returncode <= 0 or returncode in _KILLED:
            return Transient(said or f"{self._command} told no id (exit code {returncode})", LATER, unclear=True)
        said = said or f"{self._command} failed with exit code {returncode} and said nothing"
        return Permanent(said, unclear=True)


def other_than(expected: re.Pattern[str], text: str, returncode: int, prefix: re.Pattern[str]) -> str | None:
    """Say what a command that failed has said beside what was to be expected.

    Returns:
        The other lines; None if there are none, or if the command did not fail.
    """
    if returncode == 0:
        return None
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and all(expected.search(line) for line in lines):
        return None
    return cleaned("\n".join(line for line in lines if not expected.search(line)), prefix) or f"exit code {returncode}"


def cleaned(text: str, prefix: re.Pattern[str]) -> str:
    """Make one line of a message, each of its lines once and without its prefix."""
    lines = []
    for line in text.splitlines():
        line = " ".join(_CONTROL.sub(" ", prefix.sub("", line, count=1)).split())
        if line and line not in lines:
            lines.append(line)
    said = "; ".join(lines)
    return said if len(said) <= _LONGEST else said[: _LONGEST - 4] + " ..."
