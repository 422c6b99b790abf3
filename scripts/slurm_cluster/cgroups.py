"""Real cgroups for the jobs of a cluster: version 1, with no mount that the machine sees.

Each slurmd gets a mount namespace, where the hierarchies are mounted that Slurm needs, and a cgroup namespace, whose
root is a cgroup of the cluster. So clusters side by side do not meet, and a job finds its own cgroup where /proc says.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import time
from pathlib import Path

from .errors import CannotInstall, ClusterError

__all__ = ["check", "group_of", "inside", "remove_group"]

# Freezers hold the processes of a job together; memory is limited and counted; the time of processors is counted.
CONTROLLERS = ("freezer", "memory", "cpuacct")

# Arguments: the group, one word for each controller (its directory, then the option that mounts it), --, a command.
MOUNT = """\
group=$1
shift
mount -t tmpfs -o mode=755 cgroups /sys/fs/cgroup
for controller in $CONTROLLERS; do
    place=/sys/fs/cgroup/${controller%%:*}
    mkdir "$place"
    mount -t cgroup -o "${controller#*:}" cgroup "$place"
"""

ENTER = (
    MOUNT
    + """\
    mkdir -p "$place/$group"
    echo $$ >"$place/$group/cgroup.procs"
done
exec unshare --cgroup sh -ec '
for controller in $CONTROLLERS; do
    place=/sys/fs/cgroup/${controller%%:*}
    umount "$place"
    mount -t cgroup -o "${controller#*:}" cgroup "$place"
done
unset CONTROLLERS
exec "$@"' sh "$@"
"""
)

REMOVE = (
    MOUNT
    + """\
    [ ! -e "$place/$group" ] || find "$place/$group" -depth -type d -exec rmdir {} +
done
"""
)


@functools.cache
def group_of(directory: Path) -> str:
    """Return the name of the cgroup that holds all jobs of the cluster in a directory."""
    return f"asyncflow-slurm-{hashlib.sha256(str(directory).encode()).hexdigest()[:16]}"


def inside(directory: Path) -> list[str]:
    """Return what starts a command in the cgroup of a cluster."""
    return in_namespace(ENTER, directory)


def in_namespace(script: str, directory: Path) -> list[str]:
    words = " ".join(f"{name}:{option}" for name, option in mount_options().items())
    return ["unshare", "--mount", "--", "env", f"CONTROLLERS={words}", "sh", "-ec", script, "sh", group_of(directory)]


def mount_options() -> dict[str, str]:
    """Return how the hierarchy of each controller is mounted: some systems have several controllers in one."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    lists = [line.split(":")[1] for line in lines]
    return {name: next((listed for listed in lists if name in listed.split(",")), name) for name in CONTROLLERS}


def check(directory: Path) -> None:
    """See whether a process can be put into such a cgroup.

    Raises:
        CannotInstall: this user or this machine cannot do it.
    """
    # Not in the group of the cluster, which may run, or may be refused for another reason.
    probe = directory / f"probe-{os.getpid()}"
    done = subprocess.run(
        [*inside(probe), "test", "-e", "/sys/fs/cgroup/memory/memory.limit_in_bytes"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CannotInstall(
            "--cgroups needs root, and cgroups of version 1 with the controllers"
            f" {', '.join(CONTROLLERS)}: {done.stderr.strip() or 'the memory controller has no limits'}"
        )
    remove_group(probe)


def remove_group(directory: Path, patience: float = 10) -> None:
    """Remove the cgroups of a cluster whose processes have ended.

    Args:
        directory: of the cluster.
        patience: seconds. The kernel may still be busy with the last process.
    """
    deadline = time.monotonic() + patience
    while True:
        done = subprocess.run(in_namespace(REMOVE, directory), capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise ClusterError(f"the cgroups of {directory} cannot be removed: {done.stderr.strip()}")
        time.sleep(0.05)
