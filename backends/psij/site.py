"""The settings of a batch backend: what its caller says, else what its site says, else our own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncflow_hpc.errors import ConfigurationError

from ..site import SiteRules, site_for

if TYPE_CHECKING:
    from asyncflow_hpc.site_model import Site

__all__ = ["Settings", "check_seconds", "settings_for"]

SUBMIT_RATE = 20.0
MAX_QUEUED = 1000
POLL_INTERVAL = 10.0

# Seconds between two looks at the queue while jobs come and go, where the site does not ask for more.
SHORTEST_INTERVAL = 1.0

# Seconds: a year.
_LONGEST = 31_536_000


@dataclass(frozen=True, slots=True)
class Settings:
    """How a batch backend works.

    Attributes:
        scheduler: kind of the scheduler.
        rules: for its tasks.
        submit_rate: jobs a second at most.
        max_queued: jobs in the queue at most.
        shortest_interval: seconds between two looks at the queue while jobs come and go.
        poll_interval: seconds between two looks at the queue at most.
        python: interpreter on the nodes.
    """

    scheduler: str
    rules: SiteRules
    submit_rate: float
    max_queued: int
    shortest_interval: float
    poll_interval: float
    python: str


def settings_for(
    site: str | os.PathLike[str] | Site | None,
    scheduler: str | None,
    defaults: Mapping[str, Any] | None,
    **said: Any,
) -> Settings:
    """Settle what holds.

    Args:
        said: submit_rate, max_queued, poll_interval and python as the caller gave them; None where it did not.

    Raises:
        ConfigurationError: a number that is none, or a site that is for another scheduler.
    """
    found = site_for(site, scheduler)
    values: dict[str, Any] = {
        "submit_rate": SUBMIT_RATE,
        "max_queued": MAX_QUEUED,
        "shortest_interval": SHORTEST_INTERVAL,
        "poll_interval": POLL_INTERVAL,
        "python": sys.executable,
    }
    rules = SiteRules(found, defaults)
    for layer in ({} if found is None else _of_site(found), said):
        values |= {key: value for key, value in layer.items() if value is not None}
    if said["poll_interval"] is not None:
        values["shortest_interval"] = SHORTEST_INTERVAL
    for key in ("submit_rate", "max_queued", "poll_interval"):
        value = values[key]
        # NaN is neither above zero nor not.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ConfigurationError(f"{key} must be a number above zero, not {value!r}")
    check_seconds(poll_interval=values["poll_interval"])
    return Settings(scheduler or (found.scheduler if found else "slurm"), rules, **values)


def check_seconds(**values: Any) -> None:
    """Check times: what would never be over would let a task wait for ever.

    Raises:
        ConfigurationError: names the first that is none.
    """
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LONGEST:
            raise ConfigurationError(f"{key} must be a number of seconds from 0 to {_LONGEST}, not {value!r}")


def _of_site(site: Site) -> dict[str, Any]:
    names = (site.defaults.get("queue"), site.defaults.get("qos"))
    limits = [site.queues[name].max_queued for name in names if name in site.queues]
    limits.append(site.polling.max_queued)
    return {
        "submit_rate": site.polling.submit_rate,
        "max_queued": min((limit for limit in limits if limit is not None), default=None),
        "shortest_interval": site.polling.interval,
        "poll_interval": site.polling.interval,
        "python": site.environment.python,
    }
