"""Which failures are tried again, how often, after how long, and with what: pure functions of a policy."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from .errors import ArgumentError, ConfigurationError, nearest
from .states import FailureCause
from .units import LONGEST_WALLTIME

__all__ = ["DEFAULT", "FailedAttempt", "RetryPolicy", "as_policy"]

ANY = frozenset(FailureCause) - {FailureCause.CANCELLED}

# Seconds: a growing delay stops growing here.
LONGEST = 3600.0

# A completion record and a marker hold no higher number.
_MOST = 99_999
_LARGEST_FACTOR = 1000.0

_GROWING = {"memory": "mem_per_rank", "walltime": "walltime"}

# Where they stop growing.
_LARGEST = {"memory": 2**62, "walltime": LONGEST_WALLTIME}


class Asked(Protocol):
    """What of a task's description can grow."""

    @property
    def mem_per_rank(self) -> int | None:
        """Bytes."""

    @property
    def walltime(self) -> float | None:
        """Seconds."""

    @property
    def queue(self) -> str | None:
        """Queue or partition."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a task that failed is tried again.

    Attributes:
        max_attempts: how often a task is tried in all, the first time included.
        on: causes of failure after which it is; any where nothing is said. SUBMIT only counts where it may pass: what
            the scheduler has refused for good is not submitted again.
        delay: seconds before the second attempt.
        backoff: factor by which the delay grows with each further one, up to an hour.
        jitter: part of the delay, 0 to 1, by which it is randomly longer or shorter.
        escalate: what each further attempt gets more of: "memory" and "walltime" are factors, from one attempt to the
            next, for a task that asks for some; "queue" is the list of queues of the second attempt, the third, and so
            on, of which the last holds for all that follow.

    Raises:
        ArgumentError: a value of a wrong type.
        ConfigurationError: a value that makes no sense.
    """

    max_attempts: int
    on: Collection[str] = ANY
    delay: float = 1.0
    backoff: float = 2.0
    jitter: float = 0.1
    escalate: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if isinstance(self.max_attempts, bool) or not isinstance(self.max_attempts, int):
            raise ArgumentError(f"max_attempts of a RetryPolicy must be a whole number, not {self.max_attempts!r}")
        if not 1 <= self.max_attempts <= _MOST:
            raise ConfigurationError(f"max_attempts of a RetryPolicy must be 1 to {_MOST}, not {self.max_attempts}")
        object.__setattr__(self, "on", _causes(self.on))
        _check_number("delay", self.delay, 0, math.inf)
        _check_number("backoff", self.backoff, 1, _LARGEST_FACTOR)
        _check_number("jitter", self.jitter, 0, 1)
        object.__setattr__(self, "escalate", _escalation(self.escalate))

    def tries_again(self, cause: FailureCause, attempt: int, transient: bool = False) -> bool:
        """Tell whether a failure gets another attempt.

        Args:
            cause: why the attempt failed.
            attempt: its number, 0 for the first.
            transient: of a submission that failed, whether that may pass.
        """
        if cause is FailureCause.SUBMIT and not transient:
            return False
        return cause in self.on and attempt + 1 < self.max_attempts

    def delay_after(self, attempt: int, chance: float = 0.5) -> float:
        """Say how many seconds to wait after a failed attempt.

        Args:
            attempt: its number, 0 for the first.
            chance: from 0 to 1, which the jitter makes shorter or longer.
        """
        try:
            delay = self.delay * self.backoff**attempt
        except OverflowError:
            delay = math.inf if self.delay else 0.0
        return min(delay, max(self.delay, LONGEST)) * (1 + self.jitter * (2 * chance - 1))

    def escalated(self, description: Asked, attempt: int) -> dict[str, Any]:
        """Say what of a task's description is new in an attempt.

        Args:
            description: of the attempt before.
            attempt: number of the new one, from 1.

        Returns:
            Key of the description -> value; nothing for what the task did not ask for.
        """
        changes: dict[str, Any] = {}
        for word, key in _GROWING.items():
            old = getattr(description, key)
            if word in self.escalate and old is not None:
                grown = min(old * self.escalate[word], _LARGEST[word])
                changes[key] = math.ceil(grown) if isinstance(old, int) else grown
        queues = self.escalate.get("queue", ())
        if queues:
            changes["queue"] = queues[min(attempt, len(queues)) - 1]
        return {key: value for key, value in changes.items() if value != getattr(description, key)}


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """One attempt that failed.

    Attributes:
        number: 0 for the first.
        cause: our normal form of why.
        exit_code, signal: of its command, None where there was none.
        sandbox: the directory in which it ran, None where it did not get that far.
        native_id: what the scheduler calls its job, else None.
        text: what is said of it, in one line.
        remark: why no other attempt followed, where one was to.
    """

    number: int
    cause: FailureCause
    exit_code: int | None = None
    signal: int | None = None
    sandbox: str | None = None
    native_id: str | None = None
    text: str = ""
    remark: str = ""

    def __str__(self) -> str:
        parts: list[str] = [str(self.cause)]
        if self.exit_code is not None:
            parts.append(f"exit code {self.exit_code}")
        if self.signal is not None:
            parts.append(f"signal {self.signal}")
        if self.native_id is not None:
            parts.append(f"native id {self.native_id}")
        if self.sandbox is not None:
            parts.append(f"sandbox {self.sandbox}")
        ending = f": {self.text}" if self.text else ""
        return f"attempt {self.number}: {', '.join(parts)}{ending}"


