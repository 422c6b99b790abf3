"""Pilots of a machine that has a site profile; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from asyncflow_hpc.errors import ConfigurationError

from ..site import SiteRules
from .settings import MB

__all__ = ["resources_of"]

_KINDS = ("local", "slurm")

_OPTIONS = ("qos", "constraint", "reservation")


def resources_of(rules: SiteRules, resources: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Say what pilots a site is for.

    Args:
        rules: of the site; of none, they say nothing.
        resources: as the caller wrote them; they go before what the site says.

    Raises:
        ConfigurationError: pilots cannot be started through the site's scheduler.
    """
    site = rules.site
    if site is None:
        return resources
    if site.scheduler not in _KINDS:
        raise ConfigurationError(
            f"site '{site.name}' has the scheduler '{site.scheduler}', and pilots are started through Slurm or on this"
            " machine only: give `resources` with a resource of RADICAL-Pilot's own configuration"
        )
    machine, defaults = rules.machine(), rules.defaults
    found: dict[str, Any] = {
        "resource": site.scheduler,
        "cores_per_node": machine.cores,
        "gpus_per_node": machine.gpus or None,
    }
    if site.scheduler == "slurm":
        options = {name: getattr(defaults, name) for name in _OPTIONS}
        found |= {
            "mem_per_node": None if machine.memory is None else machine.memory // MB,
            "queue": defaults.queue,
            "project": defaults.account,
            "nodes": defaults.nodes,
            "runtime": None if defaults.walltime is None else math.ceil(defaults.walltime / 60),
            "slurm": {name: value for name, value in options.items() if value is not None} | dict(defaults.slurm),
        }
    said = dict(resources or {})
    native = {**(found.get("slurm") or {}), **(said.get("slurm") or {})}
    merged = {key: value for key, value in {**found, **said}.items() if value is not None}
    return {**merged, "slurm": native} if native else {key: value for key, value in merged.items() if key != "slurm"}
