"""Backends by name, from the entry points of installed packages."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError, UnknownBackendError, nearest

if TYPE_CHECKING:
    from .site_model import Site

__all__ = [
    "GROUP",
    "backend_for",
    "backend_names",
    "broken_backends",
    "load_backend",
    "make_backend",
    "takes_site",
]

log = logging.getLogger(__name__)

GROUP = "asyncflow_hpc.backends"

# Backends that are called as the scheduler of a site.
SCHEDULERS = frozenset({"slurm", "pbs", "pbs_classic", "lsf", "local"})

_CONTRACT = ("submit_tasks", "cancel_task", "shutdown", "register_callback", "get_task_states_map")


def _entries() -> dict[str, EntryPoint]:
    entries: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        # A checkout and an installed copy list the same backend; of two different ones the first found counts.
        if entry.name in entries and entries[entry.name].value != entry.value:
            log.warning(
                "backend '%s' is given twice: %s counts, not %s", entry.name, entries[entry.name].value, entry.value
            )
        entries.setdefault(entry.name, entry)
    return entries


def backend_names() -> list[str]:
    """Return the names of all installed backends, whether or not they load."""
    return sorted(_entries())


def load_backend(name: str) -> Callable[..., Any]:
    """Import a backend's class.

    Raises:
        UnknownBackendError: no installed package has one of that name.
        ConfigurationError: it cannot be imported, or it is no backend.
    """
    entries = _entries()
    if name not in entries:
        raise UnknownBackendError(f"no backend is called {name!r}; {nearest(name, entries)}")
    entry = entries[name]
    try:
        factory = entry.load()
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"backend '{name}' ({entry.value}) cannot be loaded: {error!r}") from error
    missing = [method for method in _CONTRACT if not hasattr(factory, method)]
    if not callable(factory) or missing:
        raise ConfigurationError(f"backend '{name}' ({entry.value}) is no backend: it lacks {', '.join(missing)}")
    return factory  # type: ignore[no-any-return]


def make_backend(name: str, /, **options: Any) -> Any:
    """Make a backend by name; it is not started.

    Args:
        name: as registered.
        options: arguments of its class.
    """
    return load_backend(name)(**options)


def backend_for(site: str | os.PathLike[str] | Site, /, **options: Any) -> Any:
    """Make the backend of a site; it is not started.

    Args:
        site: name of its profile, path of its YAML file, or a loaded one.
        options: further arguments of the backend, which go before what the profile says.

    Raises:
        SiteError: there is no such profile, or it is wrong.
    """
    from .sites import load_site

    found = load_site(site)
    return make_backend(found.scheduler, site=found, **options)


def takes_site(name: str, site: Site) -> bool:
    """Tell whether a backend can be made for a site: it is the one of its scheduler, or takes any.

    Raises:
        UnknownBackendError, ConfigurationError: there is no such backend, or it cannot be loaded.
    """
    if name in SCHEDULERS:
        return name == site.scheduler
    return "site" in inspect.signature(load_backend(name)).parameters


def broken_backends() -> dict[str, Exception]:
    """Try to load every installed backend.

    Returns:
        Those that failed, with the reason.
    """
    broken: dict[str, Exception] = {}
    for name in backend_names():
        try:
            load_backend(name)
        except ConfigurationError as error:
            log.warning("%s", error)
            broken[name] = error
    return broken
