"""The words in which a task says what it needs, and the dict in which it crosses to a backend."""

from __future__ import annotations

import operator
import os
import reprlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypedDict

from .data import InputFile, OutputFile
from .errors import DescriptionTypeError, TaskDescriptionError, TooLargeError, nearest
from .exec_limits import check_environment, check_word
from .retries import FailedAttempt, RetryPolicy, as_policy
from .units import parse_memory, parse_walltime

__all__ = ["KEYS", "NAMESPACES", "OWN_VARIABLES", "REPORTED", "Task", "TaskDescription", "command_of", "describe"]

OWN_VARIABLES = frozenset(
    f"ASYNCFLOW_{name}" for name in ("TASK_UID", "SESSION", "SANDBOX", "ATTEMPT", "RANK", "SIZE", "MARK")
)
"""Variables that a task is given; the last one is the local backend's, by which it finds the processes of a task."""

NAMESPACES = ("slurm", "pbs", "lsf", "radical_pilot")


class Metadata(TypedDict):
    """What a task needs and leaves: uids and names of its dependencies, names of its files."""

    dependencies: Sequence[dict[str, str]]
    input_files: Sequence[str]
    output_files: Sequence[str]


class Task(TypedDict, total=False):
    """A task as it crosses from an engine to a backend and back; a plain dict."""

    uid: str
    name: str
    function: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    command: str | list[str]
    executable: str | None
    arguments: list[str]
    prompt: str | None
    is_service: bool
    target_backend: str | None
    capture_stdio: bool
    workflow_id: str | None
    task_backend_specific_kwargs: dict[str, Any]
    description: TaskDescription
    context: Any
    metadata: Metadata
    outputs: Sequence[OutputFile]
    staging: Any
    attempt: int
    attempts: tuple[FailedAttempt, ...]
    key: str
    asked: Any
    parts: tuple[str, ...]
    earlier: Any
    kept: bytes
    state: str
    return_value: Any
    stdout: str | None
    stderr: str | None
    exit_code: int | None
    signal: int | None
    exception: BaseException | str | None
    cause: str | None
    sandbox: str | None
    native_id: str | None
    native_state: str | None
    native_reason: str | None
    started: float
    ended: float
    max_rss: int
    cpu_time: float


REPORTED = frozenset(
    """
    return_value stdout stderr exit_code signal exception cause sandbox native_id native_state native_reason
    started ended max_rss cpu_time
    """.split()  # noqa: SIM905
)
"""Keys that a backend fills in."""


