"""Telling a backend which files a task gets from the tasks it depends on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .lanes import Lane
    from .task import Task

__all__ = ["link"]


def link(lane: Lane, sources: Sequence[Task], task: Task, implicit: bool) -> None:
    """Announce all data dependencies of a task that is about to be submitted.

    Args:
        lane: to the backend that will run it.
        sources: the tasks it depends on.
        task: the task itself.
        implicit: also announce the files that nobody declared.
    """
    if lane.links_implicit and implicit:
        for source in sources:
            lane.backend.link_implicit_data_deps(source, task)
    if not lane.links_explicit:
        return
    wanted = dict.fromkeys(task["metadata"]["input_files"])
    for source in sources:
        for name in source["metadata"]["output_files"]:
            if name in wanted:
                lane.backend.link_explicit_data_deps(src_task=source, dst_task=task, file_name=name)
    made = {name for source in sources for name in source["metadata"]["output_files"]}
    for path in wanted:
        if path not in made:
            name = path.rpartition("/")[2]
            lane.backend.link_explicit_data_deps(dst_task=task, file_name=name, file_path=path)
