"""What the commands do."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from . import cgroups, processes
from .cluster import NAME, Cluster, free_ports, is_free
from .daemons import (
    LIMIT,
    can_rename_host,
    daemons_of,
    find_all,
    log_tails,
    node_daemon,
    prepare_database,
    slurmctld,
    start,
    wait_for,
)
from .errors import ClusterError, WrongUse, say
from .packages import ensure_installed
from .prefixes import ensure_prefix

__all__ = [
    "down",
    "environment_lines",
    "kill_node",
    "start_controller",
    "start_node",
    "status",
    "stop_controller",
    "up",
]

ACCOUNT = "dev"
USABLE = ("idle", "alloc", "mix", "comp")


def up(directory: Path, wanted: Mapping[str, Any], cache: Path) -> None:
    """Start the cluster, or what is missing of it, and wait until it can be used.

    Args:
        directory: where it is or will be.
        wanted: the settings that the user named; the others stay as they were.
        cache: where other versions of Slurm than the distribution's are kept.
    """
    settings = dataclasses.asdict(Cluster.load(directory) or Cluster(directory, port=0)) | dict(wanted)
    if settings["cgroups"]:
        cgroups.check(directory)
    if wanted.get("slurm"):
        wanted = {**wanted, "prefix": str(ensure_prefix(wanted["slurm"], cache))}
    ensure_installed(settings["accounting"], slurm=not settings["slurm"])
    try:
        with locked(directory):
            before = Cluster.load(directory)
            if before and any(find_all(daemons_of(before)).values()):
                repair(before, wanted)
            else:
                start_all(directory, before, wanted)
    except BaseException:
        # An interrupt may come when there is no more than the directory.
        with suppress(OSError):
            directory.rmdir()
        raise


def repair(cluster: Cluster, wanted: Mapping[str, Any]) -> None:
    """Start the daemons that are missing; the others and the jobs go on."""
    settings = dataclasses.asdict(cluster)
    if different := [name for name, value in wanted.items() if settings[name] != value]:
        have = ", ".join(f"{name} is {settings[name]}" for name in different)
        raise ClusterError(f"the cluster in {cluster.directory} runs with other settings ({have}): take it down first")
    missing = [daemon for daemon in daemons_of(cluster) if not daemon.find()]
    try:
        bring_up(cluster)
    except BaseException:
        with undisturbed():
            processes.end(lambda: filter(None, find_all(missing).values()))
        raise


def start_all(directory: Path, before: Cluster | None, wanted: Mapping[str, Any]) -> None:
    """Start every daemon, on the state of an earlier run if there is one."""
    # Steps and jobs may have outlived the daemons.
    processes.end(lambda: processes.members(directory))
    cluster = dataclasses.replace(before or Cluster(directory, port=0), **wanted)
    ports = range(cluster.port, cluster.port + cluster.nodes + 2)
    if not cluster.port or not all(is_free(port) for port in ports):
        cluster = dataclasses.replace(cluster, port=free_ports(len(ports)))
    cluster = dataclasses.replace(cluster, loopback_only=can_rename_host())
    if not cluster.loopback_only:
        say("no host name of its own possible here: the daemons listen on all addresses of this machine")
    try:
        cluster.save()
        cluster.write_files()
        if cluster.accounting:
            prepare_database(cluster)
        bring_up(cluster)
    except BaseException:
        with undisturbed():
            say("ending what was started")
            remove(directory)
        raise


def bring_up(cluster: Cluster) -> None:
    for daemon in daemons_of(cluster):
        if daemon.name == "slurmctld" and cluster.accounting:
            register(cluster)
        start(cluster, daemon)
    wait_for_nodes(cluster, cluster.node_names)
    if cluster.accounting:
        wait_for(lambda: ask(cluster, "sacct", "-n") is not None, lambda: f"sacct does not answer{log_tails(cluster)}")


def register(cluster: Cluster) -> None:
    """Make the cluster, an account and the user known to the database."""
    known = ask(cluster, "sacctmgr", "-nP", "list", "assoc", "format=Account,User")
    if known is None:
        raise ClusterError(f"slurmdbd does not answer{log_tails(cluster, 'slurmdbd', 'mariadbd')}")
    wanted = {
        "root|": ("cluster", NAME),
        f"{ACCOUNT}|": ("account", ACCOUNT, f"cluster={NAME}"),
        f"{ACCOUNT}|{cluster.user}": ("user", cluster.user, f"account={ACCOUNT}", f"cluster={NAME}"),
    }
    for association, words in wanted.items():
        if association not in known.split():
            tell(cluster, "sacctmgr", "-i", "add", *words)


def wait_for_nodes(cluster: Cluster, names: Sequence[str]) -> None:
    def all_usable() -> bool:
        check_node_daemons(cluster, names)
        states = node_states(cluster)
        for name in names:
            # Slurm drains a node whose jobs did not end in time.
            if "drain" in states.get(name, ""):
                ask(cluster, "scontrol", "update", f"NodeName={name}", "State=RESUME")
        return all(states.get(name, "").startswith(USABLE) and "*" not in states[name] for name in names)

    wait_for(all_usable, lambda: f"after {LIMIT} s the nodes are {node_states(cluster)}{log_tails(cluster)}")


def check_node_daemons(cluster: Cluster, nodes: Sequence[str]) -> None:
    """Raise an error if one ended after its start: to wait would not bring it back."""
    for name, process in find_all(node_daemon(cluster, node) for node in nodes).items():
        if process is None:
            raise ClusterError(f"{name} has ended{log_tails(cluster, name)}")


def node_states(cluster: Cluster) -> dict[str, str]:
    lines = (ask(cluster, "sinfo", "-h", "-N", "-o", "%N %T") or "").splitlines()
    return dict(line.split() for line in lines)


def ask(cluster: Cluster, *argv: str) -> str | None:
    """Return what a Slurm command prints, or None if it fails."""
    try:
        done = command(cluster, *argv)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None


def tell(cluster: Cluster, *argv: str) -> None:
    done = command(cluster, *argv)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(argv)} failed: {done.stdout}{done.stderr}")


def command(cluster: Cluster, *argv: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": cluster.path, "LC_ALL": "C.UTF-8", "SLURM_CONF": str(cluster.client_conf)}
    return subprocess.run(
        [cluster.program(argv[0]), *argv[1:]],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def down(directory: Path) -> None:
    """End everything the cluster has and remove its directory."""
    if directory.exists():
        with locked(directory):
            remove(directory)
    else:
        remove(directory)


def remove(directory: Path) -> None:
    if left := processes.end(lambda: processes.members(directory)):
        named = ", ".join(f"{process.pid} ({process.program or '?'})" for process in left)
        raise ClusterError(f"these processes of {directory} do not end: {named}")
    cluster = Cluster.load(directory)
    if cluster and cluster.cgroups:
        cgroups.remove_group(directory)
    if directory.exists():
        shutil.rmtree(directory)


def status(directory: Path) -> int:
    """Print the daemons and the nodes; return 0 if all is up, 1 if all is down, 2 in between."""
    cluster = Cluster.load(directory)
    if cluster is None:
        left = processes.members(directory)
        print(f"no cluster in {directory}{f', but {len(left)} processes of one' if left else ''}")
        return 2 if left else 1
    found = find_all(daemons_of(cluster))
    for name, process in found.items():
        print(f"{name:12} {f'pid {process.pid}, state {process.state}' if process else 'down'}")
    if not any(found.values()):
        return 1
    # Without these two, sinfo tries for ten seconds or more.
    states = node_states(cluster) if found["munged"] and found["slurmctld"] else {}
    print("\n".join(f"node {name:7} {state}" for name, state in states.items()) or "the controller does not answer")
    return 0 if all(found.values()) and states else 2


def environment_lines(directory: Path) -> list[str]:
    """Return what a shell has to evaluate before it can use the cluster."""
    cluster = loaded(directory)
    lines = [f"export SLURM_CONF={shlex.quote(str(cluster.client_conf))}"]
    if cluster.prefix:
        lines.append(f'export PATH={shlex.quote(f"{cluster.prefix}/bin")}:"$PATH"')
    elif shutil.which("sbatch") is None:
        lines.append(f'export PATH="$PATH":{shlex.quote(os.path.dirname(cluster.program("sbatch")))}')
    return lines


def loaded(directory: Path) -> Cluster:
    cluster = Cluster.load(directory)
    if cluster is None:
        raise ClusterError(f"no cluster in {directory}: scripts/slurm-cluster up starts one")
    return cluster


def stop_controller(directory: Path) -> None:
    """End slurmctld as an administrator would: it saves its state."""
    cluster = loaded(directory)
    controller = slurmctld(cluster)
    with locked(directory):
        find = lambda: filter(None, [controller.find()])  # noqa: E731
        if processes.end(find, signal.SIGTERM):
            processes.end(find)


def start_controller(directory: Path) -> None:
    cluster = loaded(directory)
    with locked(directory):
        start(cluster, slurmctld(cluster))
        wait_for(lambda: node_states(cluster), lambda: f"slurmctld does not answer{log_tails(cluster, 'slurmctld')}")


def kill_node(directory: Path, node: str) -> None:
    """Kill all processes of a node at once, as when its power fails."""
    check_node(loaded(directory), node)
    with locked(directory):
        processes.end(lambda: processes.members_on(directory, node))


def start_node(directory: Path, node: str) -> None:
    cluster = loaded(directory)
    check_node(cluster, node)
    with locked(directory):
        start(cluster, node_daemon(cluster, node))
        wait_for_nodes(cluster, [node])


def check_node(cluster: Cluster, node: str) -> None:
    if node not in cluster.node_names:
        raise WrongUse(f"there is no node {node}; there are {' '.join(cluster.node_names)}")


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Let only one command at a time change a cluster."""
    descriptor = open_locked(directory)
    # Another command may have removed the directory meanwhile, and a third one made it anew.
    while not directory.exists() or os.fstat(descriptor).st_ino != directory.stat().st_ino:
        os.close(descriptor)
        descriptor = open_locked(directory)
    try:
        yield
    finally:
        os.close(descriptor)


def open_locked(directory: Path) -> int:
    directory.mkdir(exist_ok=True)
    if directory.stat().st_uid != os.geteuid():
        raise ClusterError(f"{directory} belongs to somebody else")
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"waiting for another slurm-cluster that works on {directory}")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


@contextmanager
def undisturbed() -> Iterator[None]:
    """Cleaning up must not end halfway because of a second Ctrl-C."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
