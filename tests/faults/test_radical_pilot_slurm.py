"""Pilots as jobs of a real Slurm: what they ask for, where tasks run, and what is left when something ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.backends.radical_pilot import RadicalExecutionBackend
from asyncflow_hpc.backends.radical_pilot.environment import can_run
from asyncflow_hpc.backends.radical_pilot.outlived import end_outlived, leave_note
from asyncflow_hpc.errors import ConfigurationError, TaskFailedError, UnsupportedTaskError
from asyncflow_hpc.states import FailureCause
from asyncflow_hpc.testing.leftovers import processes_here
from tests.clusters import CLUSTER, CLUSTER_FOR_PILOTS
from tests.conftest import until

from .conftest import use
from .on_slurm import Gate, Wrappers, cluster, hanging, on_slurm, running, shell
from .resuming import HELD, IN_PILOT, Script
from .test_radical_pilot import kill_all_but_pilots

pytestmark = [
    # Of two dozen processes that start, and that poll each other, on a busy machine.
    pytest.mark.timeout(600),
    *on_slurm,
    pytest.mark.skipif(
        not can_run(), reason="RADICAL-Pilot is not installed, or in an environment whose path it cannot take"
    ),
]


# In front of the command of a driver that does not wait two minutes for a Slurm that does not answer.
HURRIED = (
    sys.executable,
    "-c",
    "import runpy, sys; from asyncflow_hpc.backends.radical_pilot import outlived; outlived._LEAVING = 10.0;"
    " del sys.argv[:2]; runpy.run_path(sys.argv[0], run_name='__main__')",
)


def answer(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def jobs() -> list[list[str]]:
    """Name, partition, memory of a node, nodes and time limit of each job that waits or runs, not of those that end."""
    argv = ["squeue", "--noheader", "--states=pending,running", "--format=%j %P %m %D %l"]
    return [line.split() for line in answer(*argv).splitlines()]


def steps() -> list[str]:
    """The names of all steps but those of batch scripts."""
    names = answer("squeue", "--steps", "--noheader", "--format=%j").split()
    return [name for name in names if name not in ("batch", "extern")]


@pytest.fixture(autouse=True)
def own_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the cluster that nobody else uses meanwhile, where there is one."""
    use(CLUSTER_FOR_PILOTS or CLUSTER, monkeypatch)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory for RADICAL-Pilot; at the end no job is left."""
    path = tmp_path / "pilots"
    path.mkdir()
    yield path
    left = jobs()
    for name, *_ in left:
        subprocess.run(["scancel", f"--name={name}"], check=False)
    assert not left


@asynccontextmanager
async def flow_on(root: Path, place: Path, **resources: Any) -> AsyncIterator[WorkflowEngine]:
    backend = RadicalExecutionBackend(resources, site="dev_cluster", directory=place, patience=2.0)
    async with WorkflowEngine.create(backend, work_dir=root, retries=0) as flow:
        yield flow


async def test_two_nodes(root: Path, place: Path) -> None:
    wanted = {"nodes": 2, "mem_per_node": 3000, "queue": "normal", "runtime": 7, "job_name": "two"}
    async with flow_on(root, place, **wanted) as flow:
        assert jobs() == [["two", "normal", "3000M", "2", "7:00"]]
        assert flow.backend.get_nodelist() == ["n1", "n2"]
        command = shell(flow)
        tells = 'echo "$ASYNCFLOW_RANK/$ASYNCFLOW_SIZE $SLURMD_NODENAME"'
        seen = await command(tells, task_description={"ranks": 4, "nodes": 2})
        assert sorted(seen.splitlines()) == ["0/4 n1", "1/4 n1", "2/4 n2", "3/4 n2"]
        wide = (await command(tells, task_description={"ranks": 20})).splitlines()
        assert len(wide) == 20 and {line.split()[1] for line in wide} == {"n1", "n2"}
        with pytest.raises(UnsupportedTaskError, match="needs 3 nodes"):
            await command("true", task_description={"ranks": 33})
        failing = command("[ $ASYNCFLOW_RANK = 1 ] && exit 4; sleep 600", task_description={"ranks": 2, "nodes": 2})
        with pytest.raises(TaskFailedError) as caught:
            await failing
        assert caught.value.exit_code == 4
        one, two = command("sleep 600"), command("sleep 600", task_description={"ranks": 2, "nodes": 2})
        stubborn = command("trap '' TERM; sleep 600 & wait; wait", task_description={"ranks": 2})
        tasks = [one, two, stubborn]
        await running(*tasks)
        await until(lambda: len(steps()) == 5)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert {task.state for task in tasks} == {"CANCELLED"}
        await until(lambda: not steps() and not processes_here(flow.session_dir))
        last = [command("sleep 600", task_description={"ranks": 2, "nodes": 2}), command("sleep 600")]
        await running(*last)
        await until(lambda: len(steps()) == 3)
        subprocess.run(["scancel", "--name=two"], check=True)
        await asyncio.wait(last)
        assert [task.task["cause"] for task in last] == [FailureCause.CANCELLED] * 2
        await until(lambda: not processes_here(flow.session_dir))


@pytest.mark.parametrize("accounting", ["with accounting"], indirect=True)
async def test_account_and_gpus_that_are_asked_for(accounting: bool, root: Path, place: Path) -> None:
    asked = {"resource": "slurm", "cores_per_node": 2, "mem_per_node": 1000, "launch": "fork"}
    # No node has one, so that Slurm itself says that it was asked.
    with pytest.raises(ConfigurationError, match=r"(?i)generic resource|node configuration"):
        await RadicalExecutionBackend({**asked, "gpus_per_node": 1}, directory=place)
    assert not jobs()
    # Of the accounts of the user, not the one that is taken where none is asked for.
    async with flow_on(root, place, launch="fork", project="dev") as flow:
        assert answer("squeue", "--noheader", "--format=%a").split() == ["dev"]
        assert await shell(flow)("echo $SLURM_JOB_ACCOUNT") == "dev\n"


async def test_one_node_by_fork(root: Path, place: Path) -> None:
    async with flow_on(root, place, launch="fork", slurm={"comment": "of a test"}) as flow:
        assert jobs()[0][0].startswith("asyncflow-pilots.")
        command = shell(flow)

        @flow.function_task
        async def where() -> Any:
            return os.environ["SLURMD_NODENAME"]

        assert await where() in ("n1", "n2")
        assert await command("echo $ASYNCFLOW_RANK", task_description={"ranks": 2}) in ("0\n1\n", "1\n0\n")
        task = command("trap '' TERM; sleep 600 & touch up; wait; wait")
        await running(task)
        await until(lambda: (Path(task.task["sandbox"]) / "up").exists())
        task.cancel()
        await asyncio.wait([task])
        assert task.state == "CANCELLED"
        await until(lambda: not processes_here(flow.session_dir))
        last = command("sleep 600")
        await running(last)
    assert last.state == "CANCELLED"
    assert not jobs()


DRIVER = """
import asyncio, json, sys
from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.backends.radical_pilot import RadicalExecutionBackend

