"""Files that tasks read and write: the words in which a script declares them, and what may not go together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import unquote, urlsplit

from .errors import StagingConflictError, StagingError
from .masking import masked_url

if TYPE_CHECKING:
    from .futures import TaskFuture

__all__ = ["BOOKKEEPING", "Action", "InputFile", "OutputFile", "check_files", "name_in_sandbox"]

Action = Literal["link", "copy", "move"]

BOOKKEEPING = ".asyncflow"
"""The directory in each sandbox that is not the task's."""


class InputFile:
    """A file or directory that a task reads.

    What it names is told apart in this order: a URL, the output of the task given by `task`, a path that exists now,
    else the output of another task.

    As text, by `str`, `os.fspath` or in an f-string, it is `filename`: where its task finds it.

    Args:
        file: URL, path, or name of another task's output (relative to its sandbox).
        name: where the task finds it, relative to its own sandbox; else an output keeps its path, and all others get
            their last part.
        action: "link"; "copy", for a task that changes it; or "move", which takes it away from where it was.
        task: whose output it is; also makes that task a dependency.
        sha256: hexadecimal digest that a download must have.

    Attributes:
        remote_url: the URL, else None.
        local_file: the path as given, when it exists, else None.
        other_task_file: the name, when it is another task's output, else None.
        filepath: where the file is, as far as it is known now.
        filename: where the task finds it, relative to its sandbox.

    Raises:
        ValueError: an empty name, an unknown action, a digest that is none.
    """

    __slots__ = ("action", "filename", "filepath", "local_file", "other_task_file", "remote_url", "sha256", "task")

    def __init__(
        self,
        file: str | os.PathLike[str],
        *,
        name: str | os.PathLike[str] | None = None,
        action: Action = "link",
        task: TaskFuture | None = None,
        sha256: str | None = None,
    ) -> None:
        if isinstance(file, InputFile):
            raise TypeError(f"an InputFile is made of a URL, a path or a name, not of {file!r}")
        text = os.fspath(file)
        if not text:
            raise ValueError("InputFile needs a URL, a path or the name of another task's output; it was given ''")
        if action not in get_args(Action):
            raise ValueError(f"action of InputFile({_shown(text)!r}) must be 'link', 'copy' or 'move', not {action!r}")
        if sha256 is not None and (len(sha256) != 64 or not set(sha256.lower()) <= set("0123456789abcdef")):
            raise ValueError(f"sha256 of InputFile({_shown(text)!r}) must be 64 hexadecimal digits, not {sha256!r}")
        if task is not None and not isinstance(getattr(task, "uid", None), str):
            raise TypeError(f"task of InputFile({_shown(text)!r}) must be the future of a task, not {task!r}")
        self.remote_url: str | None = None
        self.local_file: str | None = None
        self.other_task_file: str | None = None
        try:
            url = urlsplit(text)
        except ValueError:
            raise ValueError(f"InputFile({_shown(text)!r}) is an invalid URL") from None
        # One letter is no scheme; and a file of ours may well be called "a:b".
        if len(url.scheme) > 1 and text[len(url.scheme) :].startswith("://"):
            self.remote_url = text
            self.filepath = Path(unquote(url.path).rstrip("/").rsplit("/", 1)[-1] or "downloaded_file")
        elif task is None and os.path.exists(text):
            self.local_file = text
            self.filepath = Path(os.path.abspath(text))
        else:
            self.other_task_file = text
            self.filepath = Path(text)
        own = self.filepath if self.other_task_file and not self.filepath.is_absolute() else self.filepath.name
        self.filename = os.path.normpath(own if name is None else name)
        self.action: Action = action
        self.task = task
        self.sha256 = None if sha256 is None else sha256.lower()

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        # Futures stay in the driver.
        return None, {slot: getattr(self, slot) if slot != "task" else None for slot in self.__slots__}

    def __fspath__(self) -> str:
        return self.filename

    __str__ = __fspath__

    def __repr__(self) -> str:
        return f"InputFile({_shown(self.remote_url or self.local_file or self.other_task_file or '')!r})"


def _shown(file: str) -> str:
    return masked_url(file) if "://" in file else file


