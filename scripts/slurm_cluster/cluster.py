"""A cluster as its directory remembers it, and the configuration files made from that."""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import random
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import processes
from .errors import ClusterError, WrongUse
from .packages import SYSTEM_PATH, program

__all__ = ["NAME", "Cluster", "checked_directory", "free_ports", "is_free"]

NAME = "asyncflow"

# Slurm puts sockets with names like spool/n1/n1_1234.4294967291 below the directory; a socket's path ends at 107 bytes.
LONGEST = 64

SLURM_CONF = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge/munge.sock
CredType=cred/munge
MpiDefault=none
# Clients and daemons read different files.
DebugFlags=NO_CONF_HASH
SlurmctldPidFile={directory}/run/slurmctld.pid
SlurmdPidFile={directory}/run/slurmd.%n.pid
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool/%n
SlurmctldLogFile={directory}/log/slurmctld.log
SlurmdLogFile={directory}/log/slurmd.%n.log
SlurmctldDebug=error
SlurmdDebug=error
PlugStackConfig={directory}/etc/plugstack.conf
{plugins}
ProctrackType={tracking}
TaskPlugin={task}
SwitchType=switch/none
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
ReturnToService=2
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=240
JobAcctGatherType={gathering}
JobAcctGatherFrequency=1
{overrun}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=10000,default_queue_depth=10000,\
partition_job_depth=10000,bf_interval=1,bf_max_job_test=10000,bf_continue
PriorityType=priority/basic
EpilogMsgTime=0
CompleteWait=0
KillWait=2
MinJobAge={min_job_age}
MaxJobCount=20000
MaxArraySize=10001
SlurmctldTimeout=30
SlurmdTimeout={slurmd_timeout}
BatchStartTimeout=10
MessageTimeout=10
InactiveLimit=0
WaitTime=0
TCPTimeout=2
{accounting}
{nodes}
PartitionName=normal Default=YES Nodes=ALL MaxTime=INFINITE DefaultTime=10 PriorityTier=10 PreemptMode=OFF
PartitionName=short Nodes=ALL MaxTime=1 DefaultTime=1 PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=INFINITE DefaultTime=10 PriorityTier=1 PreemptMode=CANCEL
PartitionName=lowrq Nodes=ALL MaxTime=INFINITE DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=ALL MaxTime=INFINITE DefaultTime=10 PriorityTier=20 PreemptMode=OFF
"""

NODE = """\
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=16 Boards=1 SocketsPerBoard=1 \
CoresPerSocket=16 ThreadsPerCore=1 RealMemory=4000 State=UNKNOWN"""

ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={directory}/munge/munge.sock"""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={directory}/munge/munge.sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
PidFile={directory}/run/slurmdbd.pid
LogFile={directory}/log/slurmdbd.log
DebugLevel=error
StorageType=accounting_storage/mysql
# With this name the client library takes the socket of MYSQL_UNIX_PORT; the database listens nowhere else.
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
{plugins}
{communication}
"""

# Slurm looks for a working cgroup otherwise, though nothing uses one, and slurmd ends where there is none.
NO_CGROUPS = "CgroupPlugin=cgroup/v1\n"

CGROUPS = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainRAMSpace=yes
ConstrainSwapSpace=no
ConstrainCores=no
ConstrainDevices=no
"""

LOOPBACK_ONLY = "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny"