async def main():
    backend = RadicalExecutionBackend(json.loads(sys.argv[1]), directory=sys.argv[2])
    async with WorkflowEngine.create(backend, work_dir=sys.argv[2], retries=0) as flow:
        @flow.executable_task
        async def sleeps():
            return "sleep 600"
        task = sleeps()
        while task.state != "RUNNING":
            await asyncio.sleep(0.01)
        print("running", flush=True)
        await task

asyncio.run(main())
"""


def test_driver_killed(root: Path, place: Path) -> None:
    words = [
        sys.executable,
        "-c",
        DRIVER,
        json.dumps({"resource": "slurm", "cores_per_node": 16, "nodes": 1}),
        str(place),
    ]
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=root)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "running\n"
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    while jobs() or processes_here(place):
        time.sleep(0.2)


async def test_raptor_on_two_nodes(root: Path, place: Path) -> None:
    backend = RadicalExecutionBackend(
        {"nodes": 2, "mem_per_node": 3000, "queue": "normal", "runtime": 7},
        {"workers": 2, "cores_per_worker": 12},
        site="dev_cluster",
        directory=place,
        patience=2.0,
    )
    async with WorkflowEngine.create(backend, work_dir=root, retries=0) as flow:
        hangs = hanging(flow)

        def claim(task: Any) -> str:
            return os.readlink(Path(task.task["sandbox"], ".asyncflow", "claim"))

        # More than one worker has cores for.
        calls = [hangs(stubborn=number < 2) for number in range(14)]
        await until(lambda: all(Path(call.task.get("sandbox") or "-", "up").exists() for call in calls))
        await running(*calls)
        node_of = {claim(call).rpartition(".w")[2]: claim(call).partition("@")[2].partition(":")[0] for call in calls}
        assert node_of == {"0": "n1", "1": "n2"}
        stays = next(call for call in calls if claim(call).endswith(".w1"))
        others = [call for call in calls if call is not stays]
        for call in others:
            call.cancel()
        await asyncio.wait(others)
        assert {call.state for call in others} == {"CANCELLED"} and not stays.done()
        await until(lambda: len(processes_here(flow.session_dir)) == 1)
        worker = claim(stays).partition("#")[2]
        subprocess.run(["scancel", *steps_called(worker)], check=True)
        with pytest.raises(TaskFailedError, match="RAPTOR worker has ended") as caught:
            await stays
        assert caught.value.cause is FailureCause.NODE_FAILURE
        await until(lambda: not processes_here(flow.session_dir))
    assert not jobs()


def steps_called(name: str) -> list[str]:
    lines = answer("squeue", "--steps", "--noheader", "--format=%i %j").splitlines()
    return [line.split()[0] for line in lines if line.split()[1].startswith(name)]


@pytest.mark.slow
async def test_resumed_while_the_old_pilot_runs(root: Path, place: Path) -> None:
    gate = Gate(root)
    asked = {"resource": "slurm", "cores_per_node": 2, "nodes": 2, "launch": "srun", "slurm": {"exclusive": True}}
    backend = f"RadicalExecutionBackend({asked!r}, directory={str(place)!r}, patience=2.0)"
    body = IN_PILOT.replace("range(2)", "range(4)")
    with Script(root, body, gate, backend=backend) as first:
        await until(lambda: first.still_runs() and {"late", "held"} <= set(gate.starts()))
        [old] = place.iterdir()
        [before] = jobs()
        kill_all_but_pilots(first, place)
    (root / "late.open").touch()
    await until(lambda: gate.ends()["late"])
    assert jobs() == [before]
    # The old pilot has both nodes, so a new one could not start beside it.
    with Script(root, body, gate, backend=backend) as second:
        await until(lambda: second.still_runs() and gate.starts()["held"] == 2)
        assert [name for name, *_ in jobs()] == [path.name for path in place.iterdir()] != [old.name]
        gate.open()
        done = second.result()
    assert done.stdout == "done\n,49,late\n,held\n,wait0\n,wait1\n,wait2\n,wait3\n\n", done.stderr
    assert set(gate.ends().values()) == {1} and len(gate.ends()) == 7
    starts = gate.starts()
    assert starts["done"] == starts["square"] == starts["late"] == 1, starts
    assert list(place.iterdir()) == []
    # The runner alone stays.
    assert all(path.name.startswith("runner.") for path in (root / "session" / ".asyncflow").glob("*"))


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_resumed_while_the_controller_is_down(
    root: Path, place: Path, controller: None, wrappers: Wrappers
) -> None:
    gate = Gate(root)
    asked = {"resource": "slurm", "cores_per_node": 2, "mem_per_node": 1000, "launch": "fork"}
    backend = f"RadicalExecutionBackend({asked!r}, directory={str(place)!r}, patience=2.0)"
    with Script(root, HELD, gate, backend=backend) as first:
        await until(lambda: first.still_runs() and gate.starts()["held"])
        kill_all_but_pilots(first, place)
    [old] = place.iterdir()
    cluster("stop-controller")
    with Script(root, HELD, gate, backend=backend, before=HURRIED) as second:
        await until(second.has_ended)
        refused = second.result()
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "SessionError: pilots that session" in refused.stderr
    assert "has left may still run, so nothing is run again: jobs " in refused.stderr
    assert "Slurm cannot say: slurm_load_jobs error" in refused.stderr
    assert refused.stderr.endswith("; resume it when Slurm answers\n")
    cluster("start-controller")
    assert [name for name, *_ in jobs()] == [old.name]
    assert wrappers.called()["sbatch"] == 1
    with Script(root, HELD, gate, backend=backend) as third:
        await until(lambda: third.still_runs() and gate.starts()["held"] == 2)
        assert [name for name, *_ in jobs()] == [path.name for path in place.iterdir()] != [old.name]
        gate.open()
        done = third.result()
    assert done.stdout == "held\n", done.stderr
    assert gate.ends() == {"held": 1}
    assert not jobs()
    # What is done needs neither a pilot nor Slurm.
    cluster("stop-controller")
    again = Script(root, HELD, gate, backend=backend).result()
    assert (again.returncode, again.stdout) == (0, "held\n"), again.stderr
    assert wrappers.called()["sbatch"] == 2
    cluster("start-controller")


def test_a_job_that_was_being_submitted_when_its_driver_died(tmp_path: Path) -> None:
    session, pilots = tmp_path / "session", tmp_path / "asyncflow-pilots.0123456789ab"
    session.mkdir()
    pilots.mkdir()
    leave_note(session, pilots, "slurm")
    # No note of its id was taken yet.
    for directory in (pilots, tmp_path):
        argv = ["sbatch", "--wrap=sleep 600", "--mem=50", "--output=/dev/null", f"--chdir={directory}"]
        subprocess.run([*argv, f"--job-name={directory.name}"], check=True, capture_output=True)
    end_outlived(session)
    assert [name for name, *_ in jobs()] == [tmp_path.name]
    subprocess.run(["scancel", f"--name={tmp_path.name}"], check=True)
    assert list(session.iterdir()) == []
