"""What RADICAL-Pilot is started with: its environment, its resource configuration, and the place for its files.

It builds shell commands from paths without quoting them, so its place must have a plain name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import site
import sys
import tempfile
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncflow_hpc.errors import ConfigurationError

from ..local.ranks import GPU_VARIABLES
from ..psij.commands import clean_environment

if TYPE_CHECKING:
    from .settings import PilotSettings

__all__ = [
    "CONFIGURATION",
    "ERROR",
    "JOB",
    "OPTIONS",
    "can_run",
    "is_installed",
    "is_plain",
    "make_place",
    "prepare_place",
    "process_environment",
    "refuse_environment",
    "starter_text",
    "write_plugins",
]

# Our resource configurations are called `asyncflow.<name>`.
CONFIGURATION = "asyncflow"

# In the sandbox of a pilot: the id of its job, or of its process session here. And what sbatch is told.
JOB, OPTIONS = "asyncflow.job", "sbatch.json"

# Also there: why the pilot could not be submitted.
ERROR = "asyncflow.error"

_PLAIN = re.compile(r"/[A-Za-z0-9_./+=@-]*")

_QUIET = {"RADICAL_REPORT": "FALSE", "RADICAL_LOG_LVL": "ERROR", "RADICAL_PROFILE": "FALSE"}

# What an agent has set for itself, and would hand on to its tasks.
_OF_THE_AGENT = (
    "LC_NUMERIC PROMPT_COMMAND PSIJ_NODEFILE PYTHONNOUSERSITE PYTHONPATH PYTHONUNBUFFERED PYTHONUSERBASE RADICAL_BASE"
    " RADICAL_CONFIG_USER_DIR RADICAL_DEFAULT_IFACE RADICAL_LOG_LVL RADICAL_PILOT_BASE RADICAL_PROFILE RADICAL_REPORT"
    " RADICAL_SMT RP_BOOTSTRAP_0_REDIR RP_VENV_PATH RP_VENV_TYPE VIRTUAL_ENV VIRTUAL_ENV_PROMPT _OLD_VIRTUAL_PATH"
    " _OLD_VIRTUAL_PYTHONHOME _OLD_VIRTUAL_PYTHONPATH"
)

_DESCRIPTORS = """\
from packaging.version import Version
from psij.descriptor import Descriptor

__PSI_J_EXECUTORS__ = [
    Descriptor(name=name, version=Version("1.0"), cls=f"asyncflow_executors.{cls}")
    for name, cls in (("asyncflow_local", "LocalPilots"), ("asyncflow_slurm", "SlurmPilots"))
]
"""

# Loaded by each Python of RADICAL-Pilot: it listens on all addresses, and cannot be told otherwise.
_LOOPBACK = """\
import importlib.machinery
import os
import sys

import zmq

_bind = zmq.Socket.bind


def bind(self, address):
    return _bind(self, address.replace("tcp://*:", "tcp://127.0.0.1:"))


zmq.Socket.bind = bind

# The one that would be loaded if this one were not here.
_rest = [path for path in sys.path if path != os.path.dirname(__file__)]
_next = importlib.machinery.PathFinder.find_spec("sitecustomize", _rest)
if _next is not None and _next.origin:
    with open(_next.origin, encoding="utf-8") as _file:
        exec(compile(_file.read(), _next.origin, "exec"))
