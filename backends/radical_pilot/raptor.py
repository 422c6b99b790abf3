"""What RAPTOR is to be in each pilot, and which tasks it can run; pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asyncflow_hpc.errors import ConfigurationError, nearest
from asyncflow_hpc.task import Task, TaskDescription

from ..call_server import SERVE
from .settings import Room

__all__ = [
    "CORES", "SERVER", "STUB", "RaptorSettings",
    "call_task", "raptor_settings", "room_left", "rp_masters", "server_text", "why_not",
]  # fmt: skip

CORES = "ASYNCFLOW_RAPTOR_CORES"
"""The variable that tells a worker how many calls it runs at once."""

SERVER = "ASYNCFLOW_CALL_SERVER"
"""The variable that tells a call server its name."""

STUB = f"""\
import radical.pilot

from {__package__}.raptor_worker import Calls


class CallWorker(Calls, radical.pilot.raptor.Worker):
    pass
"""
"""The file from which RAPTOR loads its workers."""

_SHORT = ("masters", "workers", "cores_per_worker")
_MASTER, _WORKER = ("ranks", "workers"), ("ranks", "cores_per_rank", "worker_type")
_OURS = ("executable", "arguments")

# They go before all tasks, whatever priority those have.
_FIRST = 1 << 30

# Python, the loader and the C library read them when a process starts; that of a call has started long before.
_EARLY = ("PYTHON", "LD_", "DYLD_", "MALLOC_", "GLIBC_", "LC_", "LANG", "TZ")


@dataclass(frozen=True, slots=True)
class RaptorSettings:
    """The masters of one pilot.

    Attributes:
        masters: for each, how many cores each of its workers has.
    """

    masters: tuple[tuple[int, ...], ...]

    @property
    def parts(self) -> list[int]:
        """Cores of each master and worker, in the order in which they start."""
        return [cores for workers in self.masters for cores in (1, *workers)]

    @property
    def calls(self) -> int:
        """How many calls the master with most of them runs at once."""
        return max(sum(workers) for workers in self.masters)


def raptor_settings(config: Mapping[str, Any] | None) -> RaptorSettings | None:
    """Understand a configuration of RAPTOR.

    Args:
        config: `masters`, `workers` of each of them, `cores_per_worker`, all 1 where nothing is said; or, as
            radical.asyncflow has it, `masters` as a list of dicts, each with a list of `workers`.

    Raises:
        ConfigurationError: an unknown key, or a value that cannot be.
    """
    if config is None:
        return None
    _refuse_unknown(config, _SHORT, "raptor_config")
    if not isinstance(config.get("masters", 1), list):
        masters, workers, cores = (_count(config, key, "raptor_config") for key in _SHORT)
        return RaptorSettings(((cores,) * workers,) * masters)
    for key in _SHORT[1:]:
        if key in config:
            raise ConfigurationError(f"raptor_config[{key!r}] does not go with a list of masters: each has its workers")
    found = tuple(_master(master, f"raptor_config['masters'][{at}]") for at, master in enumerate(config["masters"]))
    if not found:
        raise ConfigurationError("raptor_config['masters'] is empty; one at least is needed")
    return RaptorSettings(found)


def _master(master: Any, where: str) -> tuple[int, ...]:
    _refuse_unknown(master, _MASTER, where)
    if _count(master, "ranks", where) != 1:
        raise ConfigurationError(f"{where}['ranks'] must be 1: a master is one process; give more masters")
    workers = master.get("workers")
    if not isinstance(workers, list) or not workers:
        raise ConfigurationError(f"{where}['workers'] must be a list of one worker at least, not {workers!r}")
    cores: list[int] = []
    for at, worker in enumerate(workers):
        here = f"{where}['workers'][{at}]"
        _refuse_unknown(worker, _WORKER, here)
        if worker.get("worker_type", "DefaultWorker") != "DefaultWorker":
            raise ConfigurationError(
                f"{here}['worker_type'] must be 'DefaultWorker', not {worker['worker_type']!r}: functions on several"
                " ranks are not run"
            )
        # Each rank of a worker runs calls for itself.
        cores += [_count(worker, "cores_per_rank", here)] * _count(worker, "ranks", here)
    return tuple(cores)


def _refuse_unknown(found: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(found, Mapping):
        raise ConfigurationError(f"{where} must be a dict, not {found!r}")
    for key in found:
        if key in _OURS:
            raise ConfigurationError(f"{where}[{key!r}] cannot be set: masters and workers are those of the backend")
        if key not in known:
            raise ConfigurationError(f"unknown key {key!r} in {where}; {nearest(str(key), known)}")


def _count(found: Mapping[str, Any], key: str, where: str) -> int:
    value = found.get(key, 1)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{where}[{key!r}] must be a whole number from 1 on, not {value!r}")
    return value


def room_left(room: Room, settings: RaptorSettings | None) -> Room:
    """Say what masters and workers leave of a pilot to all other tasks.

    Raises:
        ConfigurationError: they do not fit in, or leave nothing.
    """
    if settings is None or room.cores is None:
        return room
    free = [room.cores] * room.nodes
    for cores in settings.parts:
        # As RADICAL-Pilot does: on the first node that has room.
        at = next((at for at, left in enumerate(free) if left >= cores), None)
        if at is None:
            raise ConfigurationError(
                f"raptor_config: its masters and workers need {sum(settings.parts)} cores, {max(settings.parts)} of"
                f" them on one node, and a pilot has {room.nodes} x {room.cores}: give fewer workers, or a larger pilot"
            )
        free[at] -= cores
    most = max(free)
    if most == 0:
        raise ConfigurationError(
            f"raptor_config: its masters and workers take all {sum(free) + sum(settings.parts)} cores of a pilot, and"
            " tasks that RAPTOR cannot run need one at least"
        )
    return room._replace(nodes=free.count(most), cores=most)


def rp_masters(settings: RaptorSettings, pilot: str, file: str) -> dict[str, list[dict[str, Any]]]:
    """Describe masters and their workers to RADICAL-Pilot.

    Args:
        pilot: its uid.
        file: path of a file that holds STUB.

    Returns:
        For each master's uid, its description and those of its workers.
    """
    described = {}
    for number, workers in enumerate(settings.masters):
        master = f"{pilot}.m{number}"
        common = {"pilot": pilot, "priority": _FIRST, "named_env": "rp", "ranks": 1}
        parts: list[dict[str, Any]] = [
            {
                **common,
                "uid": master,
                "mode": "raptor.master",
                "executable": "radical-pilot-raptor-master",
                "arguments": ["", "Master"],
                "cores_per_rank": 1,
            }
        ]
        for at, cores in enumerate(workers):
            worker = {
                **common,
                "uid": f"{master}.w{at}",
                "mode": "raptor.worker",
                "raptor_id": master,
                "executable": "radical-pilot-raptor-worker",
                "arguments": [file, "CallWorker", master],
                "cores_per_rank": cores,
                "environment": {CORES: str(cores)},
            }
            parts.append(worker)
        described[master] = parts
    return described


def why_not(
    task: Task, description: TaskDescription, native: Mapping[str, Any], setup: tuple[str, ...] = ()
) -> str | None:
    """Say why RAPTOR cannot run a task; None where it can.

    Args:
        native: options of RADICAL-Pilot's own.
        setup: lines that every task has before its own ones, and that a call server has run.
    """
    if task.get("function") is None:
        return "it is no function"
    if task.get("is_service"):
        return "it is a service"
    plain = TaskDescription()
    for key in ("ranks", "ranks_per_node", "nodes", "cores_per_rank", "gpus_per_rank", "mem_per_rank", "launcher"):
        if getattr(description, key) != getattr(plain, key):
            return f"{key} is {getattr(description, key)!r}"
    if description.pre_exec != setup or description.post_exec:
        return "it has shell lines of its own"
    early = [name for name in description.environment if name.startswith(_EARLY)]
    if early:
        return f"{early[0]} is read when a process starts"
    others = sorted(set(native) - {"timeout"})
    return f"{others[0]!r} is an option of RADICAL-Pilot's own" if others else None


def call_task(uid: str, name: str, words: list[str]) -> dict[str, Any]:
    """Describe a call to RADICAL-Pilot.

    Args:
        words: sandbox, starter, and what it starts.
    """
    return {"uid": uid, "name": name, "mode": "task.function", "function": "call", "args": words, "raptor_id": ""}


def server_text(python: str, setup: tuple[str, ...]) -> str:
    """Write the script that starts a call server, to be sourced.

    Args:
        setup: lines of shell text before it.
    """
    lines = [f"{{ {line}\n}} >&2 || exit" for line in setup]
    start = " ".join(shlex.quote(word) for word in (python, "-c", SERVE))
    return "\n".join([*lines, f'exec {start} "${SERVER}"', ""])
