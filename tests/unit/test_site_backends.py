"""Backends and engines of a site: what its profile says holds where nobody else says anything."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from asyncflow_hpc import LocalExecutionBackend, TaskDescription, WorkflowEngine, backend_for, load_site
from asyncflow_hpc.backends.psij import LsfExecutionBackend, PbsExecutionBackend, PsijExecutionBackend
from asyncflow_hpc.backends.psij.site import Settings, settings_for
from asyncflow_hpc.errors import ConfigurationError, SiteError, TaskDescriptionError, UnsupportedTaskError
from asyncflow_hpc.registry import SCHEDULERS
from asyncflow_hpc.task import Task

BIG = """
description: a big machine
scheduler: slurm
account_required: true
launcher: mpiexec --bind
defaults: {queue: debug, cores_per_rank: 4, environment: {A: site, B: site}, slurm: {licenses: scratch}, pre_exec: [d]}
nodes: {cpu: {cores: 64, memory: 256GB}}
queues:
  debug: {max_walltime: "00:30:00", max_nodes: 4, max_queued: 7}
  batch: {}
environment: {setup: [module load python], python: /opt/python}
polling: {interval: 60, submit_rate: 2, max_queued: 50}
"""

Profile = Callable[..., str]

COMMANDS = "sbatch squeue scancel sacct scontrol qsub qstat qselect qdel bsub bjobs bkill bhist"


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """Write a profile into the current directory, which is a new one; returns its path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("ASYNCFLOW_SITE", "ASYNCFLOW_BACKEND", "SBATCH_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)

    def written(text: str = BIG, name: str = "big") -> str:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    return written


def described(backend: PsijExecutionBackend, **asked: Any) -> TaskDescription:
    task: Task = {"uid": "task.000001", "name": "t", "task_backend_specific_kwargs": asked}
    return backend.describe(task)


# The settings of a batch backend --------------------------------------------------------------------------------------


def settings(site: Any, scheduler: str | None = None, defaults: Any = None, **said: Any) -> Settings:
    names = ("submit_rate", "max_queued", "poll_interval", "python")
    return settings_for(site, scheduler, defaults, **{**dict.fromkeys(names), **said})


def pace(found: Settings) -> tuple[Any, ...]:
    return found.submit_rate, found.max_queued, found.shortest_interval, found.poll_interval, found.python


def test_without_a_site_ours_hold() -> None:
    assert settings(None).scheduler == "slurm" and settings(None, "lsf").scheduler == "lsf"
    assert pace(settings(None)) == (20.0, 1000, 1.0, 10.0, sys.executable)


def test_what_the_site_says_holds(profile: Profile) -> None:
    # Seven jobs are what its default queue takes of a user.
    assert pace(settings(profile())) == (2.0, 7, 60.0, 60.0, "/opt/python")
    assert pace(settings("slurm")) == pace(settings(None))


def test_what_the_caller_says_goes_before_the_site(profile: Profile) -> None:
    said = {"submit_rate": 5, "max_queued": 9, "poll_interval": 3.0, "python": "/my/python"}
    assert pace(settings(profile(), **said)) == (5, 9, 1.0, 3.0, "/my/python")


@pytest.mark.parametrize("key", ["submit_rate", "max_queued", "poll_interval"])
@pytest.mark.parametrize("value", [0, -1, True, "3", math.nan])
def test_numbers_that_are_none(key: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"{key} must be a number above zero"):
        PsijExecutionBackend(**{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["poll_interval", "command_timeout", "grace", "patience"])
@pytest.mark.parametrize("value", [math.inf, 10**400])
def test_times_that_are_never_over(key: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"{key} must be a number of seconds"):
        PsijExecutionBackend(**{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["command_timeout", "grace", "patience"])
@pytest.mark.parametrize("value", [math.nan, -1, True, "3"])
def test_times_that_are_none(key: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"{key} must be a number of seconds"):
        PsijExecutionBackend(**{key: value})  # type: ignore[arg-type]


def test_the_site_picks_the_scheduler(profile: Profile) -> None:
    assert PsijExecutionBackend(site="lsf").name == "lsf"
    assert PsijExecutionBackend(site=profile()).name == "slurm"
    assert LsfExecutionBackend(site="lsf").scheduler.name == "lsf"
    with pytest.raises(ConfigurationError, match="site 'big' is for backend 'slurm', not 'pbs'"):
        PbsExecutionBackend(site=profile())
    with pytest.raises(ConfigurationError, match="'local'"):
        PsijExecutionBackend(site="local")
    with pytest.raises(SiteError, match="no site is called 'bigg'"):
        PsijExecutionBackend(site="bigg")


# Tasks of a site ------------------------------------------------------------------------------------------------------


def test_defaults_of_site_backend_and_task(profile: Profile) -> None:
    backend = PsijExecutionBackend(
        site=profile(), defaults={"account": "mine", "queue": "batch", "environment": {"B": "backend", "C": "backend"}}
    )
    made = described(backend, cores_per_rank=1, environment={"C": "task"}, slurm={"nice": 5})
    assert (made.account, made.queue, made.cores_per_rank) == ("mine", "batch", 1)
    assert made.environment == {"A": "site", "B": "backend", "C": "task"}
    assert made.slurm == {"licenses": "scratch", "nice": 5}
    assert described(backend).cores_per_rank == 4
    assert described(backend, queue=None).queue is None, "a task can say that it wants none"
    without = PsijExecutionBackend(site=profile(), defaults={"queue": None})
    assert described(without).queue is None, "so can the backend"


@pytest.mark.parametrize(
    ("site", "defaults", "asked", "found"),
    [
        ("perlmutter", {}, {}, (None, "regular")),
        ("perlmutter", {}, {"queue": "debug"}, (None, "debug")),
        ("perlmutter", {"queue": "debug"}, {}, (None, "debug")),
        ("perlmutter", {"queue": "debug"}, {"qos": "regular"}, (None, "regular")),
        ("perlmutter", {}, {"queue": "gpu_ss11"}, ("gpu_ss11", "regular")),
        ("frontier", {}, {"queue": "debug"}, ("batch", "debug")),
        ("frontier", {}, {"queue": "extended"}, ("extended", None)),
        ("archer2", {}, {"queue": "short"}, ("standard", "short")),
        ("archer2", {}, {"queue": "highmem"}, ("highmem", "highmem")),
        ("archer2", {}, {"qos": "gpu-shd"}, ("gpu", "gpu-shd")),
        ("archer2", {"qos": "serial"}, {}, ("serial", "serial")),
        ("archer2", {}, {"queue": "highmem", "qos": "taskfarm"}, ("highmem", "taskfarm")),
        ("archer2", {"queue": "serial"}, {"queue": "long"}, ("standard", "long")),
        ("archer2", {"qos": "serial"}, {"qos": "long"}, ("standard", "long")),
    ],
)
def test_a_queue_that_is_a_quality_of_service(
    site: str, defaults: dict[str, Any], asked: dict[str, Any], found: tuple[str | None, str | None]
) -> None:
    made = described(PsijExecutionBackend(site=site, defaults=defaults), **asked)
    assert (made.queue, made.qos) == found


def test_a_queue_that_is_a_quality_of_service_in_a_profile_of_ones_own(profile: Profile) -> None:
    own = profile("extends: perlmutter\ndefaults: {queue: debug}\n", "mine")
    made = described(PsijExecutionBackend(site=own))
    assert (made.queue, made.qos) == (None, "debug")


def test_set_up_comes_before_the_tasks_own_lines(profile: Profile) -> None:
    backend = PsijExecutionBackend(site=profile())
    assert described(backend).pre_exec == ("module load python", "d")
    assert described(backend, pre_exec=["mine"]).pre_exec == ("module load python", "mine")


@pytest.mark.parametrize(
    ("asked", "launcher"),
    [
        ({}, None),
        ({"ranks": 2}, "mpiexec --bind"),
        ({"nodes": 2}, None),
        ({"ranks": 2, "launcher": "srun"}, "srun"),
    ],
)
def test_the_launcher_starts_what_has_ranks(profile: Profile, asked: dict[str, Any], launcher: str | None) -> None:
    assert described(PsijExecutionBackend(site=profile()), **asked).launcher == launcher


def test_options_of_srun_go_into_our_own_line() -> None:
    dialect = PsijExecutionBackend("slurm").dialect
    ours = dialect.launch_line(["a"], TaskDescription(ranks=2), "py")
    theirs = dialect.launch_line(["a"], TaskDescription(ranks=2, launcher="srun --mpi=pmix"), "py")
    assert [word for word in theirs if word not in ours] == ["--mpi=pmix"]
    assert theirs.index("--mpi=pmix") == theirs.index("srun") + 1


def check(backend: PsijExecutionBackend, **asked: Any) -> None:
    backend.check_description(TaskDescription.from_dict(asked))


def test_limits_are_held_with_the_defaults_filled_in(profile: Profile) -> None:
    backend = PsijExecutionBackend(site=profile())
    with pytest.raises(TaskDescriptionError, match="site 'big' needs an account"):
        check(backend)
    check(backend, account="a", walltime="00:30:00")
    with pytest.raises(TaskDescriptionError, match=r"queue 'debug' takes no more than 00:30:00.*queue='batch'"):
        check(backend, account="a", walltime="00:31:00")
    # 4 nodes with 16 ranks of the site's 4 cores each, or 64 of one core.
    check(backend, account="a", ranks=64)
    check(backend, account="a", ranks=65, cores_per_rank=1)
    with pytest.raises(TaskDescriptionError, match="this task needs 5"):
        check(backend, account="a", ranks=65)
    with pytest.raises(UnsupportedTaskError, match="has no nodes for this task"):
        check(backend, account="a", mem_per_rank="300GB")
    with pytest.raises(TaskDescriptionError, match="no long option of sbatch"):
        check(backend, account="a", slurm={"???": 1})


async def test_limits_are_held_under_another_engine(profile: Profile, no_scheduler: None, tmp_path: Path) -> None:
    """One that hands over tasks without asking first."""
    task: Task = {"uid": "task.000001", "name": "t", "executable": "true", "arguments": []}
    task["task_backend_specific_kwargs"] = {"account": "a", "walltime": "1:00"}
    reported: list[str] = []
    async with PsijExecutionBackend(site=profile()) as backend:
        backend._work_dir = str(tmp_path / "session")
        backend.register_callback(lambda task, state: reported.append(state))
        await backend.submit_tasks([task])
    assert reported == ["FAILED"] and "max_walltime" in str(task["exception"])


def test_an_unknown_queue_is_told_once(profile: Profile, caplog: pytest.LogCaptureFixture) -> None:
    backend = PsijExecutionBackend(site=profile())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            check(backend, account="a", queue="new", walltime="9-00")
    assert len(caplog.records) == 1
    assert "site 'big' knows no queue 'new'" in caplog.text and "debug, batch" in caplog.text


def test_a_session_that_lies_elsewhere_is_told(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    backend = PsijExecutionBackend(site=profile(f"{BIG}\nfilesystems: [{{path: $SCRATCH/me, for: sessions}}]"))
    with caplog.at_level(logging.WARNING):
        backend._rules.check_place(tmp_path / "scratch" / "me" / "session")
        assert not caplog.records
        backend._rules.check_place(tmp_path / "home" / "session")
    assert f"work_dir='{tmp_path}/scratch/me'" in caplog.text


# The local backend ----------------------------------------------------------------------------------------------------

SMALL = """
description: a small machine
scheduler: local
nodes: {all: {cores: 2, gpus: 1, memory: 1GB}}
environment: {setup: [export FROM_SITE=set-up]}
defaults: {environment: {ALSO: default}}
"""


async def test_a_local_site(profile: Profile) -> None:
    async with WorkflowEngine.create(site=profile(SMALL, "small")) as flow:
        assert isinstance(flow.backend, LocalExecutionBackend)

        @flow.executable_task
        async def command(**_: Any) -> str:
            return 'echo "$FROM_SITE $ALSO"'

        @flow.function_task
        async def function() -> str:
            import os

            return f"{os.environ['FROM_SITE']} {os.environ['ALSO']}"

        assert await command() == "set-up default\n"
        assert await function() == "set-up default"
        for asked in ({"cores_per_rank": 3}, {"gpus_per_rank": 2}, {"mem_per_rank": "2GB"}):
            with pytest.raises(UnsupportedTaskError, match="can never run this task"):
                command(task_description=asked)


def test_what_is_said_to_the_local_backend_goes_before_its_site(profile: Profile) -> None:
    backend = LocalExecutionBackend(site=profile(SMALL, "small"), cores=5, gpus=0, memory="3GB")
    backend.check_description(TaskDescription(cores_per_rank=5, mem_per_rank=3 * 1024**3))
    with pytest.raises(UnsupportedTaskError):
        backend.check_description(TaskDescription(gpus_per_rank=1))
    with pytest.raises(ConfigurationError, match="site 'big' is for backend 'slurm', not 'local'"):
        LocalExecutionBackend(site=profile())


# Which backend an engine gets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_the_backend_for_a_site(name: str) -> None:
    made = backend_for(name, name="mine")
    assert made.name == "mine"
    assert getattr(made, "scheduler", None) is None or made.scheduler.name == name
    assert type(backend_for(load_site(name))) is type(made)


@pytest.fixture
def no_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of all schedulers that do nothing: a backend starts, and no job is submitted."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for command in COMMANDS.split():
        (directory / command).write_text("#!/bin/sh\n")
        (directory / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=os.pathsep)


@pytest_asyncio.fixture
async def opened(profile: Profile, no_scheduler: None) -> Any:
    """Open engines, and shut them down at the end."""
    flows: list[WorkflowEngine] = []

    async def make(*args: Any, **more: Any) -> tuple[str, str | None]:
        flows.append(await WorkflowEngine.create(*args, **more))
        site = getattr(getattr(flows[-1].backend, "_rules", None), "site", None)
        return flows[-1].backend.name, site and site.name

    yield make
    for flow in flows:
        await flow.shutdown()


async def test_an_engine_of_a_site(opened: Any, profile: Profile) -> None:
    assert await opened(site=profile()) == ("slurm", "big")
    assert await opened("slurm", site=profile()) == ("slurm", "big")
    assert await opened(site="pbs") == ("pbs", "pbs")
    assert await opened(site=load_site("lsf")) == ("lsf", "lsf")
    assert await opened() == ("local", None)


async def test_the_site_of_the_current_directory(
    opened: Any, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile(BIG, "asyncflow")
    assert await opened() == ("slurm", "asyncflow")
    assert await opened("slurm") == ("slurm", "asyncflow")
    assert await opened("local") == ("local", None), "to run locally what is meant for a site is no mistake"
    assert await opened("noop") == ("noop", None)
    assert await opened(dry_run=True) == ("noop", None)
    assert await opened(PsijExecutionBackend()) == ("slurm", None), "an object is taken as it is"
    profile("queues: 3", "asyncflow")
    assert await opened(PsijExecutionBackend()) == ("slurm", None), "and nobody looks at the file"
    with pytest.raises(SiteError, match=r"asyncflow\.yaml: queues must hold keys and values"):
        await opened("local")
    profile(BIG, "asyncflow")
    monkeypatch.setenv("ASYNCFLOW_BACKEND", "local")
    assert await opened() == ("local", None)
    monkeypatch.setenv("ASYNCFLOW_BACKEND", "lsf")
    with pytest.raises(ConfigurationError, match="backend 'lsf' cannot use site 'asyncflow', which is for 'slurm'"):
        await opened()


async def test_the_site_of_the_environment(opened: Any, profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    profile(BIG, "asyncflow")
    monkeypatch.setenv("ASYNCFLOW_SITE", "pbs")
    assert await opened() == ("pbs", "pbs")
    with pytest.raises(ConfigurationError, match="backend 'slurm' cannot use site 'pbs'"):
        await opened("slurm")
    monkeypatch.setenv("ASYNCFLOW_SITE", "nowhere")
    with pytest.raises(SiteError, match="no site is called 'nowhere'"):
        await opened()


async def test_a_site_beside_several_backends(opened: Any, profile: Profile) -> None:
    assert await opened(["slurm", "local"], site=profile()) == ("slurm", "big")
    assert await opened(["noop", "slurm"], site=profile()) == ("noop", None)
    for others in (["local", "noop"], ["slurm", "pbs"]):
        with pytest.raises(ConfigurationError, match="cannot use site 'big', which is for 'slurm'"):
            await opened(others, site=profile())


@pytest.mark.parametrize("backend", ["local", "pbs", "noop"])
async def test_a_site_that_the_backend_cannot_use(opened: Any, profile: Profile, backend: str) -> None:
    with pytest.raises(ConfigurationError, match=f"backend '{backend}' cannot use site 'big', which is for 'slurm'"):
        await opened(backend, site=profile())


async def test_a_site_beside_a_backend_object(opened: Any, profile: Profile) -> None:
    with pytest.raises(ConfigurationError, match="give it to the backend itself"):
        await opened(LocalExecutionBackend(), site=profile())


async def test_limits_are_held_at_the_call(profile: Profile, no_scheduler: None) -> None:
    async with WorkflowEngine.create(site=profile()) as flow:

        @flow.executable_task
        async def command(**_: Any) -> str:
            return "true"

        @flow.block
        async def group() -> str:
            return "done"

        with pytest.raises(TaskDescriptionError, match="needs an account"):
            command()
        with pytest.raises(TaskDescriptionError, match="queue='batch'"):
            command(task_description={"account": "a", "walltime": "1:00"})
        assert flow.components == {}, "nothing was submitted"
        assert await group() == "done"


def test_a_backend_sets_none_of_the_names_that_a_task_is_given() -> None:
    for environment in ({"ASYNCFLOW_SIZE": "1"}, {"ASYNCFLOW_TASK_UID": "x"}):
        with pytest.raises(TaskDescriptionError, match="which every task is given"):
            PsijExecutionBackend("slurm", defaults={"environment": environment})


@pytest.mark.parametrize("control", ["\n", "\0", "\x1b", "\udcff"])
def test_a_backend_has_no_directory_with_control_characters(control: str) -> None:
    with pytest.raises(ConfigurationError, match="without control characters"):
        PsijExecutionBackend("slurm", work_dir=f"/tmp/a{control}b")