class OutputFile:
    """A file or directory that a task promises to write.

    As text, by `str`, `os.fspath` or in an f-string, it is `filename`.

    Args:
        filename: its path, relative to the task's sandbox.
        target: its final place, to which it is copied when the task has ended well: a path, or a directory when it
            ends with a slash or is one now. A relative one is relative to the driver's directory.

    Attributes:
        filename: the path, without detours.
        target: the final place as an absolute path, else None.

    Raises:
        ValueError: the name is empty or ends with a slash.
    """

    __slots__ = ("filename", "target")

    def __init__(self, filename: str | os.PathLike[str], *, target: str | os.PathLike[str] | None = None) -> None:
        text = os.fspath(filename)
        if not os.path.basename(text):
            raise ValueError(f"OutputFile needs the name of a file; {text!r} names none")
        self.filename = os.path.normpath(text)
        self.target: str | None = None
        if target is not None:
            wanted = os.fspath(target)
            if not wanted or "\0" in wanted:
                raise ValueError(f"target of OutputFile({text!r}) must be a path, not {wanted!r}")
            into = wanted.endswith("/") or os.path.isdir(wanted)
            place = os.path.abspath(wanted)
            self.target = os.path.join(place, os.path.basename(self.filename)) if into else place

    def __fspath__(self) -> str:
        return self.filename

    __str__ = __fspath__

    def __repr__(self) -> str:
        return f"OutputFile({self.filename!r})"


def name_in_sandbox(name: str, what: str) -> str:
    """Check that a name lies in a sandbox and is not the engine's own.

    Args:
        name: a path relative to the sandbox, without detours.
        what: whose name it is, for the message.

    Raises:
        StagingError: it does not.
    """
    first = name.split("/", 1)[0]
    if os.path.isabs(name):
        raise StagingError(f"{what}: {name!r} is absolute, and must be relative to the task's sandbox")
    if first == "..":
        raise StagingError(f"{what}: {name!r} leaves the task's sandbox")
    if name == "." or "\0" in name:
        raise StagingError(f"{what}: {name!r} is no name of a file")
    if first == BOOKKEEPING:
        raise StagingError(f"{what}: {name!r} is kept for the engine's own files; choose another name")
    return name


def check_files(task: str, inputs: Sequence[InputFile], outputs: Sequence[OutputFile]) -> None:
    """Check that the declared files of a task lie in its sandbox and do not get into each other's way.

    Args:
        task: its name, for the message.

    Raises:
        StagingError: a name that is absolute or leaves the sandbox.
        StagingConflictError: two files that would land on one name.
    """
    landing: dict[str, InputFile] = {}
    for item in inputs:
        name = name_in_sandbox(item.filename, f"{item!r} of task '{task}'")
        other = landing.setdefault(name, item)
        if other is not item and _identity(other) != _identity(item):
            raise StagingConflictError(
                f"task '{task}': {other!r} and {item!r} would both be {name!r} in its sandbox; rename one by name="
            )
    for name, item in landing.items():
        above = _covering(name, landing)
        if above is not None:
            raise StagingConflictError(f"task '{task}': {item!r} would lie inside {landing[above]!r}; rename one")
    _check_outputs(task, outputs, landing)


def _check_outputs(task: str, outputs: Sequence[OutputFile], landing: dict[str, InputFile]) -> None:
    targets: dict[str, OutputFile] = {}
    for output in outputs:
        name = name_in_sandbox(output.filename, f"{output!r} of task '{task}'")
        above = name if name in landing else _covering(name, landing)
        if above is not None and landing[above].action == "link":
            raise StagingConflictError(
                f"task '{task}' would write {output!r} into the original of {landing[above]!r}:"
                " give the input action='copy', or another name"
            )
        if output.target is not None:
            other = targets.setdefault(output.target, output)
            if other.filename != output.filename:
                raise StagingConflictError(f"task '{task}': {other!r} and {output!r} have one target, {output.target}")


def _identity(item: InputFile) -> tuple[Any, ...]:
    return (item.remote_url, item.filepath, item.task and item.task.uid, item.action)


def _covering(name: str, names: dict[str, InputFile]) -> str | None:
    above = name
    while "/" in above:
        above = above.rsplit("/", 1)[0]
        if above in names:
            return above
    return None
