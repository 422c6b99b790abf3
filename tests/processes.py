"""Which tests run in one process, one after the other, where pytest has several (-n)."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from .clusters import CLUSTER_FOR_PILOTS

BACKENDS = (
    "local-executor",
    "local-script",
    "local-thread",
    "local",
    "lsf",
    "noop",
    "pbs_classic",
    "pbs",
    "radical_pilot-raptor",
    "radical_pilot",
    "slurm-24.11",
    "slurm",
)

_CLUSTERS = {
    "slurm": "the Slurm",
    "slurm-24.11": "the Slurm 24.11 with accounting",
}

# What is in the names of fault tests that are not on the first of them.
_ELSEWHERE = {
    "[with accounting": "the Slurm with accounting",
    "[24.11 with accounting": "the Slurm 24.11 with accounting",
    "[24.11": "the Slurm 24.11",
    "test_slurm_cgroups.py": "the Slurm with cgroups",
}

# One pilot at a time: the two dozen processes of one take half a core, whether it has work or not.
_PILOTS = "the pilots"
_WITH_PILOTS = ("test_radical_pilot.py", "test_raptor.py", "test_outlived_pilots.py")
if CLUSTER_FOR_PILOTS:
    _WITH_PILOTS += ("test_radical_pilot_slurm.py",)

# The longest first; what is not named comes after them.
_ORDER = (_PILOTS, "the Slurm", "contract of ")

_BACKEND = re.compile(rf"[\[-]({'|'.join(map(re.escape, BACKENDS))})[\]-]")


def shared_by(nodeid: str) -> str:
    """Name what only one test may use at a time: a cluster, an emulated batch system, a pilot, what a file shares."""
    path = nodeid.partition("::")[0]
    found = _BACKEND.search(nodeid.partition("::")[2])
    if path.endswith(_WITH_PILOTS) and "[with accounting" not in nodeid:
        return _PILOTS
    if "/faults/" in f"/{path}" and "slurm" in path:
        return next((name for start, name in _ELSEWHERE.items() if start in nodeid), "the Slurm")
    if found is None:
        return path
    if found[1].startswith("radical_pilot"):
        return _PILOTS
    if found[1] in _CLUSTERS and re.search("/(contract|faults)/", f"/{path}"):
        return _CLUSTERS[found[1]]
    if "/contract/" in f"/{path}":
        return f"contract of {found[1]}"
    return f"{path} on {found[1]}" if "/faults/" in f"/{path}" else path


def _rank(item: pytest.Item) -> int:
    shared = shared_by(item.nodeid)
    return next((rank for rank, name in enumerate(_ORDER) if shared.startswith(name)), len(_ORDER))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that nothing of it is left when all else is done."""
    items.sort(key=_rank)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let the tests of pilots go first: the sooner they end, the sooner the others have all cores."""
    if os.geteuid() == 0 and "PYTEST_XDIST_WORKER" in os.environ:
        os.setpriority(os.PRIO_PROCESS, 0, 0 if shared_by(item.nodeid) == _PILOTS else 5)


class SharedScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a process all tests that share something."""

    def _split_scope(self, nodeid: str) -> str:
        return shared_by(nodeid)


def pytest_xdist_make_scheduler(config: Any, log: Any) -> SharedScheduling:
    """Take the place of xdist's own choices: its groups by mark do nothing with pytest 9.2."""
    return SharedScheduling(config, log)
