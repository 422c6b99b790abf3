"""What can go wrong, with the exit code of each."""

__all__ = ["CannotInstall", "ClusterError", "WrongUse", "say"]

import sys


class ClusterError(Exception):
    """The cluster cannot be brought into the wanted state."""

    exit_code = 1


class WrongUse(ClusterError):
    """The arguments cannot work."""

    exit_code = 2


class CannotInstall(ClusterError):
    """Programs are missing, and this script cannot install them."""

    exit_code = 3


def say(text: str) -> None:
    """Tell the user; stdout is kept for what a shell evaluates."""
    print(f"slurm-cluster: {text}", file=sys.stderr, flush=True)
