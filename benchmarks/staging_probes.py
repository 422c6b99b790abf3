"""What staging costs, beside the bare system calls that it cannot do without."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

from .flows import local_engine
from .local_probes import TRUE
from .meter import Meter
from .model import Sample

# Backends are imported where they are measured: a probe of the bare calls must not pay for them.


def _source(n: int) -> str:
    """A sandbox with n small files."""
    source = os.path.abspath("session/task.000001")
    os.makedirs(source)
    for number in range(n):
        with open(f"{source}/file {number}", "w") as stream:
            stream.write("x" * 4096)
    return source


def _task(uid: str, **more: Any) -> Any:
    return {"uid": uid, "name": uid, "sandbox": os.path.abspath(f"session/{uid}"), "metadata": {}, **more}


def _linked(source: Any, target: Any, names: list[str], action: str = "link") -> None:
    from asyncflow_hpc.backends.staging import StagesFiles
    from asyncflow_hpc.data import InputFile

    announce = StagesFiles.link_explicit_data_deps
    for name in names:
        item = InputFile(name, action=action) if action != "link" else None  # type: ignore[arg-type]
        announce(None, src_task=source, dst_task=target, file_name=name, item=item)  # type: ignore[arg-type]


def _planned(task: Any) -> Any:
    from asyncflow_hpc.backends.staging.plan import make_plan

    return make_plan(task, os.path.abspath("session"), lambda directory: os.stat(directory).st_dev)


def _staged(task: Any) -> None:
    from asyncflow_hpc.backends.staging.apply import perform, survey

    found = survey(_planned(task))
    assert found is not None
    perform(found, task["sandbox"])


def _names(n: int) -> list[str]:
    return [f"file {number}" for number in range(n)]


def _fan_in(n: int, action: str) -> Sample:
    _source(n)
    source, target = _task("task.000001"), _task("task.000002")
    _planned(_task("task.000003", staging=None))  # imports are not to be measured
    os.mkdir(target["sandbox"])
    meter = Meter()
    _linked(source, target, _names(n), action)
    _staged(target)
    return meter.sample(n)


def fan_in(n: int) -> Sample:
    """n declared files of one task linked into the sandbox of another: announced, planned, checked, made."""
    return _fan_in(n, "link")


def copies(n: int) -> Sample:
    return _fan_in(n, "copy")


def fan_in_implicit(n: int) -> Sample:
    """n files that nobody declared."""
    from asyncflow_hpc.backends.staging import StagesFiles

    _source(n)
    source, target = _task("task.000001"), _task("task.000002")
    os.mkdir(target["sandbox"])
    meter = Meter()
    StagesFiles.link_implicit_data_deps(None, source, target)  # type: ignore[arg-type]
    _staged(target)
    return meter.sample(n)


def chain(n: int) -> Sample:
    """n sandboxes, each with a file of the one before; sandboxes and files are made too, as in the bare loop."""
    os.mkdir("session")
    previous = _task("task.000000")
    _chain_link(previous)
    _planned(previous)
    meter = Meter()
    for number in range(1, n + 1):
        task = _task(f"task.{number:06d}")
        _linked(previous, task, ["out.dat"])
        _chain_link(task, staged=True)
        previous = task
    return meter.sample(n)


def _chain_link(task: Any, staged: bool = False) -> None:
    os.mkdir(task["sandbox"], 0o700)
    if staged:
        _staged(task)
        # Its own output, under the same name in each.
        os.unlink(f"{task['sandbox']}/out.dat")
    with open(f"{task['sandbox']}/out.dat", "w") as stream:
        stream.write("x")


def bare_chain(n: int) -> Sample:
    os.mkdir("session")
    previous = os.path.abspath("session/task.000000")
    os.mkdir(previous)
    meter = Meter()
    for number in range(1, n + 1):
        sandbox = os.path.abspath(f"session/task.{number:06d}")
        os.mkdir(sandbox, 0o700)
        os.symlink(f"{previous}/out.dat", f"{sandbox}/out.dat")
        os.unlink(f"{sandbox}/out.dat")
        with open(f"{sandbox}/out.dat", "w") as stream:
            stream.write("x")
        previous = sandbox
    return meter.sample(n)


def bare_links(n: int) -> Sample:
    return _bare(n, os.symlink)


def bare_copies(n: int) -> Sample:
    return _bare(n, shutil.copy2)


def _bare(n: int, put: Callable[[str, str], object]) -> Sample:
    source = _source(n)
    os.mkdir("session/task.000002")
    meter = Meter()
    for name in _names(n):
        put(f"{source}/{name}", f"session/task.000002/{name}")
    return meter.sample(n)


def fan_in_script(n: int) -> Sample:
    """n declared files linked by the run script, with the start of a shell and the record of its end."""
    from asyncflow_hpc.backends.run_script import RunScript, write_script
    from asyncflow_hpc.backends.task_script import TaskScript

    _source(n)
    source, target = _task("task.000001"), _task("task.000002")
    os.mkdir(target["sandbox"])
    meter = Meter()
    _linked(source, target, _names(n))
    session, sandbox = os.path.abspath("session"), target["sandbox"]
    task = TaskScript(uid="task.000002", name="t", attempt=0, session=session, sandbox=sandbox, argv=[TRUE])
    script = RunScript(task=task, nonce="0", plan=_planned(target), watched=False)
    subprocess.run(["/bin/sh", write_script(script)], check=True)
    return meter.sample(n)


def plan(n: int) -> Sample:
    """n edges announced, planned and checked, 100 to a task."""
    source = _task("task.000001")
    os.mkdir("session")
    names = _names(100)
    tasks = [_task(f"task.{number:06d}") for number in range(2, 2 + n // len(names))]
    _planned(_task("task.000000", staging=None))
    meter = Meter()
    for task in tasks:
        _linked(source, task, names)
        _planned(task)
    return meter.sample(n)


async def scripted_commands(n: int) -> Sample:
    """n times /bin/true through the run script, each with its completion record."""
    async with local_engine("ours", scripted=True) as flow:

        @flow.executable_task  # type: ignore[untyped-decorator]
        async def run_true() -> str:
            return TRUE

        await run_true()
        meter = Meter()
        await asyncio.gather(*[run_true() for _ in range(n)])
        return meter.sample(n)
