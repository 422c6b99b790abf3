"""The backends of this project, for the contract suite."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from asyncflow_hpc import LocalExecutionBackend, NoopExecutionBackend
from asyncflow_hpc.backends.psij import PsijExecutionBackend
from asyncflow_hpc.testing import BackendUnderTest
from asyncflow_hpc.testing.contract.conftest import *  # noqa: F403

IN_THREADS = {"processes": "its functions run in threads of the driver"}


def pytest_asyncflow_backends() -> dict[str, BackendUnderTest]:
    """Name them; one that needs a scheduler is left out where there is none."""
    room = {"cores": 2, "gpus": 2, "walltime": 0.5}
    backends = {
        "local": BackendUnderTest(lambda: LocalExecutionBackend(cores=2, gpus=2), **room),
        "local-script": BackendUnderTest(lambda: LocalExecutionBackend(cores=2, gpus=2, scripted=True), **room),
        "local-thread": BackendUnderTest(
            lambda: LocalExecutionBackend(functions="thread", cores=2, gpus=2), IN_THREADS, **room
        ),
        "local-executor": BackendUnderTest(
            lambda: LocalExecutionBackend(ThreadPoolExecutor(2), cores=2, gpus=2), IN_THREADS, **room
        ),
        "noop": BackendUnderTest(NoopExecutionBackend, {"execution": "it runs nothing"}),
    }
    # Set by scripts/test, which starts a cluster.
    if os.environ.get("ASYNCFLOW_TEST_SLURM"):
        backends["slurm"] = BackendUnderTest(_slurm, SLURM_SKIPS, walltime=5.0, patience=1.0, lag=10.0)
    return backends


SLURM_SKIPS = {
    "gpus": "the development cluster has none",
    "test_cwd": "a directory that the driver does not see may be there on the nodes: the job fails with STAGING",
}


def _slurm() -> PsijExecutionBackend:
    # The cluster gives 16 MB where nothing is asked for.
    defaults = {"mem_per_rank": "150MB"}
    return PsijExecutionBackend(defaults=defaults, poll_interval=2.0, submit_rate=200.0, grace=20.0, patience=2)
