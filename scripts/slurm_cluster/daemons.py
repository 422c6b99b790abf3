"""The daemons of a cluster: how each is started, and when it is ready."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from . import cgroups, processes
from .cluster import Cluster
from .errors import ClusterError

__all__ = [
    "Daemon",
    "can_rename_host",
    "daemons_of",
    "find_all",
    "log_tails",
    "node_daemon",
    "prepare_database",
    "start",
    "wait_for",
]

# The host name decides where Slurm listens, and the one of this machine may stand for an outside address.
AS_LOCALHOST = ("unshare", "--uts", "--", "sh", "-c", 'hostname localhost && exec "$@"', "sh")

LIMIT = 60


@dataclass(frozen=True)
class Daemon:
    """A daemon that stays in the foreground, so that its pid is known from the start."""

    name: str
    argv: list[str]
    place: Path
    is_ready: Callable[[], bool] = lambda: True
    extra: dict[str, str] = field(default_factory=dict)
    starter: list[str] = field(default_factory=list)

    def find(self) -> processes.Process | None:
        return find_all([self])[self.name]


def find_all(daemons: Iterable[Daemon]) -> dict[str, processes.Process | None]:
    """Return the process of each daemon by its name, None for one that does not run."""
    found = processes.by_command()
    return {daemon.name: found.get(tuple(daemon.argv)) for daemon in daemons}


def can_rename_host() -> bool:
    """Tell whether a process may get a host name of its own: containers often forbid it."""
    done = (
        subprocess.run([*AS_LOCALHOST, "true"], capture_output=True, check=False) if shutil.which("unshare") else None
    )
    return done is not None and done.returncode == 0


def daemons_of(cluster: Cluster) -> list[Daemon]:
    """Return all daemons in the order of their start."""
    database = [mariadbd(cluster), slurmdbd(cluster)] if cluster.accounting else []
    return [
        munged(cluster),
        *database,
        slurmctld(cluster),
        *(node_daemon(cluster, name) for name in cluster.node_names),
    ]


def munged(cluster: Cluster) -> Daemon:
    directory = cluster.directory
    argv = [
        cluster.program("munged"),
        "--foreground",
        "--force",
        f"--key-file={directory}/munge/munge.key",
        f"--socket={directory}/munge/munge.sock",
        f"--pid-file={directory}/run/munged.pid",
        f"--log-file={directory}/log/munged.log",
        f"--seed-file={directory}/munge/munge.seed",
    ]
    return Daemon("munged", argv, directory, lambda: answers(str(directory / "munge/munge.sock")))


def mariadbd(cluster: Cluster) -> Daemon:
    directory = cluster.directory / "mysql"
    argv = [
        cluster.program("mariadbd"),
        "--no-defaults",
        f"--user={cluster.user}",
        f"--datadir={directory}",
        f"--socket={directory}/my.sock",
        f"--pid-file={cluster.directory}/run/mariadbd.pid",
        "--skip-networking",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-lock-wait-timeout=900",
        # With client libraries from 3.4 on, slurmdbd needs a database that exists, and reads of what others change.
        f"--init-file={cluster.directory}/etc/database.sql",
        "--loose-innodb-snapshot-isolation=OFF",
    ]
    return Daemon("mariadbd", argv, cluster.directory, lambda: answers(f"{directory}/my.sock"))


def slurmdbd(cluster: Cluster) -> Daemon:
    # It takes no argument that names the directory, but the link it is called by can.
    argv = [str(slurmdbd_link(cluster)), "-D"]
    extra = {"MYSQL_UNIX_PORT": f"{cluster.directory}/mysql/my.sock"}
    return Daemon("slurmdbd", argv, cluster.directory / "log", lambda: answers(cluster.database_port), extra)


def slurmdbd_link(cluster: Cluster) -> Path:
    return cluster.directory / "run" / "slurmdbd"


def slurmctld(cluster: Cluster) -> Daemon:
    argv = [cluster.program("slurmctld"), "-D", "-i", "-f", str(cluster.daemon_conf)]
    return Daemon("slurmctld", argv, cluster.directory / "log", lambda: answers(cluster.port))


def node_daemon(cluster: Cluster, node: str) -> Daemon:
    # Its steps inherit the place, which tells of which node they are.
    argv = [cluster.program("slurmd"), "-D", "-N", node, "-f", str(cluster.daemon_conf)]
    if cluster.prefix:
        argv += ["-d", cluster.program("slurmstepd")]
    starter = cgroups.inside(cluster.directory) if cluster.cgroups else []
    return Daemon(f"slurmd.{node}", argv, cluster.directory / "spool" / node, starter=starter)


def answers(address: str | int) -> bool:
    """Tell whether something listens at a Unix socket or a port."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as probe:
        try:
            probe.connect(address if isinstance(address, str) else ("127.0.0.1", address))
        except OSError:
            return False
    return True


