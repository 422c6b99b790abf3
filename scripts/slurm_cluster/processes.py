"""The processes of this machine, read from /proc: which of them belong to a cluster, and how they are ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .cgroups import group_of

__all__ = ["CLIENTS", "DAEMONS", "MARK", "Process", "all_processes", "by_command", "end", "members", "members_on"]

# Every daemon of a cluster has its directory in this variable. Jobs do not: slurmstepd makes their environment anew.
MARK = "ASYNCFLOW_SLURM_CLUSTER"

# These overwrite their environment with a title; the directory where they were started tells whose they are.
DAEMONS = ("slurmctld", "slurmd", "slurmstepd", "slurmdbd")
CLIENTS = (
    "sacct",
    "sacctmgr",
    "salloc",
    "sattach",
    "sbatch",
    "sbcast",
    "scancel",
    "scontrol",
    "sinfo",
    "squeue",
    "srun",
)


@dataclass(frozen=True)
class Process:
    """A process that is no zombie; the start time (clock ticks since boot) tells it from a later one of its pid."""

    pid: int
    parent: int
    start: int
    state: str

    def _read(self, name: str) -> list[str]:
        try:
            data = Path(f"/proc/{self.pid}/{name}").read_bytes()
        except OSError:
            return []
        return data.decode(errors="surrogateescape").removesuffix("\0").split("\0")

    def _link(self, name: str) -> str:
        try:
            return os.readlink(f"/proc/{self.pid}/{name}").removesuffix(" (deleted)")
        except OSError:
            return ""

    @cached_property
    def argv(self) -> list[str]:
        return self._read("cmdline")

    @cached_property
    def environment(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self._read("environ") if "=" in entry)

    @cached_property
    def program(self) -> str:
        return os.path.basename(self._link("exe"))

    @cached_property
    def place(self) -> str:
        return self._link("cwd")

    @cached_property
    def cgroups(self) -> list[str]:
        """The lines of /proc/PID/cgroup."""
        return "\0".join(self._read("cgroup")).splitlines()

    def is_below(self, directory: Path) -> bool:
        return f"{self.place}/".startswith(f"{directory}/")


def look_at(pid: int) -> Process | None:
    """Return the process, or None if it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name of the program is in brackets and may hold spaces and brackets itself.
    fields = stat[stat.rindex(b")") + 2 :].split()
    state = fields[0].decode()
    return None if state in "ZXx" else Process(pid, int(fields[1]), int(fields[19]), state)


def all_processes() -> list[Process]:
    """Return all processes but zombies."""
    found = (look_at(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in found if process is not None]


def by_command() -> dict[tuple[str, ...], Process]:
    """Return the processes by their command lines. A daemon's child has that of its parent until it takes its own."""
    by_age = sorted(all_processes(), key=lambda process: (process.start, process.pid), reverse=True)
    return {tuple(process.argv): process for process in by_age}


def members(directory: Path) -> list[Process]:
    """Return the daemons, steps and jobs of the cluster in a directory, and the Slurm commands that talk to it."""

    def is_client(process: Process) -> bool:
        return process.program in CLIENTS and uses(process, directory)

    everything = all_processes()
    clients = [process for process in everything if is_client(process)]
    return clients + with_descendants(
        everything, lambda process: is_daemon(process, directory) or is_job(process, directory)
    )


def members_on(directory: Path, node: str) -> list[Process]:
    """Return what would die with a node: its slurmd, its steps and its jobs."""

    def is_there(process: Process) -> bool:
        if is_in_cgroup(process, directory, f"/slurm_{node}/"):
            return True
        if is_job(process, directory):
            return process.environment.get("SLURMD_NODENAME") == node
        return process.program.startswith(DAEMONS) and process.is_below(directory / "spool" / node)

    return with_descendants(all_processes(), is_there)


def is_daemon(process: Process, directory: Path) -> bool:
    if process.environment.get(MARK) == str(directory):
        return True
    return process.program.startswith(DAEMONS) and process.is_below(directory)


def is_job(process: Process, directory: Path) -> bool:
    """Tell whether slurmstepd started it. A shell of the user has SLURM_CONF as well, but no node name."""
    if is_in_cgroup(process, directory):
        return True
    return "SLURMD_NODENAME" in process.environment and uses(process, directory)


def is_in_cgroup(process: Process, directory: Path, below: str = "") -> bool:
    return any(f":/{group_of(directory)}{below}" in line for line in process.cgroups)


def uses(process: Process, directory: Path) -> bool:
    return process.environment.get("SLURM_CONF", "").startswith(f"{directory}/etc/")


def with_descendants(everything: Sequence[Process], belongs: Callable[[Process], bool]) -> list[Process]:
    """Add what a job started with an environment of its own, and leave out this process and those above it."""
    by_pid = {process.pid: process for process in everything}
    chosen = {process.pid for process in everything if belongs(process)}

    def line(process: Process) -> set[int]:
        pids = set()
        while process.pid not in pids:
            pids.add(process.pid)
            process = by_pid.get(process.parent, process)
        return pids

    own = line(by_pid[os.getpid()])
    return [process for process in everything if process.pid not in own and chosen & line(process)]


def send(process: Process, number: int) -> None:
    now = look_at(process.pid)
    if now is not None and now.start == process.start:
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            pass


def end(find: Callable[[], Iterable[Process]], number: int = signal.SIGKILL, patience: float = 10) -> list[Process]:
    """Signal all that are found until none is found any more.

    Args:
        find: looks again at each call, since jobs start processes while others are being ended.
        number: the signal.
        patience: seconds.

    Returns:
        Those that are still there.
    """
    deadline = time.monotonic() + patience
    signalled: set[tuple[int, int]] = set()
    while (left := list(find())) and time.monotonic() < deadline:
        for process in left:
            # A second SIGTERM means something else to some daemons.
            if number == signal.SIGKILL or (process.pid, process.start) not in signalled:
                send(process, number)
                signalled.add((process.pid, process.start))
        time.sleep(0.02)
    return left
