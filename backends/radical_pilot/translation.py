"""From a task to what RADICAL-Pilot is told of it; pure.

RADICAL-Pilot holds the room of a task and starts its one run script there; the ranks are started in that script, as on
every other backend. So a task of several ranks on one node is one process of many cores to RADICAL-Pilot. On several
nodes it is one process on each of them: the first runs the script, and the others hold their node until it has ended.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from asyncflow_hpc.errors import TaskDescriptionError, UnsupportedTaskError, nearest
from asyncflow_hpc.task import TaskDescription

from .settings import MB, Room

__all__ = ["NATIVE_KEYS", "Shape", "native_options", "plain_name", "rp_task", "shape_of"]

# Keys of RADICAL-Pilot's own that may go along; all else is said in our words, or by the backend itself. It checks no
# types, and a wrong one stops its agent for good.
_KINDS: dict[str, tuple[type, ...]] = {
    "gpu_type": (str,),
    "metadata": (dict,),
    "post_launch": (list,),
    "pre_launch": (list,),
    "priority": (int,),
    "tags": (dict,),
    "timeout": (int, float),
}
NATIVE_KEYS = frozenset(_KINDS)


class Shape(NamedTuple):
    """How a task lies in a pilot.

    Attributes:
        holders: nodes.
        cores, gpus, memory: on each of them; bytes.
    """

    holders: int
    cores: int
    gpus: int
    memory: int

    @property
    def all_cores(self) -> int:
        """Cores on all nodes."""
        return self.holders * self.cores


def shape_of(description: TaskDescription, room: Room) -> Shape:
    """Find out how a task lies in a pilot.

    Raises:
        UnsupportedTaskError: no pilot could ever hold it.
    """
    ranks, cores = description.ranks, description.cores_per_rank
    holders = _holders(description, room)
    each = math.ceil(ranks / holders)
    shape = Shape(holders, each * cores, each * description.gpus_per_rank, each * (description.mem_per_rank or 0))
    if holders > 1 and not room.spans:
        raise UnsupportedTaskError("tasks on several nodes need pilots through Slurm with launch 'srun'")
    if holders > room.nodes:
        raise UnsupportedTaskError(f"it needs {holders} nodes, and a pilot has {room.nodes}")
    for what, needed, there in (
        ("cores", shape.cores, room.cores),
        ("GPUs", shape.gpus, room.gpus),
        ("bytes of memory", shape.memory, room.memory),
    ):
        if there is not None and needed > there:
            raise UnsupportedTaskError(f"it needs {needed} {what} on a node, and a node of a pilot has {there}")
    return shape


def _holders(description: TaskDescription, room: Room) -> int:
    if description.nodes is not None:
        return min(description.nodes, description.ranks)
    if description.ranks_per_node is not None:
        return math.ceil(description.ranks / description.ranks_per_node)
    if not room.spans:
        return 1
    most = description.ranks
    for there, needed in (
        (room.cores, description.cores_per_rank),
        (room.gpus, description.gpus_per_rank),
        (room.memory, description.mem_per_rank or 0),
    ):
        if there and needed:
            most = min(most, there // needed)
    return math.ceil(description.ranks / max(most, 1))


def native_options(description: TaskDescription, given: Mapping[str, Any]) -> dict[str, Any]:
    """Take the keys of RADICAL-Pilot's own.

    Args:
        given: the task description as the user wrote it, with such keys among the others.

    Raises:
        TaskDescriptionError: a key that is none, or that the backend sets itself.
    """
    for key in description.radical_pilot:
        if key not in NATIVE_KEYS:
            raise TaskDescriptionError(
                f"task_description['radical_pilot']: {key!r} cannot be set; {nearest(key, NATIVE_KEYS)}"
            )
    native = {**{key: value for key, value in given.items() if key in NATIVE_KEYS}, **description.radical_pilot}
    for key, value in native.items():
        kinds = _KINDS[key]
        if not isinstance(value, kinds) or isinstance(value, bool):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise TaskDescriptionError(f"task_description: {key!r} of RADICAL-Pilot must be {names}, not {value!r}")
        if isinstance(value, list) and not all(isinstance(line, str) for line in value):
            raise TaskDescriptionError(f"task_description: {key!r} of RADICAL-Pilot must be a list of lines")
    return native


def plain_name(name: str) -> str:
    """Make a name that RADICAL-Pilot can have in its shell scripts."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)


def rp_task(
    uid: str, name: str, argv: list[str], shape: Shape, room: Room, native: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe a task to RADICAL-Pilot.

    Args:
        uid: never used before in its session.
        argv: starts its run script.
    """
    task: dict[str, Any] = {
        "uid": uid,
        "name": plain_name(name),
        # The one field that goes into its shell script as it is: arguments are put into double quotes there.
        "executable": shlex.join(argv),
        "ranks": shape.holders,
        "cores_per_rank": shape.cores,
    }
    if shape.gpus:
        task.update(gpus_per_rank=float(shape.gpus), gpu_type="CUDA")
    if shape.memory and room.memory is not None:
        task["mem_per_rank"] = math.ceil(shape.memory / MB)
    if shape.holders > 1:
        task.update(ranks_per_node=1, use_mpi=True)
    # Its own time limit would end the task without a cause; we keep it.
    task.update({key: value for key, value in native.items() if key != "timeout"})
    return task