def environment(cluster: Cluster) -> dict[str, str]:
    """Jobs inherit from the daemons, so these get nothing of the caller's."""
    return {
        "PATH": cluster.path,
        "LC_ALL": "C.UTF-8",
        "SLURM_CONF": str(cluster.daemon_conf),
        processes.MARK: str(cluster.directory),
    }


def start(cluster: Cluster, daemon: Daemon) -> None:
    """Start a daemon unless it runs, and wait until it is ready."""
    if daemon.find() is not None:
        return
    daemon.place.mkdir(exist_ok=True)
    prefix = AS_LOCALHOST if cluster.loopback_only and daemon.name.startswith("slurm") else ()
    with open(output_of(cluster, daemon.name), "ab") as output:
        process = subprocess.Popen(
            [*prefix, *daemon.starter, *daemon.argv],
            cwd=daemon.place,
            env=environment(cluster) | daemon.extra,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def is_ready() -> bool:
        if process.poll() is not None:
            raise ClusterError(
                f"{daemon.name} ended with exit code {process.returncode}{log_tails(cluster, daemon.name)}"
            )
        # For a moment it is still the program that gives it the host name, or the cgroup.
        return daemon.find() is not None and daemon.is_ready()

    wait_for(is_ready, lambda: f"{daemon.name} is not ready after {LIMIT} s{log_tails(cluster, daemon.name)}")


def wait_for(condition: Callable[[], object], complaint: Callable[[], str], limit: float = LIMIT) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(complaint())
        time.sleep(0.05)


def output_of(cluster: Cluster, name: str) -> Path:
    return cluster.directory / "log" / f"{name}.out"


def log_tails(cluster: Cluster, *names: str) -> str:
    """Return the last lines of some daemons' logs, or of all, to end a message with."""
    parts = [""]
    for name in names or [daemon.name for daemon in daemons_of(cluster)]:
        # In the foreground, most write the same to both.
        for path in (output_of(cluster, name), cluster.directory / "log" / f"{name}.log"):
            if lines := path.read_text(errors="replace").splitlines() if path.exists() else []:
                parts += [f"{path}:", *lines[-10:]]
                break
    return "\n".join(parts)


def prepare_database(cluster: Cluster) -> None:
    """Make what the daemons of accounting need, once."""
    link = slurmdbd_link(cluster)
    link.unlink(missing_ok=True)
    link.symlink_to(cluster.program("slurmdbd"))
    final = cluster.directory / "mysql"
    if final.exists():
        return
    new = cluster.directory / "mysql.new"
    shutil.rmtree(new, ignore_errors=True)
    argv = [
        cluster.program("mariadb-install-db"),
        "--no-defaults",
        f"--user={cluster.user}",
        f"--datadir={new}",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
    ]
    with open(output_of(cluster, "mariadbd"), "ab") as output:
        process = subprocess.Popen(
            argv,
            env=environment(cluster),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        if process.wait(LIMIT) != 0:
            raise ClusterError(f"mariadb-install-db failed{log_tails(cluster, 'mariadbd')}")
    # Its one account has no password.
    new.chmod(0o700)
    new.rename(final)
