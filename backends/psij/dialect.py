"""How a task is put to one kind of scheduler: its options, its script, its submit command; no process, no file."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from asyncflow_hpc.errors import TaskDescriptionError
from asyncflow_hpc.task import TaskDescription

from ..run_script import Apart

__all__ = [
    "Dialect",
    "Options",
    "Submission",
    "clock",
    "directives",
    "native_options",
    "one_line",
    "spread",
    "words_of",
]

# What a submit command is told: a value, several of them, or True for a flag.
Options = dict[str, "str | bool | tuple[str, ...]"]


class Submission(NamedTuple):
    """How a script is submitted.

    Attributes:
        by_stdin: the command reads the script from its standard input.
        unset: variables of the environment that would override, or contradict, an option of the script.
    """

    argv: list[str]
    by_stdin: bool = False
    unset: frozenset[str] = frozenset()


class Dialect(Protocol):
    """What one kind of scheduler wants to be told of a task."""

    @property
    def name(self) -> str:
        """Its name, such as "slurm"."""

    @property
    def namespace(self) -> str:
        """The key of a task description with its native options."""

    @property
    def native_id(self) -> str:
        """Shell word for what it calls a job, in the job."""

    @property
    def apart(self) -> Apart:
        """What a task gets of its own in a job; see `RunScript`."""

    @property
    def forward(self) -> bool:
        """Whether the runner hands signals on to the task; see `RunScript`."""

    @property
    def hurry(self) -> int | None:
        """Seconds from a signal until the runner kills the task; see `RunScript`."""

    @property
    def daemons(self) -> bool:
        """Whether processes that leave the task's session outlive its job."""

    def job_name(self, name: str) -> str:
        """Make a name that it takes, and shows unchanged."""

    def options(self, description: TaskDescription, name: str, sandbox: str, comment: str) -> Options:
        """Say everything that the submit command is to be told.

        Args:
            name: of the job.
            sandbox: in which it runs.
            comment: for people who look at the queue.

        Raises:
            TaskDescriptionError: something that cannot be passed on.
        """

    def script(self, options: Options, sandbox: str, run: str) -> str:
        """Write the batch script.

        Args:
            run: the line that starts the run script.
        """

    def launch_line(self, argv: list[str], description: TaskDescription, python: str) -> list[str]:
        """Make the argv that starts a command on all its ranks.

        Args:
            python: interpreter on the nodes.
        """

    def submission(self, path: str, options: Mapping[str, Any]) -> Submission:
        """Say how a script with these options is submitted."""


def one_line(key: str, value: str) -> str:
    """Return a value that cannot end its directive.

    Raises:
        TaskDescriptionError: it has several lines.
    """
    if re.search(r"[\0\n\r]", value):
        raise TaskDescriptionError(f"task_description: {key} must be one line, not {value!r}")
    return value


def words_of(description: TaskDescription, names: Mapping[str, str]) -> Options:
    """Take what a description says of queue, account and the like.

    Args:
        names: of its fields, with the options for them.
    """
    found = {option: getattr(description, field) for field, option in names.items()}
    return {option: one_line(option, value) for option, value in found.items() if value is not None}


def native_options(
    namespace: str,
    values: Mapping[str, Any],
    named: Callable[[str], str | None],
    own: frozenset[str],
    command: str,
) -> Options:
    """Take the native options of a task description; those that are False or None are left out.

    Args:
        named: makes the name of an option from a key; None if it cannot be one.
        own: what the backend has to say itself.
        command: which takes the options, for people.

    Raises:
        TaskDescriptionError: no option, or one of the backend's own.
    """
    options: Options = {}
    for key, value in values.items():
        option = named(key)
        if option is None:
            raise TaskDescriptionError(f"task_description[{namespace!r}]: {key!r} is no {command}")
        if option in own:
            raise TaskDescriptionError(f"task_description[{namespace!r}]: {key!r} is set by the backend itself")
        if value is True:
            options[option] = True
        elif isinstance(value, (list, tuple)):
            options[option] = tuple(one_line(option, str(word)) for word in value)
        elif value is not False and value is not None:
            options[option] = one_line(option, str(value))
    return options


def directives(
    options: Mapping[str, Any], begin: str, equals: str, quoted: Callable[[str], str] = shlex.quote
) -> Iterable[str]:
    """Write a line for each option.

    Args:
        begin: of each line, such as "#SBATCH --".
        equals: between an option and its value.
        quoted: writes a value; schedulers read these lines with quotes much as sh does.
    """
    for key, value in options.items():
        for word in value if isinstance(value, tuple) else (value,):
            yield f"{begin}{key}" if word is True else f"{begin}{key}{equals}{quoted(str(word))}"


def clock(seconds: float) -> str:
    """Write a time limit as HH:MM:SS, up to the next second."""
    whole = math.ceil(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def spread(description: TaskDescription) -> list[tuple[int, int]] | None:
    """Say how many ranks each node gets, where a description says something about nodes.

    Returns:
        Numbers of nodes and of ranks on each of them, the fullest first; None where ranks may lie as they like.
    """
    ranks, nodes = description.ranks, description.nodes
    if nodes is None and description.ranks_per_node is None:
        return None
    if description.ranks_per_node is not None:
        each = min(description.ranks_per_node, ranks)
        needed = math.ceil(ranks / each)
        if nodes is None or nodes <= needed:
            full, rest = divmod(ranks, each)
            return [(count, size) for count, size in ((full, each), (1, rest)) if count and size]
    assert nodes is not None
    each, rest = divmod(ranks, nodes)
    return [(count, size) for count, size in ((rest, each + 1), (nodes - rest, each)) if count]
