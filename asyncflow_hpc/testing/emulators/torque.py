"""The commands of Torque over the emulated batch system.

Source: Torque Administrator Guide 6.1.2. No recording of a real one is there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import pbs_jobs
from .answers import Answer, Refused, Request
from .model import Chunk, Ended, Job, State
from .pbs import Pbs
from .pbs_show import clock, date
from .pbs_submit import Asked, check_resources, size

__all__ = ["Torque"]

# How qsub words a refusal, by the code that PBS Pro has for it.
_REFUSALS = {
    38: "Maximum number of jobs already in queue MSG=total number of current user's jobs exceeds the queue limit",
    159: "Unauthorized Request  MSG=user not allowed in the queue",
    170: "Unknown queue MSG=requested queue not found",
    173: "Queue is not enabled MSG=queue is disabled",
    188: "Job exceeds queue resource limits MSG=cannot satisfy queue max requirement",
}

_KILLED = {Ended.WALLTIME: -11, Ended.MEMORY: -10}


class Torque(Pbs):
    """Torque: nodes and ppn, and a state C for jobs that have ended, which is no history."""

    submit_values, submit_flags = "aAbcCdDejklmMNopPqrStTuvwW", "fhIVxXz"

    def qsub(self, request: Request) -> Answer:
        """Take a job."""
        try:
            return super().qsub(request)
        except Refused as refused:
            text = _REFUSALS.get(refused.answer.code)
            if text is None:
                raise
            raise Refused(refused.answer.code, f"qsub: submit error ({text})\n") from refused

    def chunks(self, asked: Asked) -> tuple[list[Chunk], int | None]:
        """Say what a job asks for: nodes, and bytes."""
        chunks = []
        for part in asked.resources.get("nodes", "1").split("+"):
            count, *wishes = part.split(":")
            if not count.isdigit():
                count, wishes = "1", part.split(":")
            if int(count) == 0:
                raise Refused(166, "qsub: Illegal attribute or resource value for nodes\n")
            numbers = {name: value for name, _, value in (wish.partition("=") for wish in wishes) if value.isdigit()}
            cores = int(numbers.get("ppn", "1"))
            chunks.append(Chunk(int(count), cores, cores, int(numbers.get("gpus", "0"))))
        return chunks, size(asked.resources.get("mem", "")) or None

    def place(self, asked: Asked) -> str:
        """Say how the nodes of a job lie: apart, where there are enough of them."""
        alone = asked.resources.get("naccesspolicy") == "singlejob"
        return "scatter:excl" if alone else "scatter"

    def resources(self, asked: Asked, job: Job) -> Mapping[str, Any]:
        """Say what is told of what a job asks for."""
        nodect = sum(chunk.count for chunk in job.chunks)
        told: dict[str, Any] = {"nodect": nodect, "nodes": "1", **asked.resources}
        if job.walltime is not None:
            told["walltime"] = clock(job.walltime)
        return dict(sorted(told.items()))

    def ended(self, job: Job) -> bool:
        """Tell whether a job is one of the history: there is none."""
        return False

    def letter(self, job: Job) -> str:
        """Say the state of a job."""
        return "C" if job.state is State.ENDED else pbs_jobs.letter(job)

    def finished(self, program: str, job: Job) -> Refused:
        """Refuse to do something to a job that has ended."""
        text = f"{program}: Request invalid for state of job MSG=invalid state for job - COMPLETE"
        return Refused(170, f"{text} {self.full(job.number)}\n")

    def not_to_be_held(self, program: str, job: Job) -> Refused:
        """Refuse to hold or release a job that has ended."""
        return self.finished(program, job)

    def check(self, asked: Asked) -> None:
        """Look at the resources of -l."""
        check_resources(asked.resources)

    def environment(self, job: Job) -> Mapping[str, str]:
        """Say what a job that starts is told in its environment; of GPUs nothing: Torque names a file of them."""
        told = dict(super().environment(job))
        for name in ("NCPUS", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PBS_JOBDIR", "TMPDIR"):
            told.pop(name, None)
        cores = sum(len(share.cores) for share in job.shares)
        nodes = len({share.node.name for share in job.shares})
        return {
            **told,
            "PBS_NUM_NODES": str(nodes),
            "PBS_NUM_PPN": str(job.chunks[0].cores),
            "PBS_NP": str(cores),
            "PBS_VNODENUM": "0",
        }

    def qstat(self, request: Request) -> Answer:
        """Tell about jobs or queues."""
        if request.arguments == ["--version"]:
            return Answer(0, "", "Version: 6.1.2\n")
        if any(re.fullmatch("-[A-Za-z]*[xFJ].*", word) for word in request.arguments):
            return Answer(2, "", "qstat: the emulated one prints text alone\n")
        return super().qstat(request)

    def attributes(self, job: Job) -> Mapping[str, Any]:
        """Say all that is known of a job."""
        shown, ran, ended = job.shown, job.started is not None, job.state is State.ENDED
        used = {"cput": "00:00:00", "mem": f"{job.used // 1024}kb", "vmem": f"{job.used // 1024}kb"}
        every: dict[str, Any] = {
            "Job_Name": job.name,
            "Job_Owner": f"{self.user}@{self.server}",
            "resources_used": {**used, "walltime": clock(self.batch.elapsed(job))} if ran else None,
            "job_state": self.letter(job),
            "queue": job.queue,
            "server": self.server,
            "Account_Name": shown["account"],
            "Checkpoint": "u",
            "ctime": date(job.created),
            "depend": ",".join(f"{one.kind}:{self.full(one.number)}" for one in job.after) or None,
            "Error_Path": f"{self.server}:{job.launch.errors}",
            "exec_host": self._hosts(job) or None,
            "Hold_Types": "".join(sorted(job.holds)) or "n",
            "Join_Path": shown["join"],
            "Keep_Files": shown["keep"],
            "Mail_Points": shown["mail"],
            "mtime": date(job.changed),
            "Output_Path": f"{self.server}:{job.launch.output}",
            "Priority": shown["priority"],
            "qtime": date(job.created),
            "Rerunable": str(job.rerunnable),
            "Resource_List": shown["resources"],
            "session_id": job.pid if ran else None,
            "Variable_List": shown["variables"],
            "comment": pbs_jobs.waits_for(self, job) or None,
            "etime": date(job.eligible) if job.eligible is not None else None,
            "exit_status": self._status(job),
            "submit_args": shown["arguments"],
            "start_time": date(job.started) if ran else None,
            "start_count": job.runs or None,
            "fault_tolerant": "False",
            "comp_time": date(job.ended) if ended else None,
            "job_radix": 0,
            "submit_host": self.server,
        }
        return {name: value for name, value in every.items() if value is not None}

    def _status(self, job: Job) -> int | None:
        if job.why in _KILLED and job.state is State.ENDED and job.code is not None:
            return _KILLED[job.why]
        return pbs_jobs.exit_status(job)

    def _hosts(self, job: Job) -> str:
        return "+".join(f"{share.node.name}/{core}" for share in job.shares for core in share.cores)
