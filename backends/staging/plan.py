"""What is staged for one attempt of a task; pure but for one question, which the caller answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from asyncflow_hpc.data import BOOKKEEPING, Action, InputFile, OutputFile, name_in_sandbox
from asyncflow_hpc.errors import StagingConflictError, StagingError
from asyncflow_hpc.masking import masked_url
from asyncflow_hpc.task import Task, describe

__all__ = [
    "Delivery",
    "Dependency",
    "Plan",
    "Source",
    "Transfer",
    "Wishes",
    "directories_around",
    "make_plan",
    "source_of",
]


@dataclass(frozen=True, slots=True)
class Source:
    """A task whose files another one gets.

    Attributes:
        sandbox: where it ran; None for a backend that has none.
        own: names in its sandbox that are not its files.
    """

    uid: str
    name: str
    sandbox: str | None
    own: frozenset[str]


@dataclass(slots=True)
class Wishes:
    """What an engine has announced for a task, as it comes.

    Attributes:
        files: path, the task that has it if any, and what the user wrote.
        tasks: those of which all files are wanted.
        sources: tasks that have been met, by sandbox or uid.
    """

    files: list[tuple[str | None, Source | None, InputFile | None]] = field(default_factory=list)
    tasks: dict[str, Source] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)

    def source(self, task: Task) -> Source:
        """Say what a task leaves to this one; a task often has many files for it."""
        key = task.get("sandbox") or task["uid"]
        known = self.sources.get(key)
        if known is None:
            known = self.sources[key] = source_of(task)
        return known


@dataclass(frozen=True, slots=True)
class Transfer:
    """One declared file.

    Attributes:
        places: absolute paths, or one URL; one of them must be there, and no two with different files.
        otherwise: an absolute path to take where none of the places has it.
        name: where it goes, relative to the sandbox.
        origin: what a user would call it.
    """

    places: tuple[str, ...]
    name: str
    action: Action
    origin: str
    otherwise: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Dependency:
    """A task all of whose files appear in the sandbox, as far as no declared file has their name.

    Attributes:
        link: name of the link to its sandbox, which is always made.
        action: "link", or "copy" from another file system.
        own: names in its sandbox that are not its files.
    """

    sandbox: str
    link: str
    action: Action
    own: frozenset[str]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A promised file and its final place, an absolute path."""

    name: str
    target: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is staged for one attempt.

    Attributes:
        promised: what the task must have written, relative to where it ran.
        ready_file: by which a service tells that it is ready, relative to the sandbox; None where it has none there.
    """

    transfers: tuple[Transfer, ...] = ()
    dependencies: tuple[Dependency, ...] = ()
    promised: tuple[str, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    ready_file: str | None = None

    @property
    def stages_in(self) -> bool:
        """Whether anything comes before the task."""
        return bool(self.transfers or self.dependencies)

    def reserved(self) -> frozenset[str]:
        """Names that no file of a dependency may take: of declared files, of promised ones, of links to sandboxes.

        Another service's file would make a service ready at once.
        """
        links = (dependency.link for dependency in self.dependencies)
        ready = () if self.ready_file is None else (self.ready_file,)
        return frozenset(transfer.name for transfer in self.transfers).union(self.promised, links, ready)


NOTHING = Plan()


def directories_around(names: Iterable[str]) -> dict[str, None]:
    """Name the directories in which files of the sandbox are, each after those around it."""
    found: dict[str, None] = {}
    for name in names:
        end = name.find("/")
        while end > 0:
            found[name[:end]] = None
            end = name.find("/", end + 1)
    return found


def make_plan(task: Task, session: str, device_of: Callable[[str], int]) -> Plan:
    """Plan and check the staging of a task.

    Args:
        task: its dict, with what was announced in "staging".
        session: directory of the session in which it will run.
        device_of: tells on which file system an existing directory is.

    Raises:
        StagingError: a name leaves the sandbox, or a dependency has left no sandbox.
        StagingConflictError: two files would land on one name.
    """
    wishes: Wishes | None = task.get("staging")
    promised = tuple(dict.fromkeys(task.get("metadata", {}).get("output_files", ())))
    if wishes is None and not promised:
        return NOTHING
    outputs: Sequence[OutputFile] = task.get("outputs", ())
    deliveries = tuple(Delivery(item.filename, item.target) for item in outputs if item.target is not None)
    if wishes is None:
        return Plan(promised=promised, deliveries=deliveries)
    copied = _Copied(session, device_of)
    transfers = _transfers(task, wishes, copied)
    dependencies = tuple(_dependencies(task, wishes, session, copied, transfers))
    ready_file = _ready_file(task, transfers)
    return Plan(transfers, dependencies, promised, deliveries, ready_file)


def _ready_file(task: Task, transfers: Iterable[Transfer]) -> str | None:
    description = describe(task)
    if not task.get("is_service") or description.ready_file is None or description.cwd is not None:
        return None
    ready_file = os.path.normpath(description.ready_file)
    for transfer in transfers:
        if f"{ready_file}/".startswith(f"{transfer.name}/"):
            raise StagingConflictError(
                f"{task['uid']} '{task['name']}': input {transfer.origin} would be in the place of its ready_file,"
                f" {ready_file!r}, and make it ready at once; give one of them another name"
            )
    return None if os.path.isabs(ready_file) else ready_file


class _Copied:
    """Which sandboxes are on another file system, so that their files are copied; asked once for each directory."""

    def __init__(self, session: str, device_of: Callable[[str], int]) -> None:
        self._session = session
        self._device_of = device_of
        self._known = {session: False}

    def action(self, sandbox: str, wanted: Action = "link") -> Action:
        parent = os.path.dirname(sandbox)
        if parent not in self._known:
            self._known[parent] = self._device_of(parent) != self._device_of(self._session)
        return "copy" if wanted == "link" and self._known[parent] else wanted


def _transfers(task: Task, wishes: Wishes, copied: _Copied) -> tuple[Transfer, ...]:
    landing: dict[str, Transfer] = {}
    for path, source, item in wishes.files:
        transfer = _from_task(task, path, source, item, copied) if source else _from_path(path, item, wishes)
        name_in_sandbox(transfer.name, f"{transfer.origin} for {task['uid']}")
        other = landing.setdefault(transfer.name, transfer)
        if (other.places, other.action) != (transfer.places, transfer.action):
            raise StagingConflictError(
                f"{task['uid']} '{task['name']}': {other.origin} and {transfer.origin} would both be"
                f" {transfer.name!r} in its sandbox; give one of them InputFile(..., name=...)"
            )
    return tuple(landing.values())


def _from_task(task: Task, path: str | None, source: Source, item: InputFile | None, copied: _Copied) -> Transfer:
    assert path is not None
    origin = f"{path!r} of {source.uid} '{source.name}'"
    if source.sandbox is None:
        raise StagingError(f"{task['uid']} '{task['name']}' needs {origin}, whose backend keeps no files")
    action = copied.action(source.sandbox, item.action if item is not None else "link")
    return Transfer((f"{source.sandbox}/{path}",), item.filename if item is not None else path, action, origin)


def _from_path(path: str | None, item: InputFile | None, wishes: Wishes) -> Transfer:
    assert path is not None
    name = item.filename if item is not None else os.path.basename(path)
    action: Action = item.action if item is not None else "link"
    if item is not None and item.other_task_file is not None and not os.path.isabs(path):
        # Nobody declared it, so any of the dependencies may have left it.
        left = tuple(f"{source.sandbox}/{path}" for source in wishes.tasks.values() if source.sandbox is not None)
        return Transfer(left, name, action, repr(path), otherwise=os.path.abspath(path))
    if item is not None and item.remote_url is not None:
        return Transfer((item.remote_url,), name, action, masked_url(item.remote_url), sha256=item.sha256)
    return Transfer((os.path.abspath(path),), name, action, path)


def _dependencies(
    task: Task, wishes: Wishes, session: str, copied: _Copied, transfers: Iterable[Transfer]
) -> Iterable[Dependency]:
    taken = {transfer.name.split("/", 1)[0] for transfer in transfers}
    for source in wishes.tasks.values():
        if source.sandbox is None:
            continue
        link = _link_name(source, session)
        if link in taken:
            raise StagingConflictError(
                f"{task['uid']} '{task['name']}': an input called {link!r} is in the way of the directory link to"
                f" {source.uid}; give it another name"
            )
        yield Dependency(source.sandbox, link, copied.action(source.sandbox), source.own)


def _link_name(source: Source, session: str) -> str:
    above = os.path.dirname(source.sandbox or "")
    # Another engine may number its tasks alike.
    return source.uid if above == session else f"{os.path.basename(above)}.{source.uid}"


def source_of(task: Task) -> Source:
    """Say what a task leaves to others, from its dict."""
    uid, sandbox = task["uid"], task.get("sandbox")
    wishes: Wishes | None = task.get("staging")
    own = [BOOKKEEPING, f"{uid}.out", f"{uid}.err"]
    if wishes is not None and sandbox is not None:
        session = os.path.dirname(sandbox)
        own += [_link_name(source, session) for source in wishes.tasks.values()]
    return Source(uid, task.get("name", ""), sandbox, frozenset(own))
