"""What goes wrong on request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from .answers import Answer

__all__ = ["Faults"]


@dataclass(slots=True)
class _Instead:
    answer: Answer
    times: int | None


@dataclass(slots=True)
class Faults:
    """Which commands misbehave, and how.

    Attributes:
        down: the server does not run.
        hanging: command -> whether it hangs only after it has done what it was asked to do.
        first_only: qstat prints the first job alone as JSON, as OpenPBS after 23.06.06 does.
        called: how often each command was called.
    """

    down: bool = False
    hanging: dict[str, bool] = field(default_factory=dict)
    first_only: bool = False
    called: Counter[str] = field(default_factory=Counter)
    times: dict[str, list[float]] = field(default_factory=dict)
    _instead: dict[str, list[_Instead]] = field(default_factory=dict)

    def replace(self, program: str, answer: Answer, times: int | None) -> None:
        """Let a command answer something else, that many times or always, and do nothing."""
        self._instead.setdefault(program, []).append(_Instead(answer, times))

    def instead(self, program: str) -> Answer | None:
        """Take what a command answers in place of its own answer, if anything."""
        waiting = self._instead.get(program)
        if not waiting:
            return None
        first = waiting[0]
        if first.times is not None:
            first.times -= 1
            if first.times <= 0:
                waiting.pop(0)
        return first.answer

    def heal(self, program: str | None = None) -> None:
        """Let a command, or all of them, work as it should again."""
        if program is None:
            self.down = self.first_only = False
            self.hanging.clear()
            self._instead.clear()
        self.hanging.pop(program or "", None)
        self._instead.pop(program or "", None)

    def note(self, program: str, at: float) -> None:
        """Count a command."""
        self.called[program] += 1
        self.times.setdefault(program, []).append(at)

    def counted(self) -> Mapping[str, int]:
        """How often each command was called."""
        return dict(self.called)