def as_policy(retries: int | RetryPolicy) -> RetryPolicy:
    """Make a policy of a number: so many more attempts, whatever the task failed of.

    Raises:
        ArgumentError, ConfigurationError: it is no number of retries.
    """
    if isinstance(retries, RetryPolicy):
        return retries
    if isinstance(retries, bool) or not isinstance(retries, int):
        raise ArgumentError(f"retries must be a whole number or a RetryPolicy, not {retries!r}")
    if not 0 <= retries < _MOST:
        raise ConfigurationError(f"retries must be 0 to {_MOST - 1}, not {retries}")
    return RetryPolicy(retries + 1)


def _causes(given: object) -> frozenset[FailureCause]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ArgumentError(f"'on' of a RetryPolicy must be a set of causes, such as {{'LOST'}}, not {given!r}")
    found = set()
    for word in given:
        try:
            found.add(FailureCause(word))
        except ValueError:
            raise ConfigurationError(
                f"'on' of a RetryPolicy: no cause {word!r}; {nearest(str(word), map(str, ANY))}"
            ) from None
    if FailureCause.CANCELLED in found:
        raise ConfigurationError("'on' of a RetryPolicy: what was cancelled is never tried again; leave CANCELLED out")
    return frozenset(found)


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArgumentError(f"{name} of a RetryPolicy must be a number, not {value!r}")
    if not low <= value <= high or value == math.inf:
        raise ConfigurationError(f"{name} of a RetryPolicy must be from {low:g} to {high:g}, not {value!r}")


def _escalation(given: object) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ArgumentError(f"'escalate' of a RetryPolicy must be a dict, such as {{'memory': 2.0}}, not {given!r}")
    made: dict[str, Any] = {}
    for word, value in given.items():
        if word in _GROWING:
            _check_number(f"escalate[{word!r}]", value, 1, _LARGEST_FACTOR)
            made[word] = value
        elif word == "queue":
            made[word] = _queues(value)
        else:
            hint = nearest(str(word), [*_GROWING, "queue"])
            raise ConfigurationError(f"'escalate' of a RetryPolicy: {word!r} cannot grow; {hint}")
    return made


def _queues(value: object) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ArgumentError(f"escalate['queue'] of a RetryPolicy must be a list of queues, not {value!r}")
    if not names or not all(name and "\0" not in name for name in names):
        raise ConfigurationError(f"escalate['queue'] of a RetryPolicy must name queues, not {value!r}")
    return tuple(names)


DEFAULT = RetryPolicy(3, on={FailureCause.NODE_FAILURE, FailureCause.PREEMPTED, FailureCause.LOST, FailureCause.SUBMIT})
"""What holds where nobody asked for anything: failures of the machine are tried again twice, the task's own never."""