def _whole(value: object) -> int:
    """Take integers of all kinds, numpy's too, but no truth values."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError("a whole number")
    return operator.index(value)


def _count(value: object) -> int:
    number = _whole(value)
    if number < 1:
        raise ValueError("must be 1 or more")
    return number


def _count_or_zero(value: object) -> int:
    number = _whole(value)
    if number < 0:
        raise ValueError("must be 0 or more")
    return number


def _retries(value: object) -> int | RetryPolicy:
    if isinstance(value, RetryPolicy):
        return value
    try:
        number = _count_or_zero(value)
    except TypeError:
        raise TypeError("a whole number or a RetryPolicy") from None
    as_policy(number)
    return number


def _port(value: object) -> int:
    if _count(value) > 65535:
        raise ValueError("must be a port, 1 to 65535")
    return _count(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text")
    if not value or "\0" in value:
        raise ValueError("must not be empty or hold a NUL")
    return check_word(value, "the text")


def _path(value: object) -> str:
    # Those are for arguments: files of a task description are not staged.
    plain = isinstance(value, os.PathLike) and not isinstance(value, (InputFile, OutputFile))
    return _text(os.fspath(value) if plain else value)  # type: ignore[call-overload]


def _directory(value: object) -> str:
    path = _path(value)
    if os.path.isabs(path):
        return path
    try:
        # Joined, and not normalized: ".." behind a link leads elsewhere.
        return os.path.join(os.getcwd(), path)
    except OSError as error:
        raise ValueError(f"is relative, and the driver's current directory cannot be found: {error.strerror}") from None


def _program(value: object) -> str:
    text = _text(value)
    if not shlex.split(text):
        raise ValueError("a program, with options if it needs some")
    return text


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("True or False")
    return value


def _shell(value: object) -> bool | str:
    return value if isinstance(value, bool) else _text(value)


def _on_oom(value: object) -> str:
    if value not in ("fail", "warn"):
        raise ValueError("must be 'fail' or 'warn'")
    return str(value)


def _lines(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (_text(value),)
    if not isinstance(value, (list, tuple)):
        raise TypeError("a line of shell text or a list of lines")
    return tuple(_text(line) for line in value)


def _environment(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError("a dict of names and values")
    for name, text in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ValueError(f"has a name that is none: {str(name).partition('=')[0]!r}")
        if isinstance(text, (InputFile, OutputFile)):
            raise ValueError(f"has {text!r} for {name}: files are given as arguments of the call; name it by its path")
        if not isinstance(text, (str, int, float, os.PathLike)) or "\0" in str(text):
            # The value itself may be a secret, so it is not shown.
            raise ValueError(f"has a value for {name} that is no text")
        if name in OWN_VARIABLES:
            raise ValueError(f"sets {name}, which every task is given by the engine; choose another name")
    made = {name: os.fspath(text) if isinstance(text, os.PathLike) else str(text) for name, text in value.items()}
    check_environment(made)
    return made


def _native(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError("a dict of native options")
    return dict(value)


def _key(parse: Callable[[object], Any], text: str, default: Any = None) -> Any:
    metadata = {"parse": parse, "help": text}
    if isinstance(default, dict):
        # Not shown: environments and native options may hold secrets.
        return field(default_factory=dict, metadata=metadata, repr=False)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskDescription:
    """What a task needs, in one vocabulary for all backends.

    Each key is optional; None means that the backend's or the site's default holds.

    Attributes:
        given: the keys that were written, those with None among them; what a default may not replace.
    """

    ranks: int = _key(_count, "processes of the task", 1)
    ranks_per_node: int | None = _key(_count, "at most so many ranks on a node")
    cores_per_rank: int = _key(_count, "cores of each rank; OMP_NUM_THREADS and its kin follow", 1)
    gpus_per_rank: int = _key(_count_or_zero, "GPUs of each rank", 0)
    mem_per_rank: int | None = _key(parse_memory, "memory of each rank: bytes, or text such as '4GB' (powers of 1024)")
    nodes: int | None = _key(_count, "nodes to spread over")
    exclusive: bool = _key(_flag, "no other job on the same nodes", False)
    walltime: float | None = _key(parse_walltime, "time limit: seconds, timedelta, 'HH:MM:SS' or 'D-HH:MM:SS'")
    queue: str | None = _key(_text, "queue or partition")
    account: str | None = _key(_text, "account or project that pays")
    reservation: str | None = _key(_text, "reservation to run in")
    qos: str | None = _key(_text, "quality of service")
    constraint: str | None = _key(_text, "features that the nodes must have")
    environment: dict[str, str] = _key(_environment, "environment variables, beside those of the driver", {})
    cwd: str | None = _key(
        _directory, "directory to run in instead of the sandbox; a relative one is in the driver's current directory"
    )
    pre_exec: tuple[str, ...] = _key(_lines, "shell lines to run before the command", ())
    post_exec: tuple[str, ...] = _key(_lines, "shell lines to run after the command", ())
    launcher: str | None = _key(_program, "what starts the ranks, such as 'mpiexec' or 'srun'")
    retries: int | RetryPolicy | None = _key(
        _retries, "how often to try again, whatever it failed of, or a `RetryPolicy`; 0 means never"
    )
    shell: bool | str = _key(
        _shell,
        "shell that reads a command given as text, and the lines around it; True and False mean sh",
        False,
    )
    on_oom: Literal["fail", "warn"] = _key(
        _on_oom, "'fail' a task of which the kernel killed a process for want of memory, or 'warn'", "fail"
    )
    ready_file: str | None = _key(
        _path, "service: it is ready when this file is in its sandbox; write it elsewhere and move it there"
    )
    ready_port: int | None = _key(_port, "service: it is ready when this port of its host answers")
    slurm: dict[str, Any] = _key(_native, "native options of Slurm", {})
    pbs: dict[str, Any] = _key(_native, "native options of PBS", {})
    lsf: dict[str, Any] = _key(_native, "native options of LSF", {})
    radical_pilot: dict[str, Any] = _key(_native, "native options of RADICAL-Pilot", {})
    given: frozenset[str] = field(default=None, compare=False, repr=False)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        if self.given is None:
            object.__setattr__(self, "given", frozenset(name for name in _DEFAULTS if self._differs(name)))

    def _differs(self, name: str) -> bool:
        return bool(getattr(self, name) != _DEFAULTS[name])

    @property
    def cores(self) -> int:
        """Cores of the whole task."""
        return self.ranks * self.cores_per_rank

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], native_keys: frozenset[str] = frozenset()) -> TaskDescription:
        """Check a task description.

        Args:
            values: as the user wrote them; not changed.
            native_keys: keys that the backend takes beside the common ones; they are left out of the result.

        Raises:
            TaskDescriptionError: an unknown key, or a value out of range.
            DescriptionTypeError: a value of the wrong type.
        """
        if not values:
            return DEFAULT
        known = {}
        for name, value in values.items():
            parse = _PARSERS.get(name)
            if parse is None:
                if name in native_keys:
                    continue
                hint = nearest(str(name), [*_PARSERS, *native_keys])
                raise TaskDescriptionError(f"unknown key {name!r} in task_description; {hint}")
            if value is not None:
                known[name] = _parsed(name, value, parse)
        return cls(**known, given=frozenset(_PARSERS.keys() & values.keys()))


def _parsed(name: str, value: object, parse: Callable[[object], Any]) -> Any:
    try:
        return parse(value)
    except TypeError as error:
        raise DescriptionTypeError(f"task_description[{name!r}] must be {error}{_shown(name, value)}") from None
    except TooLargeError as error:
        raise TooLargeError(f"task_description[{name!r}]: {error}") from None
    except ValueError as error:
        raise TaskDescriptionError(f"task_description[{name!r}]: {error}{_shown(name, value)}") from None


def _shown(name: str, value: object) -> str:
    # Values of the environment may be secrets, and others may be long.
    return "" if name == "environment" else f", not {reprlib.repr(value)}"


KEYS = tuple(item for item in fields(TaskDescription) if item.metadata)
"""The fields that a user can write."""

_PARSERS: dict[str, Callable[[object], Any]] = {item.name: item.metadata["parse"] for item in KEYS}
_DEFAULTS = {item.name: {} if item.default is MISSING else item.default for item in KEYS}
DEFAULT = TaskDescription()


def describe(task: Task) -> TaskDescription:
    """Return a task's description, made from its dict when the engine that sent it made none."""
    known = task.get("description")
    if known is not None:
        return known
    values = task.get("task_backend_specific_kwargs") or {}
    return TaskDescription.from_dict({key: value for key, value in values.items() if key in _PARSERS})


def command_of(task: Task) -> str | list[str]:
    """Return the command of an executable task: shell text, or an argv."""
    command = task.get("command")
    if command is not None:
        return command
    # An engine that is not ours sends only these two.
    return [task.get("executable") or "", *task.get("arguments", [])]
