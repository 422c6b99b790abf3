"""The part of a backend that an engine tells of data dependencies."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import unquote, urlsplit

from asyncflow_hpc.backend import BaseExecutionBackend
from asyncflow_hpc.data import InputFile
from asyncflow_hpc.task import Task

from .plan import Wishes, make_plan

__all__ = ["StagesFiles"]


class StagesFiles(BaseExecutionBackend):
    """A backend that stages files; what is announced waits in the task's dict until it is submitted."""

    def link_implicit_data_deps(self, src_task: Task, dst_task: Task) -> Any:
        """Let all files that one task leaves appear in the sandbox of another."""
        wishes = _wishes(dst_task)
        source = wishes.source(src_task)
        wishes.tasks[source.sandbox or source.uid] = source
        return {"source": source.sandbox, "target": dst_task["uid"]}

    def link_explicit_data_deps(
        self,
        src_task: Task | None = None,
        dst_task: Task | None = None,
        file_name: str | None = None,
        file_path: str | None = None,
        *,
        item: InputFile | None = None,
    ) -> Any:
        """Let one file, of a task or from a path, appear in the sandbox of a task."""
        assert dst_task is not None
        wishes = _wishes(dst_task)
        source = None if src_task is None else wishes.source(src_task)
        path = file_name if source is not None else file_path or file_name
        wishes.files.append((path, source, item))
        return {"source": path, "target": item.filename if item is not None else file_name}

    def moved_input(self, task: Task) -> str | None:
        """Return an input that the last attempt of a task has moved into its sandbox, so that another one lacks it."""
        sandbox, wishes = task.get("sandbox"), task.get("staging")
        if sandbox is None or wishes is None or not any(item and item.action == "move" for *_, item in wishes.files):
            return None
        for transfer in make_plan(task, os.path.dirname(sandbox), lambda _: 0).transfers:
            url = urlsplit(transfer.places[0]) if transfer.places and "://" in transfer.places[0] else None
            # What was downloaded is copied.
            if transfer.action != "move" or (url is not None and url.scheme != "file"):
                continue
            places = transfer.places if url is None else (unquote(url.path),)
            left = any(map(os.path.lexists, (*places, transfer.otherwise or "")))
            # While it is moved from another file system, there is a part of it in both places.
            if os.path.lexists(f"{sandbox}/{transfer.name}") or not left:
                return transfer.origin
        return None


def _wishes(task: Task) -> Wishes:
    wishes = task.get("staging")
    if wishes is None:
        wishes = task["staging"] = Wishes()
    assert isinstance(wishes, Wishes)
    return wishes
