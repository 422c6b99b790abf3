"""What pilots to start: from a description in RADICAL-Pilot's own words, or the profile of a site; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from asyncflow_hpc.errors import ConfigurationError, nearest

from .environment import CONFIGURATION

__all__ = ["PilotSettings", "Room", "settings_for"]

MB = 1024 * 1024

# Minutes that a pilot runs where nothing is said; on this machine it ends with the script anyway.
_RUNTIME = {"local": 7 * 24 * 60, "slurm": 60, "other": 60}

_OWN_KEYS = frozenset({"cores_per_node", "gpus_per_node", "mem_per_node", "launch", "slurm"})
_PILOT_KEYS = frozenset(
    """
    resource access_schema runtime queue project job_name nodes backup_nodes cores gpus memory sandbox app_comm
    input_staging output_staging prepare_env cleanup
    """.split()  # noqa: SIM905
)

Kind = Literal["local", "slurm", "other"]


class Room(NamedTuple):
    """What one pilot holds.

    Attributes:
        nodes, cores, gpus, memory: of the pilot, and of each of its nodes; bytes; None where that is not known.
        spans: a task may lie on several nodes.
    """

    nodes: int
    cores: int | None
    gpus: int = 0
    memory: int | None = None
    spans: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PilotSettings:
    """How the pilots of a pool are started.

    Attributes:
        kind: "local", "slurm", or "other" for a resource of RADICAL-Pilot's own configuration.
        description: in RADICAL-Pilot's words, without a uid.
        configuration: of the resource, where it is ours.
        options: for sbatch.
        by_step: each task is a step of the job, not a process of the node where the agent is.
        runtime: seconds that a pilot may run.
    """

    kind: Kind
    description: Mapping[str, Any]
    room: Room
    configuration: Mapping[str, Any] | None = None
    options: Mapping[str, str | bool] = field(default_factory=dict)
    by_step: bool = False
    runtime: float


def settings_for(resources: Mapping[str, Any] | None, cores_here: int, memory_here: int | None = None) -> PilotSettings:
    """Settle what pilots to start.

    Args:
        resources: keys of RADICAL-Pilot's PilotDescription, and `cores_per_node`, `gpus_per_node`, `mem_per_node` (MB),
            `launch` ("srun" or "fork") and `slurm` (options of sbatch).
        cores_here, memory_here: of this machine.

    Raises:
        ConfigurationError: an unknown key, or a value that cannot be.
    """
    asked = dict(resources or {})
    for key in asked:
        if key not in _PILOT_KEYS | _OWN_KEYS:
            raise ConfigurationError(f"unknown key {key!r} in resources; {nearest(key, _PILOT_KEYS | _OWN_KEYS)}")
    runtime = asked.get("runtime", 1)
    if isinstance(runtime, bool) or not isinstance(runtime, (int, float)) or runtime <= 0:
        raise ConfigurationError(f"resources['runtime'] must be a number of minutes above zero, not {runtime!r}")
    for key in ("cores", "gpus", "nodes", "cores_per_node", "gpus_per_node", "mem_per_node", "memory"):
        value = asked.get(key, 1)
        least = 0 if key.startswith("gpus") else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigurationError(f"resources[{key!r}] must be a whole number from {least} on, not {value!r}")
    resource = asked.get("resource", "local.localhost")
    if not isinstance(resource, str) or not resource:
        raise ConfigurationError(f"resources['resource'] must be a name, not {resource!r}")
    if resource in ("local.localhost", "local"):
        return _local(asked, cores_here, memory_here)
    if resource == "slurm":
        return _slurm(asked)
    return _other(asked)


def _local(asked: Mapping[str, Any], cores_here: int, memory_here: int | None) -> PilotSettings:
    if asked.get("nodes", 1) != 1:
        raise ConfigurationError("resources['nodes']: this machine is one node")
    cores = asked.get("cores") or asked.get("cores_per_node") or cores_here
    gpus = asked.get("gpus") or asked.get("gpus_per_node") or 0
    room = Room(1, cores, gpus, memory_here)
    return PilotSettings(
        kind="local",
        runtime=60.0 * asked.get("runtime", _RUNTIME["local"]),
        description={**_described(asked, "local"), "cores": cores, "gpus": gpus},
        room=room,
        configuration=_configuration(room, "asyncflow_local", "FORK", "FORK"),
    )


def _slurm(asked: Mapping[str, Any]) -> PilotSettings:
    cores = asked.get("cores_per_node")
    if cores is None:
        raise ConfigurationError("resources['cores_per_node'] is needed: how many cores has a node of this machine?")
    nodes = asked.get("nodes") or math.ceil(asked.get("cores", 1) / cores)
    launch = asked.get("launch", "srun")
    if launch not in ("srun", "fork") or (launch == "fork" and nodes > 1):
        raise ConfigurationError("resources['launch'] must be 'srun', or on one node 'fork'")
    memory = asked.get("mem_per_node")
    by_step = launch == "srun"
    gpus = asked.get("gpus_per_node", 0)
    room = Room(nodes, cores, gpus, None if memory is None else memory * MB, spans=by_step)
    described = _described(asked, "slurm")
    options: dict[str, str | bool] = {
        "nodes": str(nodes),
        "ntasks": str(nodes * cores),
        "time": str(described["runtime"]),
        "no-requeue": True,
    }
    if memory is not None:
        options["mem"] = f"{memory}M"
    if gpus:
        options["gpus-per-node"] = str(gpus)
    for key, option in (("queue", "partition"), ("project", "account"), ("job_name", "job-name")):
        if asked.get(key):
            options[option] = str(asked[key])
    options.update(asked.get("slurm", {}))
    return PilotSettings(
        kind="slurm",
        runtime=60.0 * described["runtime"],
        description={**described, "nodes": nodes},
        room=room,
        configuration=_configuration(room, "asyncflow_slurm", *(("SLURM", "SRUN") if by_step else ("FORK", "FORK"))),
        options=options,
        by_step=by_step,
    )


def _other(asked: Mapping[str, Any]) -> PilotSettings:
    own = sorted(_OWN_KEYS & set(asked) - {"cores_per_node", "gpus_per_node", "mem_per_node"})
    if own:
        raise ConfigurationError(f"resources[{own[0]!r}] is for resource 'slurm'")
    described: dict[str, Any] = {key: value for key, value in asked.items() if key in _PILOT_KEYS}
    described["runtime"] = math.ceil(asked.get("runtime", _RUNTIME["other"]))
    if "nodes" not in described:
        described.setdefault("cores", 1)
    room = Room(asked.get("nodes", 1), asked.get("cores_per_node"), asked.get("gpus_per_node", 0))
    description = {**described, "exit_on_error": False}
    return PilotSettings(kind="other", description=description, room=room, runtime=60.0 * described["runtime"])


def _described(asked: Mapping[str, Any], kind: str) -> dict[str, Any]:
    left_out = {"resource", "nodes", "cores", "gpus", "memory"}
    return {
        **{key: value for key, value in asked.items() if key in _PILOT_KEYS - left_out},
        # It counts in minutes; on this machine we see to the end ourselves.
        "runtime": math.ceil(asked.get("runtime", _RUNTIME[kind])),
        "resource": f"{CONFIGURATION}.{kind}",
        # Else RADICAL-Pilot interrupts its main thread.
        "exit_on_error": False,
    }


def _configuration(room: Room, executor: str, manager: str, method: str) -> dict[str, Any]:
    """Make a resource configuration; source: the files in radical.pilot/configs, and resource_config.py."""
    configuration: dict[str, Any] = {
        "default_schema": "local",
        "schemas": {
            "local": {
                "job_manager_endpoint": f"{executor}://localhost/",
                "filesystem_endpoint": "file://localhost/",
            }
        },
        "resource_manager": manager,
        # The cores are as they are said to be, and not counted.
        "fake_resources": manager == "FORK",
        "agent_config": "default",
        "agent_scheduler": "CONTINUOUS",
        "agent_spawner": "POPEN",
        "launch_methods": {"order": [method], method: {}},
        "rp_version": "installed",
        "virtenv_mode": "local",
        "python_dist": "default",
        "cores_per_node": room.cores,
        "gpus_per_node": room.gpus,
    }
    if room.memory is not None:
        configuration["mem_per_node"] = room.memory // MB
    return configuration
