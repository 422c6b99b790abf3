"""What holds for all tasks of a backend: its own defaults, and what the profile of its site says."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncflow_hpc.errors import ConfigurationError
from asyncflow_hpc.task import TaskDescription

from .remembered import Remembered

if TYPE_CHECKING:
    from asyncflow_hpc.site_model import Site

__all__ = ["Machine", "SiteRules", "site_for"]

log = logging.getLogger(__name__)


def site_for(site: str | os.PathLike[str] | Site | None, scheduler: str | None) -> Site | None:
    """Load the profile of a backend's site.

    Args:
        scheduler: that the backend is for; None for any.

    Raises:
        SiteError: there is none, or it is wrong.
        ConfigurationError: it is for another scheduler.
    """
    if site is None:
        return None
    # Imported only where a site is used.
    from asyncflow_hpc.sites import load_site

    found = load_site(site)
    if scheduler not in (None, found.scheduler):
        raise ConfigurationError(
            f"site '{found.name}' is for backend '{found.scheduler}', not '{scheduler}' (from {found.file})"
        )
    return found


class Machine(NamedTuple):
    """What a site says of its nodes of the first type; bytes of memory."""

    cores: int | None = None
    gpus: int = 0
    memory: int | None = None


class SiteRules:
    """Completes and checks the tasks of a backend.

    Args:
        site: whose profile holds.
        defaults: task description that holds where a task says nothing else; goes before that of the site.

    Attributes:
        defaults: both together.
    """

    def __init__(self, site: Site | None, defaults: Mapping[str, Any] | None = None) -> None:
        self.site = site
        values = dict(defaults or {})
        if site is not None:
            from asyncflow_hpc.site_model import by_qos
            from asyncflow_hpc.sites import merge

            values = merge(site.defaults, by_qos(values, site.queues))
        self.defaults = TaskDescription.from_dict(values)
        self._warned: set[str] = set()
        self._completed = Remembered(self._filled_in)

    def complete(self, description: TaskDescription) -> TaskDescription:
        """Fill in what a task does not say; environment and native options are merged key by key."""
        return self._completed(description)

    def _filled_in(self, description: TaskDescription) -> TaskDescription:
        said, changes = description.given, self._named(description)
        said = said - {"queue", "qos"} | changes.keys()
        for key in self.defaults.given:
            default = getattr(self.defaults, key)
            if key not in said:
                changes[key] = default
            elif isinstance(default, dict):
                changes[key] = {**default, **getattr(description, key)}
        if "queue" in description.given:
            changes.setdefault("queue", None)
        completed = replace(description, **changes) if changes else description
        return completed if self.site is None else _in_site(completed, self.site)

    def _named(self, description: TaskDescription) -> dict[str, Any]:
        """Return the queue and the quality of service that a task names."""
        keys: set[str] = {"queue", "qos"} & description.given
        named: dict[str, Any] = {key: getattr(description, key) for key in keys}
        if self.site is None or not keys:
            return named
        from asyncflow_hpc.site_model import by_qos

        named = by_qos(named, self.site.queues)
        usual = self.site.queues.get(self.defaults.qos or "")
        if "queue" not in named and usual is not None and usual.partition is not None:
            # The default queue is that of another quality of service.
            named["queue"] = self.site.defaults.get("queue")
        return named

    def machine(self) -> Machine:
        """Return what a node of the site has."""
        kind = next(iter(self.site.nodes.values()), None) if self.site is not None else None
        return Machine() if kind is None else Machine(kind.cores, kind.gpus, kind.memory)

    def check(self, description: TaskDescription) -> None:
        """Refuse a completed task that the site would not take.

        Raises:
            TaskDescriptionError, UnsupportedTaskError: names the limit, and the queues that would take it.
        """
        if self.site is None:
            return
        from asyncflow_hpc.limits import check_limits, unknown_queue

        check_limits(self.site, description, os.environ)
        unknown = unknown_queue(self.site, description)
        if unknown is not None:
            self._warn(
                unknown,
                f"the profile of site '{self.site.name}' knows no queue '{unknown}', so its limits are not checked; it"
                f" knows {', '.join(self.site.queues)} (from {self.site.file})",
            )

    def check_place(self, session: Path) -> None:
        """Warn of a session that lies where the site does not want it."""
        if self.site is None:
            return
        from asyncflow_hpc.sites import session_places

        places = session_places(self.site)
        if places and not any(session.resolve().is_relative_to(place.resolve()) for place in places):
            self._warn(
                str(session),
                f"session {session} lies in none of the places that site '{self.site.name}' has for sessions:"
                f" work_dir={str(places[0])!r}",
            )

    def _warn(self, key: str, text: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            log.warning("%s", text)


def _in_site(description: TaskDescription, site: Site) -> TaskDescription:
    changes: dict[str, Any] = {}
    if site.environment.setup:
        changes["pre_exec"] = (*site.environment.setup, *description.pre_exec)
    # One process needs nothing to start it.
    if site.launcher and description.launcher is None and description.ranks > 1:
        changes["launcher"] = site.launcher
    return replace(description, **changes) if changes else description
