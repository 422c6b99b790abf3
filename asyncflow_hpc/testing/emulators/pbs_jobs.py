"""What PBS tells about a job: its attributes in the order of a real OpenPBS 23.06.06, its states, its comments."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import pbs_show
from .answers import Answer, Request
from .model import Ended, Job, State
from .pbs_show import clock, date, short_date
from .pbs_submit import Asked

if TYPE_CHECKING:
    from .pbs import Pbs

__all__ = [
    "as_submitted",
    "attributes",
    "exit_status",
    "letter",
    "resources",
    "row",
    "server_or_queues",
    "user_row",
    "variables",
]

_LETTERS = {
    State.HELD: "H",
    State.WAITING: "W",
    State.QUEUED: "Q",
    State.RUNNING: "R",
    State.ENDED: "F",
}

# Seconds until a node has told the server about a job that runs.
_REPORT = 1.0


def letter(job: Job) -> str:
    """Say the state of a job."""
    if job.parts and job.state is State.RUNNING:
        return "B"
    if job.array is not None and job.state is State.ENDED and job.array.state is not State.ENDED:
        return "X"
    return _LETTERS[job.state]


def signal_number(name: str) -> int:
    """Return the number of a signal by name or number."""
    return int(name) if name.isdigit() else int(signal.Signals[f"SIG{name.removeprefix('SIG')}"])


def variables(pbs: Pbs, request: Request, asked: Asked) -> dict[str, str]:
    """Say what a job knows of where it was submitted."""
    given = request.environment
    return {
        "PBS_O_HOME": given.get("HOME", "/"),
        "PBS_O_LANG": given.get("LANG", "C.UTF-8"),
        "PBS_O_LOGNAME": given.get("LOGNAME", pbs.user),
        "PBS_O_PATH": given.get("PATH", ""),
        "PBS_O_SHELL": given.get("SHELL", "/bin/sh"),
        "PBS_O_INTERACTIVE_AUTH_METHOD": "resvport",
        "PBS_O_INTERACTIVE_ENCRYPT_METHOD": "",
        "PBS_O_WORKDIR": request.directory,
        "PBS_O_SYSTEM": "Linux",
        "PBS_O_QUEUE": asked.options.get("q", pbs.batch.default),
        "PBS_O_HOST": pbs.server,
    }


def as_submitted(pbs: Pbs, request: Request, asked: Asked, job: Job) -> dict[str, Any]:
    """Say what stays of a submission."""
    told = variables(pbs, request, asked)
    if "V" in asked.options:
        told |= {name: value for name, value in request.environment.items() if name not in told}
    return {
        "variables": told,
        "arguments": asked.arguments,
        "resources": pbs.resources(asked, job),
        "join": asked.options.get("j", "n"),
        "keep": asked.options.get("k", "n"),
        "mail": asked.options.get("m", "a"),
        "priority": int(asked.options.get("p", "0")) if asked.options.get("p", "0").lstrip("+-").isdigit() else 0,
        "account": asked.options.get("A"),
        "shell": asked.options.get("S"),
        "project": asked.options.get("P", "_pbs_project_default"),
        "directory": request.directory,
    }


def resources(asked: Asked, job: Job) -> dict[str, Any]:
    """Say what a job asks for, with what the server adds."""
    found: dict[str, Any] = dict(asked.resources)
    if "walltime" in found and job.walltime is not None:
        found["walltime"] = clock(job.walltime)
    found.setdefault("select", f"1:ncpus={job.cores}")
    found.setdefault("place", "free" if "select" in asked.resources else "pack")
    found["ncpus"] = job.cores
    found["nodect"] = sum(chunk.count for chunk in job.chunks)
    return dict(sorted(found.items()))


def _used(pbs: Pbs, job: Job) -> dict[str, Any]:
    return {
        "cpupercent": 0,
        "cput": "00:00:00",
        "mem": f"{job.used // 1024}kb",
        "ncpus": job.cores,
        "vmem": f"{job.used // 1024}kb",
        "walltime": clock(pbs.batch.elapsed(job)),
    }


def exit_status(job: Job) -> int | None:
    """Say how a job ended: below zero if PBS ended it, above 256 if a signal did."""
    if job.code is None or job.state is not State.ENDED:
        return None
    if job.why in _KILLED:
        return _KILLED[job.why]
    return job.code if job.code >= 0 else 256 - job.code


_KILLED = {Ended.WALLTIME: -29, Ended.MEMORY: -27}


def _substate(job: Job, reported: bool) -> int:
    if job.state is State.ENDED:
        if job.why is Ended.CANCELLED:
            return 91
        return 92 if job.code in (0, None) and job.why not in _KILLED else 93
    if job.state is State.RUNNING:
        return 70 if job.parts else 42 if reported else 41
    if job.state is State.HELD:
        return 22 if "s" in job.holds else 20
    return 30 if job.state is State.WAITING else 10


def exec_vnode(job: Job) -> str:
    """Say what of which nodes a job has, such as "(n1:ncpus=2)+(n2:ncpus=2)"."""
    return "+".join(
        f"({share.node.name}:ncpus={len(share.cores)}{f':ngpus={len(share.gpus)}' if share.gpus else ''})"
        for share in job.shares
    )


def _exec_host(job: Job) -> str:
    parts = []
    for share in job.shares:
        number = f"*{len(share.cores)}" if len(share.cores) > 1 else ""
        parts.append(f"{share.node.name}/{share.cores[0] if share.cores else 0}{number}")
    return "+".join(parts)


def waits_for(pbs: Pbs, job: Job) -> str:
    """Say why a job is queued; "" where the scheduler has not said anything yet."""
    if job.state is not State.QUEUED or job.parts:
        return ""
    queue = pbs.batch.queues.get(job.queue)
    if queue is not None and not queue.started:
        return "Not Running: Queue not started."
    if not job.comment:
        return ""
    total = sum(node.size for node in pbs.batch.nodes)
    free = sum(len(node.cores) for node in pbs.batch.nodes)
    if pbs.batch.never(job):
        return f"Can Never Run: Insufficient amount of resource: ncpus (R: {job.cores} A: {total} T: {total})"
    return f"Not Running: Insufficient amount of resource: ncpus (R: {job.cores} A: {free} T: {total})"


def _comment(pbs: Pbs, job: Job) -> str:
    if job.state is State.HELD and "held" in job.shown:
        return str(job.shown["held"])
    if job.started is None:
        before = str(job.shown.get("waited for", ""))
        if job.state is State.ENDED:
            return f"{before} and terminated" if before else ""
        return waits_for(pbs, job)
    if job.parts:
        text = f"Job Array Began at {short_date(job.started)}"
        return text if job.state is not State.ENDED else f"{text} and {'failed' if job.code else 'finished'}"
    text = f"Job run at {short_date(job.started)} on {exec_vnode(job)}"
    if Ended.CANCELLED in (job.asked, job.why):
        return f"{text} and terminated by {job.by}"
    if job.state is not State.ENDED:
        return text
    if job.why is Ended.WALLTIME:
        return f"{text} and exceeded resource walltime"
    if job.why is Ended.MEMORY:
        return f"{text} and exceeded resource mem"
    return f"{text} and {'failed' if job.code else 'finished'}"


def _path(job: Job, server: str, path: str | None, end: str) -> str:
    told = path or "/dev/null"
    if job.parts:
        told += ".^array_index^"
    elif job.array is not None:
        told += f".{job.index}"
    return f"{server}:{told}"


def attributes(pbs: Pbs, job: Job) -> dict[str, Any]:
    """Say all that is known of a job."""
    shown, ended = job.shown, job.state is State.ENDED
    elapsed = pbs.batch.elapsed(job) if job.started is not None else 0.0
    reported = job.started is not None and not job.parts and (ended or elapsed >= _REPORT)
    ran, part = job.started is not None, job.array is not None
    depend = [f"{one.kind}:{pbs.full(one.number)}@{pbs.server}" for one in job.after] + shown.get("before", [])
    comment = _comment(pbs, job)
    every: dict[str, Any] = {
        "Job_Name": job.name,
        "Job_Owner": f"{pbs.user}@{pbs.server}",
        "resources_used": _used(pbs, job) if reported else None,
        "job_state": letter(job),
        "queue": job.queue,
        "server": pbs.server,
        "Account_Name": shown["account"],
        "Checkpoint": None if part else "u",
        "ctime": date(job.created),
        "depend": ",".join(depend) or None,
        "Error_Path": _path(job, pbs.server, job.launch.errors, "e"),
        "Execution_Time": date(job.begin) if job.state is State.WAITING else None,
        "exec_host": _exec_host(job) or None,
        "exec_vnode": exec_vnode(job) or None,
        "Hold_Types": None if part else "".join(sorted(job.holds)) or "n",
        "Join_Path": shown["join"],
        "Keep_Files": shown["keep"],
        "Mail_Points": shown["mail"],
        "mtime": date(job.changed),
        "Output_Path": _path(job, pbs.server, job.launch.output, "o"),
        "Priority": shown["priority"],
        "qtime": date(job.created),
        "Rerunable": "True" if job.rerunnable else "False",
        "Resource_List": shown["resources"],
        "stime": date(job.started) if ran else None,
        "obittime": date(job.ended) if ran and ended else None,
        "session_id": job.pid if reported and elapsed >= _REPORT else None,
        "Shell_Path_List": shown["shell"],
        "jobdir": job.launch.directory if reported else None,
        "substate": _substate(job, reported),
        "Variable_List": shown["variables"],
        "comment": comment or None,
        "etime": date(job.eligible) if job.eligible is not None else None,
        "run_count": job.runs or None,
        "Stageout_status": int(not job.undelivered) if ran and ended else None,
        "Exit_status": exit_status(job),
        "Submit_arguments": None if part else shown["arguments"],
        **_of_array(pbs, job),
        "history_timestamp": int(job.ended or 0) if ended else None,
        "project": shown["project"],
        "Submit_Host": pbs.server,
    }
    return {name: value for name, value in every.items() if value is not None}


def _of_array(pbs: Pbs, job: Job) -> dict[str, Any]:
    if job.array is not None:
        return {"array_id": pbs.full(job.array.number), "array_index": job.index}
    if not job.parts:
        return {}
    states = [letter(part) for part in job.parts]
    counts = {"Queued": "QHW", "Running": "R", "Exiting": "E", "Expired": "X"}
    left = [str(part.index) for part in job.parts if letter(part) in "QHW"]
    return {
        "array": "True",
        "array_state_count": " ".join(f"{name}:{sum(s in of for s in states)}" for name, of in counts.items()),
        "array_indices_submitted": job.shown["indices"],
        "array_indices_remaining": ",".join(left) or "-",
    }


def row(pbs: Pbs, job: Job) -> tuple[str, str, str, str, str, str]:
    """Say what a line of qstat has of a job."""
    used = clock(0) if job.started is not None and not job.parts else "0"
    return pbs.full(job.number), job.name, pbs.user, used, pbs.letter(job), job.queue


def user_row(pbs: Pbs, job: Job) -> Any:
    """Say what a line of `qstat -u` has of a job."""
    nodes = sum(chunk.count for chunk in job.chunks)
    memory = "   -- " if job.memory is None else f"{job.memory // (1 << 20)}mb".rjust(6)
    used = pbs.batch.elapsed(job) if job.started is not None else None
    return (
        pbs.full(job.number), pbs.user, job.queue, job.name, job.pid, nodes, job.cores, memory,
        pbs_show.hours(job.walltime), pbs.letter(job), pbs_show.hours(used),
    )  # fmt: skip


_COUNTED = {"Transit": "", "Queued": "Q", "Held": "H", "Waiting": "W", "Running": "R", "Exiting": "E", "Begun": "B"}


def server_or_queues(pbs: Pbs, options: Mapping[str, Any]) -> Answer:
    """Tell about the server, or about its queues."""
    if "B" in options:
        told = {pbs.server: _server(pbs)}
        if options.get("F") == "json":
            return Answer(0, pbs_show.in_json(pbs.server, pbs.batch.now(), "Server", told))
        return Answer(0, pbs_show.in_text("Server", pbs.server, told[pbs.server]))
    lines = [
        "Queue              Max   Tot Ena Str   Que   Run   Hld   Wat   Trn   Ext Type\n"
        "---------------- ----- ----- --- --- ----- ----- ----- ----- ----- ----- ----\n"
    ]
    for queue in pbs.batch.queues.values():
        letters = [letter(job) for job in pbs.batch.jobs.values() if job.queue == queue.name and job.array is None]
        counts = [sum(one == state for one in letters) for state in "QRHWTE"]
        flags = ["yes" if flag else " no" for flag in (queue.enabled, queue.started)]
        total = sum(one not in "FX" for one in letters)
        numbers = " ".join(f"{count:>5}" for count in counts)
        lines.append(f"{queue.name:<16} {0:>5} {total:>5} {flags[0]} {flags[1]} {numbers} Exe*\n")
    return Answer(0, "".join(lines))


def _server(pbs: Pbs) -> Mapping[str, Any]:
    letters = [letter(job) for job in pbs.batch.jobs.values() if job.array is None]
    running = [job for job in pbs.batch.jobs.values() if job.state is State.RUNNING and not job.parts]
    return {
        "server_state": "Active",
        "server_host": pbs.server,
        "scheduling": "True",
        "total_jobs": len(letters),
        "state_count": "".join(f"{name}:{letters.count(one) if one else 0} " for name, one in _COUNTED.items()),
        "default_queue": pbs.batch.default,
        "query_other_jobs": "True",
        "resources_default": {"ncpus": 1},
        "default_chunk": {"ncpus": 1},
        "resources_assigned": {"ncpus": sum(job.cores for job in running), "nodect": len(running)},
        "pbs_version": "23.06.06",
        "job_history_enable": "True" if pbs.batch.history else "False",
        "job_history_duration": clock(pbs.batch.history),
    }