"""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_installed() -> bool:
    """Tell whether RADICAL-Pilot is there, without importing it."""
    return find_spec("radical") is not None and find_spec("radical.pilot") is not None


def can_run() -> bool:
    """Tell whether RADICAL-Pilot is here, in an environment whose path it can take."""
    return is_installed() and is_plain(sys.prefix)


def refuse_environment(backend: str) -> None:
    """Refuse an environment in which a backend cannot use RADICAL-Pilot.

    Raises:
        ConfigurationError: says what it lacks.
    """
    if not is_installed():
        raise ConfigurationError(f"backend '{backend}' needs RADICAL-Pilot: pip install 'asyncflow-hpc[radical-pilot]'")
    if not is_plain(sys.prefix):
        raise ConfigurationError(
            f"backend '{backend}': RADICAL-Pilot cannot run from {sys.prefix!r}, as it does not quote paths: make"
            " the virtual environment in a directory with a plain name"
        )


def is_plain(path: str | os.PathLike[str]) -> bool:
    """Tell whether RADICAL-Pilot can have its files in a directory."""
    return _PLAIN.fullmatch(os.fspath(path)) is not None


def make_place(directory: str | os.PathLike[str] | None, local: bool) -> Path:
    """Make a directory for all files of RADICAL-Pilot.

    Args:
        directory: in which to make it; the current one where None.
        local: nothing but this machine has to see it.

    Raises:
        ConfigurationError: RADICAL-Pilot cannot have its files there.
    """
    above = Path(directory or Path.cwd()).absolute()
    if not is_plain(above):
        if directory is not None or not local:
            raise ConfigurationError(
                f"RADICAL-Pilot cannot have its files in {above}: it takes only letters, digits and _ . + = @ -"
                " in a path; give directory=... another one, on a file system that all nodes see"
            )
        above = Path(tempfile.gettempdir())
    try:
        above.mkdir(0o700, parents=True, exist_ok=True)
        place = above / f"asyncflow-pilots.{uuid.uuid4().hex[:12]}"
        place.mkdir(0o700)
    except OSError as error:
        raise ConfigurationError(f"RADICAL-Pilot cannot have its files in {above}: {error.strerror}") from error
    return place


def prepare_place(place: Path, settings: PilotSettings) -> dict[str, str]:
    """Write what RADICAL-Pilot reads in its directory; returns the environment of the process that holds a session."""
    plugins, loopback = place / "plugins", settings.kind == "local"
    write_plugins(plugins, loopback)
    if settings.configuration is not None:
        name = str(settings.description["resource"]).partition(".")[2]
        _write_configuration(place, {name: {**settings.configuration, "default_remote_workdir": str(place)}})
    if settings.kind == "slurm":
        options = {"job-name": place.name, **settings.options}
        (place / OPTIONS).write_text(json.dumps(options), encoding="utf-8")
    return process_environment(place, plugins, loopback)


def process_environment(place: Path, plugins: Path, loopback: bool) -> dict[str, str]:
    """Return the environment of the process that holds a session.

    Args:
        place: for all files of RADICAL-Pilot and of PSI/J below it.
        plugins: where PSI/J finds our executors.
        loopback: nothing but this machine has to reach it.
    """
    environment = {**_QUIET, **({"RADICAL_DEFAULT_IFACE": "lo"} if loopback else {}), **clean_environment()}
    environment.update(
        RADICAL_BASE=str(place),
        RADICAL_PILOT_BASE=str(place),
        RADICAL_CONFIG_USER_DIR=str(place),
        # PSI/J writes there. Packages that the user has installed for himself are still found.
        HOME=str(place),
        PYTHONUSERBASE=site.getuserbase(),
        PATH=f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        PYTHONPATH=os.pathsep.join(filter(None, [str(plugins), os.environ.get("PYTHONPATH")])),
    )
    # The agent activates the one that it finds here.
    environment.pop("VIRTUAL_ENV", None)
    if sys.prefix != sys.base_prefix:
        environment["VIRTUAL_ENV"] = sys.prefix
    return environment


def _write_configuration(place: Path, configurations: Mapping[str, Mapping[str, Any]]) -> None:
    """Write our resource configurations to where RADICAL-Pilot looks for those of a user."""
    directory = place / ".radical" / "pilot" / "configs"
    directory.mkdir(0o700, parents=True, exist_ok=True)
    (directory / f"resource_{CONFIGURATION}.json").write_text(json.dumps(configurations), encoding="utf-8")


def write_plugins(directory: Path, loopback: bool) -> None:
    """Write what PSI/J needs to find our executors, and RADICAL-Pilot to listen here only: modules, on their path.

    Args:
        loopback: nothing but this machine has to reach it.
    """
    (directory / "psij-descriptors").mkdir(0o700, parents=True)
    (directory / "psij-descriptors" / "asyncflow_descriptors.py").write_text(_DESCRIPTORS, encoding="utf-8")
    text = f"from {__package__}.executors import LocalPilots, SlurmPilots  # noqa: F401\n"
    (directory / "asyncflow_executors.py").write_text(text, encoding="utf-8")
    if loopback:
        (directory / "sitecustomize.py").write_text(_LOOPBACK, encoding="utf-8")


def starter_text(environment: Mapping[str, str]) -> tuple[str, str]:
    """Write the script that runs a run script with the environment of the driver, and not that of the agent.

    Returns:
        A name for it, and its text.
    """
    kept = {
        name: value
        for name, value in environment.items()
        # Which GPUs a task may use is for the pilot to say.
        if _NAME.fullmatch(name) and name not in GPU_VARIABLES and not name.startswith("RP_")
    }
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(kept.items())]
    text = "\n".join(["#!/bin/sh", f"unset {_OF_THE_AGENT}", *exports, '. "$1"', ""])
    return f"start.{hashlib.sha256(os.fsencode(text)).hexdigest()[:16]}.sh", text
