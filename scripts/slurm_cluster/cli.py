"""The command line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import NoReturn

from . import control
from .cluster import checked_directory
from .errors import ClusterError, say
from .prefixes import SUITES, cache_directory

__all__ = ["main"]

DESCRIPTION = "A private Slurm on this machine, for development. The details are in docs/slurm_cluster.md."


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="slurm-cluster", description=DESCRIPTION)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--dir", metavar="D", help="where the cluster lives ($ASYNCFLOW_SLURM_DIR, else /tmp/asyncflow-slurm-<uid>)"
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    helps = {
        "up": "start it, or what is missing of it, wait until it can be used, print what `env` prints",
        "down": "end all its processes and jobs and remove its directory",
        "status": "show daemons and nodes; exit code 0: up, 1: down, 2: partly",
        "env": 'print what a shell needs: eval "$(scripts/slurm-cluster env)"',
        "stop-controller": "end slurmctld; jobs go on",
        "start-controller": "start slurmctld again",
        "kill-node": "kill a node's slurmd, steps and jobs at once",
        "start-node": "start a node's slurmd again",
    }
    made = {name: commands.add_parser(name, help=text, parents=[common]) for name, text in helps.items()}
    add_settings(made["up"])
    for name in ("kill-node", "start-node"):
        made[name].add_argument("node", help="n1, n2, ...")
    return top


SETTINGS = ("nodes", "accounting", "slurm", "cgroups", "min_job_age", "slurmd_timeout")


def add_settings(command: argparse.ArgumentParser) -> None:
    # What is not named stays as it was in a cluster that exists: hence no defaults.
    command.add_argument("--nodes", type=int, choices=range(1, 65), metavar="N", help="nodes of 16 CPUs each (4)")
    command.add_argument("--accounting", action="store_true", default=None, help="with sacct: slurmdbd and MariaDB")
    command.add_argument(
        "--slurm", choices=sorted(SUITES), metavar="V", help=f"version: {', '.join(SUITES)} (the distribution's)"
    )
    command.add_argument("--cgroups", action="store_true", default=None, help="hold and end jobs by cgroups; as root")
    command.add_argument(
        "--cache", metavar="D", help="where --slurm is kept (/var/cache/asyncflow-slurm or ~/.cache/asyncflow-slurm)"
    )
    command.add_argument(
        "--min-job-age", type=positive, metavar="S", help="seconds for which the controller knows an ended job (300)"
    )
    command.add_argument(
        "--slurmd-timeout", type=positive, metavar="S", help="seconds without an answer until a node is down (10)"
    )


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def main() -> int:
    """Run one command and return its exit code."""
    arguments = parser().parse_args()
    # Users who submit jobs must be able to read the configuration and to reach the socket of munge.
    os.umask(0o022)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        return run(arguments)
    except ClusterError as error:
        say(str(error))
        return error.exit_code
    except OSError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130


def interrupt(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


def run(arguments: argparse.Namespace) -> int:
    directory = checked_directory(arguments.dir)
    match arguments.command:
        case "up":
            given = {name: vars(arguments)[name] for name in SETTINGS}
            settings = {name: value for name, value in given.items() if value is not None}
            control.up(directory, settings, cache_directory(arguments.cache))
            print("\n".join(control.environment_lines(directory)))
        case "down":
            control.down(directory)
        case "status":
            return control.status(directory)
        case "env":
            print("\n".join(control.environment_lines(directory)))
        case "stop-controller":
            control.stop_controller(directory)
        case "start-controller":
            control.start_controller(directory)
        case "kill-node":
            control.kill_node(directory, arguments.node)
        case "start-node":
            control.start_node(directory, arguments.node)
    return 0
