"""The kinds of scheduler that there are, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from asyncflow_hpc.errors import ConfigurationError, nearest

from .dialect import Dialect
from .lsf import Lsf
from .lsf_dialect import LsfDialect
from .pbs import Pbs
from .pbs_classic import PbsClassic
from .pbs_dialect import PbsClassicDialect, PbsDialect
from .scheduler import Scheduler
from .slurm import Slurm
from .slurm_dialect import SlurmDialect

__all__ = ["Kind", "kind_of"]


class Kind(NamedTuple):
    """How a scheduler is asked, and how it is told."""

    scheduler: Scheduler
    dialect: Dialect


_KINDS: dict[str, tuple[Callable[[], Scheduler], Callable[[], Dialect]]] = {
    "slurm": (Slurm, SlurmDialect),
    "pbs": (Pbs, PbsDialect),
    "pbs_classic": (PbsClassic, PbsClassicDialect),
    "lsf": (Lsf, LsfDialect),
}


def kind_of(name: str) -> Kind:
    """Return what is known of a scheduler.

    Raises:
        ConfigurationError: there is none of that name.
    """
    if name not in _KINDS:
        raise ConfigurationError(f"no scheduler is called {name!r}; {nearest(str(name), list(_KINDS))}")
    scheduler, dialect = _KINDS[name]
    return Kind(scheduler(), dialect())
