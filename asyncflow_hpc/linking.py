"""Which task a declared file comes from, and telling a backend which files a task gets."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .components import BLOCK
from .data import name_in_sandbox
from .errors import StagingConflictError, StagingError

if TYPE_CHECKING:
    from .arguments import Found
    from .data import InputFile
    from .lanes import Lane
    from .task import Task

__all__ = ["check_producers", "link"]

log = logging.getLogger(__name__)


def check_producers(name: str, found: Found) -> None:
    """Check that each declared input of a task can come from one task only.

    Args:
        name: of the task.
        found: in the arguments of its call.

    Raises:
        StagingConflictError: two dependencies declare the same output.
        StagingError: it is to come from a block.
    """
    sources = [future.description for future in found.futures if future._spec.kind != BLOCK]
    made = _made_by(sources)
    for item in found.inputs:
        if item.task is not None:
            name_in_sandbox(os.path.normpath(item.filepath), f"{item!r} of task '{name}'")
        if item.task is not None and item.task._spec.kind == BLOCK:
            raise StagingError(
                f"{item!r} of task '{name}': {item.task.uid} is a block, which has no files; name a task"
            )
        _producer(name, item, made)


def link(lane: Lane, sources: Sequence[Task], task: Task, inputs: Sequence[InputFile], implicit: bool) -> None:
    """Announce all data dependencies of a task that is about to be submitted.

    Args:
        lane: to the backend that will run it.
        sources: the tasks it depends on.
        task: the task itself.
        inputs: the files that it declares.
        implicit: also announce the files that nobody declared.

    Raises:
        StagingError: the backend cannot stage one of them.
    """
    backend = lane.backend
    if lane.links_implicit and implicit:
        for source in sources:
            backend.link_implicit_data_deps(source, task)
    if not lane.links_explicit or not inputs:
        return
    made = _made_by(sources)
    for item in inputs:
        producer = _producer(task["name"], item, made)
        # A foreign backend knows nothing of renaming, copies and digests.
        details = {} if lane.capabilities is None else {"item": item}
        if producer is not None:
            backend.link_explicit_data_deps(src_task=producer, dst_task=task, file_name=_wanted(item), **details)
        else:
            place = item.remote_url or str(item.filepath)
            backend.link_explicit_data_deps(dst_task=task, file_name=item.filepath.name, file_path=place, **details)


def _made_by(sources: Sequence[Task]) -> dict[str, list[Task]]:
    made: dict[str, list[Task]] = {}
    for source in sources:
        for name in source["metadata"]["output_files"]:
            made.setdefault(name, []).append(source)
    return made


def _wanted(item: InputFile) -> str | None:
    """Say which output an input could be, relative to the sandbox of the task that wrote it."""
    given = item.other_task_file or item.local_file
    return None if given is None or os.path.isabs(given) else os.path.normpath(given)


def _producer(name: str, item: InputFile, made: dict[str, list[Task]]) -> Task | None:
    if item.task is not None:
        return item.task.task
    wanted = _wanted(item)
    sources = made.get(wanted, []) if wanted is not None else []
    if len(sources) > 1:
        both = " and ".join(f"{source['uid']} '{source['name']}'" for source in sources)
        raise StagingConflictError(
            f"{item!r} of task '{name}' is an output of {both}: say which with task=..., and name=... if it needs both"
        )
    if sources and item.local_file is not None:
        log.warning("%r of task '%s' is taken from %s, not from %s", item, name, sources[0]["uid"], item.filepath)
    return sources[0] if sources else None
