"""The backends of this project, for the contract suite."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from asyncflow_hpc import LocalExecutionBackend, NoopExecutionBackend
from asyncflow_hpc.testing import BackendUnderTest
from asyncflow_hpc.testing.contract.conftest import *  # noqa: F403

IN_THREADS = {"processes": "its functions run in threads of the driver"}


def pytest_asyncflow_backends() -> dict[str, BackendUnderTest]:
    """Name them; one that needs a scheduler is left out where there is none."""
    room = {"cores": 2, "gpus": 2, "walltime": 0.5}
    return {
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
