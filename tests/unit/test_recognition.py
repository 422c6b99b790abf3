"""Keys of the tasks of an engine: where they are made, and in which order tasks are submitted."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from asyncflow_hpc import LocalExecutionBackend, WorkflowEngine
from asyncflow_hpc.events import TaskReady
from asyncflow_hpc.journal import read_events


class Slow:
    """Has a method of its own for pickling, which may take any time."""

    threads: set[str] = set()  # noqa: RUF012

    def __reduce__(self) -> Any:
        self.threads.add(threading.current_thread().name.partition("_")[0])
        return Slow, ()


async def test_what_may_take_long_is_done_in_a_thread_and_tasks_keep_their_order(tmp_path: Path) -> None:
    Slow.threads.clear()
    table = list(range(100_000))
    values: list[Any] = [1, Slow(), 1, [table] * 500, 1, table, 2, (Slow(), 1)]
    async with WorkflowEngine.create(LocalExecutionBackend(functions="thread"), work_dir=tmp_path) as flow:

        @flow.function_task
        def kind(value: Any) -> str:
            return type(value).__name__

        tasks = [kind(value) for value in values]
        results = [await task for task in tasks]
        assert await kind([kind(3), table]) == "list"
    assert results == [type(value).__name__ for value in values]
    assert Slow.threads == {"asyncflow-keys"}
    ready = [event for event in read_events(flow.session_dir) if isinstance(event, TaskReady)]
    assert [event.uid for event in ready] == [f"task.{number:06d}" for number in range(1, 11)]
    assert all(event.key for event in ready)
    assert len({event.key for event in ready}) == len(ready)


async def test_plain_calls_need_no_thread(tmp_path: Path) -> None:
    async with WorkflowEngine.create(LocalExecutionBackend(functions="thread"), work_dir=tmp_path) as flow:
        same = flow.function_task(abs)
        assert [await task for task in [same(number) for number in range(300)]] == list(range(300))
        assert not any(thread.name.startswith("asyncflow-keys") for thread in threading.enumerate())


SITE = """
description: a small machine
scheduler: local
nodes: {all: {cores: 2, gpus: 1, memory: 1GB}}
environment: {setup: [export LEVEL=1]}
defaults: {environment: {ALSO: default}, walltime: "1:00:00"}
"""


async def test_what_a_site_gives_to_tasks_counts(tmp_path: Path) -> None:
    async def key(text: str) -> str:
        site = tmp_path / "small.yaml"
        site.write_text(text)
        site.chmod(0o600)
        async with WorkflowEngine.create(LocalExecutionBackend(site=site), work_dir=tmp_path) as flow:

            @flow.executable_task
            async def command() -> list[str]:
                return ["true"]

            await command()
        return next(event.key for event in read_events(flow.session_dir) if isinstance(event, TaskReady))

    known = await key(SITE)
    assert await key(SITE.replace("1:00:00", "2:00:00")) == known
    assert len({known, await key(SITE.replace("LEVEL=1", "LEVEL=2")), await key(SITE.replace("ALSO", "MORE"))}) == 3
