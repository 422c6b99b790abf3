"""Installed modules that a worker imports once for all of its calls, where no call can tell.

Importing numpy takes a hundred times as long as forking a process. But a module may do at its import what each process
must do for itself: start threads, open files, set signal handlers, read the task's environment, seed a generator. So a
process is forked that tries it first, and what is kept holds for one environment only.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

__all__ = ["are_harmless", "installed", "keep", "own_environment", "reseed"]

_PLACES = ("site-packages", "dist-packages")


def installed(names: Iterable[str]) -> list[str]:
    """Return those of some imported modules that are installed: a script's own modules may hold anything."""
    return [name for name in names if _is_installed(name)]


def _is_installed(name: str) -> bool:
    origin = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None)
    return isinstance(origin, str) and any(f"/{place}/" in origin for place in _PLACES)


def own_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what of a task's variables does not just say which task it is."""
    return {name: value for name, value in environment.items() if not name.startswith("ASYNCFLOW_")}


def are_harmless(names: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Tell whether importing modules leaves nothing in the process but modules; tried in a process forked for it."""
    pid = os.fork()
    if pid == 0:
        _try(names, environment)
    return os.waitpid(pid, 0)[1] == 0


def _try(names: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        before = _traces()
        _import(names, environment)
        # OpenBLAS, for one, ends its threads before a fork.
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        if _traces() == before and _threads() == 1 and not _generators():
            code = 0
    finally:
        os._exit(code)


def _import(names: Sequence[str], environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    for name in names:
        # What cannot be imported alone is part of another.
        with suppress(Exception):
            importlib.import_module(name)


def _traces() -> list[Any]:
    handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
    printed = [os.fstat(descriptor).st_size for descriptor in (1, 2)]
    return [sorted(os.listdir("/proc/self/fd")), handlers, printed, os.getcwd(), sys.excepthook, signal.getitimer(0)]


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _generators() -> list[Any]:
    """Return generators of random numbers, but for those that `reseed` knows: a fork would repeat the same numbers."""
    known = [getattr(sys.modules.get("random"), "_inst", None), _numpy_generator()]
    kinds = ("random.Random", "numpy.random.mtrand.RandomState", "numpy.random._generator.Generator")
    return [
        one
        for one in gc.get_objects()
        if not any(one is other for other in known)
        and any(f"{kind.__module__}.{kind.__qualname__}" in kinds for kind in type(one).__mro__)
        and type(one).__name__ != "SystemRandom"
    ]


def _numpy_generator() -> Any:
    return getattr(sys.modules.get("numpy.random.mtrand"), "_rand", None)


def reseed() -> None:
    """Give this process random numbers of its own; Python's own module does that by itself."""
    generator = _numpy_generator()
    if generator is not None:
        generator.seed()


def keep(names: Sequence[str], environment: Mapping[str, str]) -> Callable[[int], NoReturn]:
    """Import modules into this process.

    Returns:
        What ends a process that has them: exit(3), as C code may have left something to be done then.
    """
    import ctypes

    _import(names, environment)
    gc.collect()
    gc.freeze()
    leave: Callable[[int], NoReturn] = ctypes.CDLL(None).exit
    return leave
