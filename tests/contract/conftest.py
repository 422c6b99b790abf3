"""The backends of this project, for the contract suite."""

from __future__ import annotations

import asyncio
import functools
import os
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from asyncflow_hpc import LocalExecutionBackend, NoopExecutionBackend
from asyncflow_hpc.backends.psij import PsijExecutionBackend
from asyncflow_hpc.backends.radical_pilot import PilotPool, RadicalExecutionBackend
from asyncflow_hpc.backends.radical_pilot.environment import can_run, is_plain
from asyncflow_hpc.testing import BackendUnderTest, Emulation
from asyncflow_hpc.testing.contract.conftest import *  # noqa: F403
from tests.clusters import CLUSTER, CLUSTER_OF_24_11_WITH_ACCOUNTING, settings_for

# RADICAL-Pilot does not take any path.
PLACE = tempfile.gettempdir() if is_plain(tempfile.gettempdir()) else "/tmp"

# It takes a quarter of a minute to start: one pilot for all tests.
PILOTS = PilotPool({"cores": 2, "gpus": 2}, directory=PLACE)

# And one with RAPTOR, for functions.
RAPTOR_PILOTS = PilotPool({"cores": 4}, {"workers": 1, "cores_per_worker": 2}, directory=PLACE)

# The tests that have not been run yet.
LEFT: Counter[PilotPool] = Counter()

# Where a backend differs from another one in its functions alone: the modules of tests that are run on it.
ONLY = {
    "local-shared": ("test_functions", "test_processes"),
    "radical_pilot-raptor": ("test_functions", "test_processes"),
}

CLUSTERS = {"slurm": CLUSTER, "slurm-24.11": CLUSTER_OF_24_11_WITH_ACCOUNTING}

IN_THREADS = {"processes": "its functions run in threads of the driver"}


def pytest_asyncflow_backends() -> dict[str, BackendUnderTest]:
    """Name them; one that needs a scheduler is left out where there is none."""
    room = {"cores": 2, "gpus": 2, "walltime": 0.5}
    backends = {
        "local": BackendUnderTest(lambda: LocalExecutionBackend(cores=2, gpus=2), **room),
        "local-shared": BackendUnderTest(lambda: LocalExecutionBackend(functions="shared", cores=2, gpus=2), **room),
        "local-script": BackendUnderTest(lambda: LocalExecutionBackend(cores=2, gpus=2, scripted=True), **room),
        "local-thread": BackendUnderTest(
            lambda: LocalExecutionBackend(functions="thread", cores=2, gpus=2), IN_THREADS, **room
        ),
        "local-executor": BackendUnderTest(
            lambda: LocalExecutionBackend(ThreadPoolExecutor(2), cores=2, gpus=2), IN_THREADS, **room
        ),
        "noop": BackendUnderTest(NoopExecutionBackend, {"execution": "it runs nothing"}),
    }
    backends |= {
        kind: BackendUnderTest(functools.partial(_emulated, kind), skips, gpus=2, walltime=2.0, patience=1.0, lag=10.0)
        for kind, skips in EMULATED_SKIPS.items()
    }
    if can_run():
        backends["radical_pilot"] = BackendUnderTest(
            lambda: RadicalExecutionBackend(pool=PILOTS), PILOT_SKIPS, lag=5.0, **room
        )
        backends["radical_pilot-raptor"] = BackendUnderTest(
            lambda: RadicalExecutionBackend(pool=RAPTOR_PILOTS), PILOT_SKIPS, walltime=0.5, lag=5.0
        )
    for name, cluster in CLUSTERS.items():
        if cluster:
            make = functools.partial(_slurm, cluster)
            skips = SLURM_SKIPS | (LONG if name == "slurm-24.11" else {})
            backends[name] = BackendUnderTest(make, skips, walltime=5.0, patience=1.0, lag=10.0)
    return backends


