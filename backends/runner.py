"""The runner in a session: one copy, beside the functions that stage files, and the step of tasks with lines."""

from __future__ import annotations

import hashlib
import os
import uuid
from functools import lru_cache

from asyncflow_hpc.data import BOOKKEEPING

from .runner_text import RUNNER, STEP
from .staging.shell import FUNCTIONS

__all__ = ["STAGE", "runner_place", "write_runner"]

STAGE = (
    "# Functions that stage files, for attempts that have some.\n# shellcheck shell=sh disable=SC2034,SC2154\n"
    + FUNCTIONS
)

_TEXTS = {"run.sh": RUNNER, "stage.sh": STAGE, "step.sh": STEP}


@lru_cache(64)
def runner_place(session: str) -> str:
    """Return the directory of a session in which the runner lies; another version of it has another one."""
    digest = hashlib.sha256("".join(_TEXTS.values()).encode()).hexdigest()[:12]
    return f"{session}/{BOOKKEEPING}/runner.{digest}"


def write_runner(session: str) -> str:
    """Write the runner into a session, unless it is there; return its directory.

    Raises:
        OSError: it cannot be written.
    """
    place = runner_place(session)
    if not os.path.isdir(place):
        part = f"{place}.{uuid.uuid4().hex[:8]}.part"
        os.makedirs(part, 0o700)
        for name, text in _TEXTS.items():
            with open(os.open(f"{part}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        try:
            os.rename(part, place)
        except OSError:
            # Another driver or thread was faster; rename(2) replaces no directory that holds files.
            if not os.path.isdir(place):
                raise
            for name in _TEXTS:
                os.unlink(f"{part}/{name}")
            os.rmdir(part)
    return place
