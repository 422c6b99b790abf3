"""Staging in Python: for functions, and for plain commands of the local backend; `shell.py` does the same in sh."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from stat import S_ISLNK
from typing import Final

from asyncflow_hpc.data import Action
from asyncflow_hpc.errors import StagingConflictError, StagingError

from .plan import Delivery, Dependency, Plan, Transfer, directories_around

__all__ = ["Survey", "deliver", "deliver_again", "missing", "perform", "survey"]

log = logging.getLogger(__name__)

# Seconds until a file that is not there yet is looked for again: the first, and the longest.
_SOON, _LATE = 0.05, 1.0

# In a survey, for a directory, and for a name that two dependencies share.
_DIRECTORY: Final = "/"
_SHARED: Final = ""


@dataclass(slots=True)
class Survey:
    """What there is to stage in.

    Attributes:
        actions: action, absolute source and name of each file, in order.
        directories: to be made, each after those around it.
        shared: names that several dependencies have, which get no link.
    """

    actions: list[tuple[Action, str, str]] = field(default_factory=list)
    directories: dict[str, None] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)

    def quick(self, most: int) -> bool:
        """Tell whether it is a few links only."""
        return len(self.actions) <= most and all(action == "link" for action, _, _ in self.actions)


def survey(plan: Plan, patience: float = 0.0, most: int | None = None) -> Survey | None:
    """Look at all that is to be staged in, and change nothing.

    Args:
        patience: seconds to wait for a declared file: a shared file system may lag behind.
        most: give up, and return None, where there are more files.

    Raises:
        StagingError: a declared file is not there.
        StagingConflictError: it is there twice.
    """
    found = Survey(directories=directories_around(transfer.name for transfer in plan.transfers))
    for transfer in plan.transfers:
        found.actions.append((transfer.action, _source_of(transfer, patience), transfer.name))
    for dependency in plan.dependencies:
        found.actions.append(("link", dependency.sandbox, dependency.link))
    if plan.dependencies and not _Trees(plan, found, most).visit():
        return None
    return found


def _source_of(transfer: Transfer, patience: float) -> str:
    # A link is moved or copied as it is asked for; what it points at is not ours to move.
    if transfer.action != "link":
        return _place_of(transfer, patience)
    if len(transfer.places) == 1:
        with suppress(OSError):
            place = transfer.places[0]
            if not S_ISLNK(os.lstat(place).st_mode):
                return place
    return _final(_place_of(transfer, patience))


def _place_of(transfer: Transfer, patience: float) -> str:
    for _ in _looks(patience):
        there = [place for place in transfer.places if os.path.exists(place)]
        if not there and transfer.otherwise is not None and os.path.exists(transfer.otherwise):
            there = [transfer.otherwise]
        if there:
            break
    else:
        looked = " ".join([*transfer.places, transfer.otherwise or ""]).strip()
        raise StagingError(f"input {transfer.origin} is not there: {looked}")
    for other in there[1:]:
        if not os.path.samefile(there[0], other):
            raise StagingConflictError(
                f"input {transfer.origin} is there twice: {there[0]} and {other}; say which with InputFile(..., task=)"
            )
    return there[0]


def _looks(patience: float) -> Iterator[None]:
    """Yield once, and then again and again for some seconds, with growing pauses."""
    until, pause = time.monotonic() + patience, _SOON
    yield
    while time.monotonic() < until:
        time.sleep(pause)
        pause = min(2 * pause, _LATE)
        yield


def _final(path: str) -> str:
    """Follow a link one step, so that links of links of a long chain do not pile up."""
    try:
        target = os.readlink(path)
    except OSError:
        return path
    return target if os.path.isabs(target) else path


class _Trees:
    """What the dependencies of a task have left, put together."""

    def __init__(self, plan: Plan, found: Survey, most: int | None) -> None:
        self._plan = plan
        self._found = found
        self._most = most
        self._reserved = plan.reserved()
        self._around = directories_around(self._reserved)
        # By name: the file, or one of the two words above.
        self._names: dict[str, str] = {}
        self._copied: set[str] = set()

    def visit(self) -> bool:
        """Add all to the survey; False where there is too much."""
        for dependency in self._plan.dependencies:
            if not self._visit(dependency, ""):
                return False
        for name, file in self._names.items():
            if file == _DIRECTORY:
                self._found.directories[name] = None
            elif file == _SHARED:
                self._found.shared.append(name)
            else:
                self._found.actions.append(("copy" if name in self._copied else "link", file, name))
        return True

    def _visit(self, dependency: Dependency, inside: str) -> bool:
        """Look through a directory of a sandbox; False where there is too much."""
        try:
            entries = os.scandir(f"{dependency.sandbox}/{inside}")
        except OSError as error:
            raise StagingError(f"sandbox {dependency.sandbox} cannot be read: {error.strerror}") from error
        below = []
        with entries:
            for entry in entries:
                name = inside + entry.name
                if (inside or name not in dependency.own) and self._meet(dependency, name, entry):
                    below.append(f"{name}/")
                if self._most is not None and len(self._names) > self._most:
                    return False
        return all(self._visit(dependency, name) for name in below)

    def _meet(self, dependency: Dependency, name: str, entry: os.DirEntry[str]) -> bool:
        """Note what a dependency has under a name; tell whether it is a directory to go on with."""
        directory = entry.is_dir(follow_symlinks=False)
        if name in self._reserved or (name in self._around and not directory):
            return False
        known = self._names.get(name)
        if known == _SHARED:
            return False
        file = _DIRECTORY if directory else _final(entry.path) if entry.is_symlink() else entry.path
        if known is None:
            self._names[name] = file
            if dependency.action == "copy":
                self._copied.add(name)
        elif not _same(known, file):
            self._share(name)
            return False
        return directory

    def _share(self, name: str) -> None:
        log.warning("several dependencies have left %r: it is linked from none of them", name)
        if self._names[name] == _DIRECTORY:
            for inner in [other for other in self._names if other.startswith(f"{name}/")]:
                del self._names[inner]
        self._names[name] = _SHARED


def _same(one: str, other: str) -> bool:
    if _DIRECTORY in (one, other):
        return one == other
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def perform(found: Survey, sandbox: str) -> None:
    """Stage in what a survey has found.

    Args:
        sandbox: where to.

    Raises:
        StagingError: a file cannot be put there.
    """
    actions = chain((("directory", name, name) for name in found.directories), found.actions)
    for action, source, name in actions:
        target = f"{sandbox}/{name}"
        try:
            _ACTIONS[action](source, target)
        except OSError as error:
            raise StagingError(f"{action} of {source} to {target} failed: {error.strerror or error}") from error


def _make_directory(_: str, path: str) -> None:
    # Of the task, which may deliver it; the session around it is private.
    os.makedirs(path, exist_ok=True)


def _copy(source: str, target: str) -> None:
    if os.path.isdir(source):
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target)


def _move(source: str, target: str) -> None:
    shutil.move(source, target)


_ACTIONS: Final[dict[str, Callable[[str, str], None]]] = {
    "link": os.symlink,
    "copy": _copy,
    "move": _move,
    "directory": _make_directory,
}


def missing(promised: Iterable[str], directory: str, patience: float = 0.0) -> list[str]:
    """List the promised files that a task has not written.

    Args:
        directory: in which it ran.
        patience: seconds to wait for them.
    """
    left = list(promised)
    for _ in _looks(patience):
        left = [name for name in left if not os.path.exists(os.path.join(directory, name))]
        if not left:
            break
    return left


def deliver_again(deliveries: Iterable[Delivery], directory: str, mark: str) -> None:
    """Copy promised files to those of their final places where there is nothing any more; see `deliver`."""
    deliver([delivery for delivery in deliveries if not os.path.lexists(delivery.target)], directory, mark)


def deliver(deliveries: Iterable[Delivery], directory: str, mark: str) -> None:
    """Copy promised files to their final places; each appears there whole.

    Args:
        directory: in which the task ran.
        mark: unique to this attempt, for the names of what is not whole yet.

    Raises:
        StagingError: one cannot be copied.
    """
    for delivery in deliveries:
        above, name = os.path.split(delivery.target)
        part = f"{above}/.{name}.{mark}.part"
        try:
            os.makedirs(above, exist_ok=True)
            _copy(os.path.join(directory, delivery.name), part)
            if os.path.isdir(delivery.target) and not os.path.islink(delivery.target):
                old = f"{above}/.{name}.{mark}.old"
                os.rename(delivery.target, old)
                os.rename(part, delivery.target)
                shutil.rmtree(old)
            else:
                os.replace(part, delivery.target)
        except (OSError, shutil.Error) as error:
            raise StagingError(f"output {delivery.name!r} cannot be copied to {delivery.target}: {error}") from error
