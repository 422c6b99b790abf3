"""Ranks that a real MPI of this machine starts, which no other test finds: for an ordinary user, as it refuses root."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.faults.users import User, somebody
from tests.surroundings import MPIEXEC

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MPIEXEC, reason="there is no mpiexec on PATH: apt-get install openmpi-bin"),
]

SCRIPT = """
import asyncio, sys
from asyncflow_hpc import WorkflowEngine

# There may be fewer cores than ranks, in a container above all.
ENVIRONMENT = {"OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}

async def main():
    async with WorkflowEngine.create(work_dir=sys.argv[1], retries=0) as flow:
        @flow.executable_task(task_description={"ranks": 3, "environment": ENVIRONMENT})
        async def ranks():
            return "echo $ASYNCFLOW_RANK of $ASYNCFLOW_SIZE, ${OMPI_COMM_WORLD_RANK-${PMI_RANK-none}} of the MPI"

        print(*sorted((await ranks()).splitlines()), sep="\\n")

asyncio.run(main())
"""


@pytest.fixture
def user() -> Iterator[User]:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with somebody() as made:
        yield made


@pytest.mark.parametrize("kind", ["pbs", "pbs_classic", "lsf"])
def test_ranks(user: User, kind: str) -> None:
    words = ["-m", "asyncflow_hpc.testing.emulators", kind, "--nodes", "1", "--", user.python]
    path = f"{os.path.dirname(MPIEXEC)}{os.pathsep}{os.environ['PATH']}"
    process = user.start(*words, user.script(SCRIPT), "sessions", ASYNCFLOW_BACKEND=kind, PATH=path)
    out, err = process.communicate(timeout=100)
    assert out.splitlines() == [f"{rank} of 3, {rank} of the MPI" for rank in range(3)], err
