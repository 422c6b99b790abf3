"""From a task description to what PSI/J and Slurm understand: pure translation."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from asyncflow_hpc.errors import TaskDescriptionError
from asyncflow_hpc.task import TaskDescription

__all__ = ["Options", "job_script", "job_spec", "launch_line", "options_for"]

# Seconds before the end of a walltime at which Slurm tells the script, by SIGUSR2; it may be up to a minute early.
_WARNING = 30

# A shorter walltime would have the warning at its very start.
_SHORTEST_WARNED = 150

_OPTION = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

# What the backend itself has to say.
_OWN = frozenset(
    """
    array chdir clusters error export-file help input job-name open-mode output parsable quiet signal test-only usage
    verbose version wait wrap
    """.split()  # noqa: SIM905
)

_NUMBERED = 'export ASYNCFLOW_RANK="${SLURM_PROCID:-0}" ASYNCFLOW_SIZE="${SLURM_NTASKS:-1}"'
_RANKED = f'{_NUMBERED}; exec "$@"'

# srun gives the highest exit code of all ranks, and those that it ends itself have high ones. So each rank that fails
# leaves its own where there is room for one, and a shell around srun takes that. Signals are for what they start; what
# a shell says of a child that one has ended is not the task's output.
_FAILED = '"$ASYNCFLOW_SANDBOX/.asyncflow/first-failure"'
_LOG = 'exec 3>&2 2>>"$ASYNCFLOW_SANDBOX/.asyncflow/script.log"; (exec 2>&3 3>&-; exec "$@"); c=$?'
_TRAPS = "trap : HUP INT TERM USR1 USR2 XCPU"
_RANK_THAT_TELLS = f'{_NUMBERED}; {_TRAPS}; {_LOG}; [ "$c" -eq 0 ] || ln -s -- "$c" {_FAILED}; exit "$c"'
_FIRST_FAILURE = (
    f'rm -f -- {_FAILED}; {_TRAPS}; {_LOG}; f=0; [ "$c" -eq 0 ] || f=$(readlink {_FAILED}) || f=$c; exit "$f"'
)

Options = dict[str, str | bool]


def options_for(description: TaskDescription, name: str, sandbox: str, comment: str) -> Options:
    """Say everything that sbatch is to be told; source: sbatch(1).

    Args:
        name: of the job.
        sandbox: in which it runs.
        comment: for people who look at the queue.

    Raises:
        TaskDescriptionError: an option that cannot be passed on.
    """
    options: Options = {
        "job-name": name,
        "chdir": sandbox,
        "output": ".asyncflow/job.log",
        "comment": " ".join(re.sub(r"[^ -~]", "?", comment).split()),
        "no-requeue": True,
        "export": "ALL",
        **_resources(description),
        **_limits(description),
    }
    for key, value in _native(description.slurm).items():
        if key == "requeue":
            del options["no-requeue"]
        options[key] = value
    return options


def _resources(description: TaskDescription) -> Options:
    options: Options = {"ntasks": str(description.ranks), "cpus-per-task": str(description.cores_per_rank)}
    if description.nodes is not None:
        options["nodes"] = str(description.nodes)
    if description.ranks_per_node is not None:
        options["ntasks-per-node"] = str(description.ranks_per_node)
    if description.gpus_per_rank:
        options["gpus-per-task"] = str(description.gpus_per_rank)
    if description.mem_per_rank is not None:
        # The one form that holds however the ranks are spread.
        options["mem-per-cpu"] = f"{math.ceil(description.mem_per_rank / description.cores_per_rank / 1024)}K"
    if description.exclusive:
        options["exclusive"] = True
    return options


def _limits(description: TaskDescription) -> Options:
    options: Options = {}
    if description.walltime is not None:
        options["time"] = _time(description.walltime)
        if description.walltime >= _SHORTEST_WARNED:
            options["signal"] = f"B:USR2@{_WARNING}"
    words = {
        "partition": description.queue,
        "account": description.account,
        "reservation": description.reservation,
        "qos": description.qos,
        "constraint": description.constraint,
    }
    for key, value in words.items():
        if value is not None:
            options[key] = _one_line(key, value)
    return options


def _time(seconds: float) -> str:
    days, rest = divmod(math.ceil(seconds), 86400)
    return f"{days}-{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"


def _native(values: Mapping[str, Any]) -> Options:
    options: Options = {}
    for key, value in values.items():
        option = key.lstrip("-").replace("_", "-").lower()
        if not _OPTION.fullmatch(option):
            raise TaskDescriptionError(f"task_description['slurm']: {key!r} is no long option of sbatch")
        if option in _OWN:
            raise TaskDescriptionError(f"task_description['slurm']: {key!r} is set by the backend itself")
        if value is True:
            options[option] = True
        elif value is not False and value is not None:
            options[option] = _one_line(option, str(value))
    return options


def _one_line(key: str, value: str) -> str:
    if re.search(r"[\0\n\r]", value):
        raise TaskDescriptionError(f"task_description: {key} must be one line, not {value!r}")
    return value


def job_script(options: Mapping[str, Any], lines: Iterable[str]) -> str:
    """Write a batch script: a line for each option, and what it runs."""
    directives = []
    for key, value in options.items():
        # sbatch reads these lines with quotes and backslashes much as sh does.
        directives.append(f"#SBATCH --{key}" if value is True else f"#SBATCH --{key}={shlex.quote(str(value))}")
    return "\n".join(["#!/bin/sh", *directives, *lines, ""])


def launch_line(argv: list[str], description: TaskDescription) -> list[str]:
    """Make the argv that starts a command on all its ranks."""
    if description.ranks == 1 and (description.nodes or 1) == 1 and description.launcher is None:
        return argv
    if description.launcher is not None:
        launcher = [*shlex.split(description.launcher), "-n", str(description.ranks)]
        return [*launcher, "/bin/sh", "-c", _RANKED, "sh", *argv]
    # Since 22.05 srun does not take the cores from sbatch; source: srun(1), --cpus-per-task.
    cores = f"--cpus-per-task={description.cores_per_rank}"
    srun = ["srun", f"--ntasks={description.ranks}", cores, "--kill-on-bad-exit=1"]
    return ["/bin/sh", "-c", _FIRST_FAILURE, "sh", *srun, "/bin/sh", "-c", _RANK_THAT_TELLS, "sh", *argv]


def job_spec(description: TaskDescription, options: Options, script: str, sandbox: str) -> Any:
    """Make the PSI/J job; what its resource specification has no word for goes along as options of Slurm."""
    from psij import JobAttributes, JobSpec, ResourceSpecV1

    ranks, memory = description.ranks, description.mem_per_rank
    limit = timedelta(minutes=10) if description.walltime is None else timedelta(seconds=description.walltime)
    return JobSpec(
        executable="/bin/sh",
        arguments=[script],
        directory=Path(sandbox),
        name=str(options["job-name"]),
        resources=ResourceSpecV1(
            process_count=ranks,
            cpu_cores_per_process=description.cores_per_rank,
            gpu_cores_per_process=description.gpus_per_rank or None,
            exclusive_node_use=description.exclusive,
            memory=None if memory is None else ranks * memory,
        ),
        attributes=JobAttributes(
            duration=limit,
            queue_name=description.queue,
            account=description.account,
            reservation_id=description.reservation,
            custom_attributes={f"slurm.{key}": value for key, value in options.items()},
        ),
    )
