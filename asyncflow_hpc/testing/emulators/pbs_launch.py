"""How PBS starts the script of a job: the login shell, its environment, its output."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import pbs_jobs
from .answers import Request
from .model import Launch
from .pbs_submit import Asked

if TYPE_CHECKING:
    from .pbs import Pbs

__all__ = ["launch"]

# What a batch job has in its environment without -V.
_LOCALE = "C.UTF-8"


def launch(pbs: Pbs, request: Request, asked: Asked, name: str, number: str) -> Launch:
    """Say how the script of a job is started."""
    script = asked.script if not asked.argv else f"exec {shlex.join(asked.argv)}\n".encode()
    shell = asked.options.get("S", "").partition("@")[0].partition(",")[0]
    joined = asked.options.get("j", "n") in ("oe", "eo")
    output, errors = (_stream(request, asked, letter, name, number) for letter in "oe")
    return Launch(
        shell=shell or pwd.getpwuid(os.getuid()).pw_shell or "/bin/sh",
        script=script,
        environment=_environment(pbs, request, asked),
        directory=pbs.batch.settings.home or pwd.getpwuid(os.getuid()).pw_dir,
        umask=int(asked.attributes.get("umask", "077"), 8),
        output=errors if asked.options.get("j") == "eo" else output,
        errors=errors,
        joined=joined,
    )


def _stream(request: Request, asked: Asked, letter: str, name: str, number: str) -> str:
    path = asked.options.get(letter, "").rpartition(":")[2]
    standard = f"{name}.{letter}{number}"
    path = os.path.join(request.directory, path or standard)
    return os.path.join(path, standard) if os.path.isdir(path) else path


def _environment(pbs: Pbs, request: Request, asked: Asked) -> Mapping[str, str]:
    given = request.environment
    home = pbs.batch.settings.home or pwd.getpwuid(os.getuid()).pw_dir
    own = {"HOME": home, "LOGNAME": pbs.user, "USER": pbs.user, "SHELL": "/bin/sh"}
    found = dict(given) if "V" in asked.options else {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": _LOCALE}
    for part in filter(None, asked.options.get("v", "").split(",")):
        name, equals, value = part.partition("=")
        found[name] = value if equals else given.get(name, "")
    return {**found, **own, **pbs_jobs.variables(pbs, request, asked)}
