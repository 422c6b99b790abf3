"""What a command is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from .model import Job

__all__ = ["Answer", "Command", "Flavour", "Refused", "Request", "Wait"]


@dataclass(frozen=True, slots=True)
class Request:
    """A command that somebody has called.

    Attributes:
        directory: the current one.
        umask: of the process that called it.
        given: what it has read from its standard input.
    """

    program: str
    arguments: Sequence[str]
    directory: str
    umask: int
    environment: Mapping[str, str]
    given: bytes = b""


class Answer(NamedTuple):
    """What a command prints, and its exit code."""

    code: int = 0
    out: str | bytes = ""
    err: str | bytes = ""


class Wait(Exception):
    """A command says something, and tries again until it can do what it was asked to do."""


class Refused(Exception):
    """A command fails.

    Args:
        code: its exit code.
        text: what it prints on its error output, with the end of the line.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.answer = Answer(code, "", text)


Command = Callable[[Request], Answer]


class Flavour(Protocol):
    """One family of commands over the batch system."""

    @property
    def commands(self) -> Mapping[str, Command]:
        """The commands by name."""

    def environment(self, job: Job) -> Mapping[str, str]:
        """Say what a job that starts is told in its environment."""

    def reads_input(self, program: str, arguments: Sequence[str]) -> bool:
        """Tell whether a command reads its standard input."""

    def forget(self, job: Job) -> None:
        """Leave nothing of a job."""

    def down(self, program: str) -> Answer:
        """Answer for a server that does not run.

        Raises:
            Wait: the command waits for it.
        """