@pytest.fixture(autouse=True)
def same_cluster_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests of other tiers have the cluster that they expect, and the commands."""
    for name in ("SLURM_CONF", "PATH"):
        if name in os.environ:
            monkeypatch.setenv(name, os.environ[name])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what says nothing new."""
    special = {item: name for item in items for name in ONLY if name in item.name}
    left_out = [item for item, name in special.items() if item.path.stem not in ONLY[name]]
    config.hook.pytest_deselected(items=left_out)
    kept = (item for item in items if item not in left_out)
    # One pilot ends before the other one starts.
    items[:] = sorted(kept, key=lambda item: _pool_of(item.nodeid) is RAPTOR_PILOTS)
    LEFT.update(pool for item in items if (pool := _pool_of(item.nodeid)) is not None)


def _pool_of(nodeid: str) -> PilotPool | None:
    if "/contract/" not in nodeid or "[radical_pilot" not in nodeid:
        return None
    return RAPTOR_PILOTS if "[radical_pilot-raptor" in nodeid else PILOTS


def pytest_runtest_logfinish(nodeid: str) -> None:
    """End a pilot with the last of its tests: the processes of one that idles take much of two cores."""
    pool = _pool_of(nodeid)
    if pool is not None:
        LEFT[pool] -= 1
        if not LEFT[pool]:
            asyncio.run(pool.close())


def pytest_unconfigure() -> None:
    """End what is left of a run that was broken off."""
    for pool in (PILOTS, RAPTOR_PILOTS):
        asyncio.run(pool.close())


PILOT_SKIPS = {
    "nodes": "one machine is one node",
    "test_a_thousand_tasks": "RADICAL-Pilot starts some 18 a second: scripts/bench radical_pilot runs thousands",
}

SLURM_SKIPS = {
    "gpus": "the development cluster has none",
    "test_cwd": "a directory that the driver does not see may be there on the nodes: the job fails with STAGING",
}

LONG = dict.fromkeys(
    ("test_a_thousand_tasks", "test_a_long_chain_of_links"), "it takes long, and has run on another version"
)

A_DIRECTORY_ELSEWHERE = SLURM_SKIPS["test_cwd"]

LONG_HERE = {"test_a_thousand_tasks": "it takes long, and has run on PBS"}

EMULATED_SKIPS = {
    "pbs": {"test_cwd": A_DIRECTORY_ELSEWHERE},
    "pbs_classic": LONG_HERE
    | {
        "test_cwd": A_DIRECTORY_ELSEWHERE,
        "gpus": "Torque tells a job of its GPUs in a file, and not as CUDA_VISIBLE_DEVICES",
    },
    "lsf": LONG_HERE | {"test_cwd": A_DIRECTORY_ELSEWHERE},
}


@functools.cache
def _emulation(kind: str) -> Emulation:
    """Start an emulated batch system, for all tests of this process; it ends with it."""
    # Ten seconds, as pbs_mom takes; LSF ends all that belongs to a job in any case.
    delay = 0.5 if kind == "lsf" else 10.0
    emulation = Emulation(kind, nodes=4, cores=8, gpus=4, kill_delay=delay, walltime_delay=0.2)
    emulation.start()
    return emulation


def _emulated(kind: str) -> PsijExecutionBackend:
    # The commands of PBS and Torque have the same names: those of the backend under test come first.
    others = [path for path in os.environ["PATH"].split(os.pathsep) if "/emulated-" not in path]
    os.environ["PATH"] = os.pathsep.join([str(_emulation(kind).bin), *others])
    return PsijExecutionBackend(kind, poll_interval=1.0, submit_rate=200.0, grace=10.0, patience=2)


def _slurm(cluster: str) -> PsijExecutionBackend:
    os.environ.update(settings_for(cluster))
    # The cluster gives 16 MB where nothing is asked for.
    defaults = {"mem_per_rank": "150MB"}
    return PsijExecutionBackend(defaults=defaults, poll_interval=2.0, submit_rate=200.0, grace=20.0, patience=2)