@dataclass(frozen=True)
class Cluster:
    """The settings of a cluster.

    Args:
        directory: holds everything it has.
        port: the first of its ports: slurmctld, slurmdbd, then each slurmd.
        nodes: how many (n1, n2, ...).
        accounting: with slurmdbd and a database.
        min_job_age: seconds for which the controller knows a job that has ended.
        slurmd_timeout: seconds without an answer after which a node is down.
        slurm: the version, if it is another than the distribution's.
        prefix: where that version is.
        cgroups: jobs are held and ended by cgroups.
        loopback_only: the daemons can be given a host name that makes them listen on 127.0.0.1 only.
    """

    directory: Path
    port: int
    nodes: int = 4
    accounting: bool = False
    min_job_age: int = 300
    slurmd_timeout: int = 10
    slurm: str = ""
    prefix: str = ""
    cgroups: bool = False
    loopback_only: bool = True

    @property
    def node_names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    @property
    def user(self) -> str:
        return pwd.getpwuid(self.directory.stat().st_uid).pw_name

    @property
    def path(self) -> str:
        """Where its daemons find programs."""
        return f"{self.prefix}/bin:{SYSTEM_PATH}" if self.prefix else SYSTEM_PATH

    def program(self, name: str) -> str:
        """Find a program of its version of Slurm, or of this machine."""
        of_slurm = name in (*processes.CLIENTS, *processes.DAEMONS)
        return f"{self.prefix}/bin/{name}" if self.prefix and of_slurm else program(name)

    @property
    def client_conf(self) -> Path:
        return self.directory / "etc" / "slurm.conf"

    @property
    def daemon_conf(self) -> Path:
        return self.directory / "etc" / "daemon.conf"

    @property
    def database_port(self) -> int:
        return self.port + 1

    def save(self) -> None:
        settings = dataclasses.asdict(self)
        del settings["directory"]
        remembered(self.directory).write_text(json.dumps(settings, indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Cluster | None:
        """Return the cluster of a directory, or None if there is none, or one whose making was cut short."""
        try:
            settings: dict[str, Any] = json.loads(remembered(directory).read_text())
            return cls(directory, **settings)
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write_files(self) -> None:
        """Make the directories and the configuration; only while no daemon runs."""
        for name in ("etc", "munge", "run", "state", "spool", "log"):
            (self.directory / name).mkdir(exist_ok=True)
        (self.directory / "state").chmod(0o700)
        self.write("etc/plugstack.conf", "")
        self.write("etc/cgroup.conf", CGROUPS if self.cgroups else NO_CGROUPS)
        self.write("etc/slurm.conf", self.slurm_conf())
        communication = LOOPBACK_ONLY if self.loopback_only else ""
        self.write("etc/daemon.conf", f"Include {self.client_conf}\n{communication}\n")
        if self.accounting:
            self.write("etc/slurmdbd.conf", self.slurmdbd_conf(), mode=0o600)
            self.write("etc/database.sql", "CREATE DATABASE IF NOT EXISTS slurm;\n")
        key = self.directory / "munge" / "munge.key"
        if not key.exists():
            self.write("munge/munge.key", os.urandom(1024), mode=0o400)

    def write(self, name: str, content: str | bytes, mode: int = 0o644) -> None:
        """Write a file that is never seen half-written, nor with another mode."""
        path = self.directory / name
        path.with_suffix(".new").unlink(missing_ok=True)
        with open(path.with_suffix(".new"), "xb", opener=lambda file, flags: os.open(file, flags, mode)) as new:
            new.write(content.encode() if isinstance(content, str) else content)
        path.with_suffix(".new").rename(path)

    def slurm_conf(self) -> str:
        accounting = ACCOUNTING.format(port=self.database_port, directory=self.directory)
        nodes = [
            NODE.format(node=name, host=self.host, port=self.port + 2 + index)
            for index, name in enumerate(self.node_names)
        ]
        return SLURM_CONF.format(
            name=NAME,
            host=self.host,
            controller_port=self.port,
            user=self.user,
            directory=self.directory,
            min_job_age=self.min_job_age,
            slurmd_timeout=self.slurmd_timeout,
            plugins=self.plugins,
            tracking="proctrack/cgroup" if self.cgroups else "proctrack/linuxproc",
            task="task/cgroup" if self.cgroups else "task/none",
            gathering="jobacct_gather/cgroup" if self.cgroups else "jobacct_gather/linux",
            overrun="" if self.cgroups else "JobAcctGatherParams=OverMemoryKill",
            accounting=accounting if self.accounting else "AccountingStorageType=accounting_storage/none",
            nodes="\n".join(nodes),
        )

    def slurmdbd_conf(self) -> str:
        return SLURMDBD_CONF.format(
            directory=self.directory,
            host=self.host,
            port=self.database_port,
            user=self.user,
            plugins=self.plugins,
            communication=LOOPBACK_ONLY if self.loopback_only else "",
        )

    @property
    def plugins(self) -> str:
        return f"PluginDir={self.prefix}/lib/slurm-wlm" if self.prefix else ""

    @property
    def host(self) -> str:
        return "localhost" if self.loopback_only else socket.gethostname().split(".")[0]


def remembered(directory: Path) -> Path:
    return directory / "slurm-cluster.json"


def checked_directory(given: str | None) -> Path:
    """Return the directory of the cluster, which need not exist.

    Raises:
        WrongUse: Slurm cannot work there.
        ClusterError: it holds something else, or belongs to somebody else.
    """
    chosen = given or os.environ.get("ASYNCFLOW_SLURM_DIR") or f"/tmp/asyncflow-slurm-{os.getuid()}"
    directory = Path(chosen).resolve()
    if len(str(directory)) > LONGEST:
        raise WrongUse(f"{directory} is too long for the sockets of Slurm: at most {LONGEST} characters")
    if not re.fullmatch(r"[\w/.+-]+", str(directory), re.ASCII):
        raise WrongUse(f"{directory} has characters that slurm.conf cannot hold: take letters, digits and . _ + - only")
    if (
        directory.exists()
        and not remembered(directory).exists()
        and (not directory.is_dir() or any(directory.iterdir()))
    ):
        raise ClusterError(f"{directory} holds something else than a cluster of this script: choose another --dir")
    return directory


def free_ports(count: int) -> int:
    """Return the first of some free ports in a row, below those that the kernel gives to clients."""
    for _ in range(100):
        first = random.randrange(10000, 32000 - count)
        if all(is_free(port) for port in range(first, first + count)):
            return first
    raise ClusterError(f"no {count} free ports in a row")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the daemons do: a connection of an earlier one that lingers is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
