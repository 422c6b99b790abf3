"""Fixtures of the fault tier."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.testing import Emulation, emulate
from tests.clusters import (
    CLUSTER,
    CLUSTER_OF_24_11,
    CLUSTER_OF_24_11_WITH_ACCOUNTING,
    CLUSTER_WITH_ACCOUNTING,
    CLUSTER_WITH_CGROUPS,
    settings_for,
)

from .on_emulators import KINDS, QUICK
from .on_emulators import backend as emulated_backend
from .on_slurm import Gate, Wrappers, backend, cluster, directory
from .users import User, somebody


def use(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test run on a cluster."""
    if not cluster:
        pytest.skip("no such Slurm here; scripts/test starts one as root")
    for name, value in settings_for(cluster).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["without accounting", "with accounting", "24.11 with accounting"])
def accounting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the cluster on which a test runs keeps accounting records."""
    clusters = {
        "with accounting": CLUSTER_WITH_ACCOUNTING,
        "24.11 with accounting": CLUSTER_OF_24_11_WITH_ACCOUNTING,
    }
    use(clusters.get(request.param, CLUSTER), monkeypatch)
    return request.param in clusters


@pytest.fixture(params=["the distribution's", "24.11"])
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of each version."""
    use(CLUSTER_OF_24_11 if request.param == "24.11" else CLUSTER, monkeypatch)


@pytest.fixture
def cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster whose jobs are held by cgroups."""
    use(CLUSTER_WITH_CGROUPS, monkeypatch)


@pytest.fixture(scope="module")
def pbs() -> Iterator[None]:
    """The commands of an emulated PBS on PATH."""
    with emulate("pbs", nodes=4, cores=8, **QUICK):
        yield


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """The name of a backend, whose batch system is there; parametrized by the tests."""
    if request.param == "slurm" and not CLUSTER:
        pytest.skip("no Slurm here; scripts/test starts one as root")
    if request.param == "pbs":
        request.getfixturevalue("pbs")
    return str(request.param)


@pytest.fixture
def controller() -> Iterator[None]:
    """A controller that is there again at the end."""
    yield
    cluster("start-controller")


@pytest.fixture
def forgetful(controller: None) -> Iterator[None]:
    """A controller that forgets jobs some seconds after they have ended."""
    conf = directory() / "etc" / "slurm.conf"
    before = conf.read_text()
    _restart_with(conf, before.replace("MinJobAge=300", "MinJobAge=2"))
    yield
    _restart_with(conf, before)


def _restart_with(conf: Path, text: str) -> None:
    cluster("stop-controller")
    conf.write_text(text)
    cluster("start-controller")


@pytest.fixture
async def slurm_flow(root: Path) -> AsyncIterator[WorkflowEngine]:
    """An engine whose tasks are jobs of a real Slurm."""
    async with WorkflowEngine.create(backend(), work_dir=root) as engine:
        yield engine


@pytest.fixture
def user() -> Iterator[User]:
    """An ordinary user."""
    with somebody() as made:
        yield made


@pytest.fixture
def gate(root: Path) -> Gate:
    """What tasks wait for."""
    return Gate(root)


@pytest.fixture
def wrappers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wrappers:
    """Slurm's commands, counted."""
    return Wrappers(tmp_path / "wrappers", monkeypatch)


@pytest.fixture(scope="session", params=KINDS)
def batch_system(request: pytest.FixtureRequest) -> Iterator[Emulation]:
    """An emulated batch system of each kind, for all tests."""
    with Emulation(request.param, nodes=4, cores=8, **QUICK) as emulation:
        yield emulation


@pytest.fixture
def emulated(batch_system: Emulation) -> Iterator[Emulation]:
    """Its commands on PATH, in order at the beginning."""
    with batch_system.on_path():
        yield batch_system
    batch_system.heal()
    batch_system.purge(history=3600.0)


@pytest.fixture
async def emulated_flow(root: Path, emulated: Emulation) -> AsyncIterator[WorkflowEngine]:
    """An engine whose tasks are jobs of an emulated batch system."""
    async with WorkflowEngine.create(emulated_backend(emulated), work_dir=root, retries=0) as engine:
        yield engine
