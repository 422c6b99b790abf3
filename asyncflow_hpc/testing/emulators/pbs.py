"""The commands of PBS Pro over the emulated batch system, as a real OpenPBS 23.06.06 answers."""

from __future__ import annotations

import getpass
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import pbs_jobs, pbs_launch, pbs_show
from .answers import Answer, Command, Refused, Request
from .batch import BatchSystem
from .faults import Faults
from .model import Chunk, Ended, Job, State
from .options import IllegalOption, parsed
from .pbs_qmgr import qmgr
from .pbs_submit import (
    Asked,
    asked_of,
    check_queue,
    check_resources,
    checked_name,
    chunks_of,
    dependencies,
    duration,
    start_time,
)
from .running import Processes

__all__ = ["Pbs"]

_ID = re.compile(r"([0-9]+(?:\[[0-9]*\])?)(?:\.([A-Za-z0-9_.-]+))?")


class Pbs:
    """PBS Pro."""

    submit_values, submit_flags = "aAcCeJjklmMNopPqrRSuvW", "fhIVXz"

    def __init__(self, batch: BatchSystem, processes: Processes, faults: Faults) -> None:
        self.batch = batch
        self.processes = processes
        self.faults = faults
        self.server = batch.settings.server
        self.user = getpass.getuser()
        self.commands: Mapping[str, Command] = {
            name: self._guarded(command)
            for name, command in {
                "qsub": self.qsub,
                "qstat": self.qstat,
                "qselect": self.qselect,
                "qdel": self.qdel,
                "qhold": self.qhold,
                "qrls": self.qrls,
                "qsig": self.qsig,
                "qrerun": self.qrerun,
                "qmgr": self.qmgr,
            }.items()
        }

    def _guarded(self, command: Command) -> Command:
        def answer(request: Request) -> Answer:
            try:
                return command(request)
            except Refused as refused:
                return refused.answer
            except IllegalOption as error:
                return Answer(2, "", f"{request.program}: invalid option -- '{error.letter}'\n")

        return answer

    def reads_input(self, program: str, arguments: Sequence[str]) -> bool:
        """Tell whether a command reads its standard input: qsub without a script."""
        if program != "qsub":
            return False
        try:
            return not parsed(arguments, self.submit_values, self.submit_flags)[1]
        except IllegalOption:
            return False

    def forget(self, job: Job) -> None:
        """Leave nothing of a job: PBS knows no more than the batch system."""

    def down(self, program: str) -> Answer:
        """Answer for a server that does not run."""
        text = f"Connection refused\n{program}: cannot connect to server {self.server} (errno=15010)\n"
        return Answer(162, "", text)

    def full(self, number: str) -> str:
        """Return the id of a job with the name of the server."""
        return f"{number}.{self.server}"

    def qsub(self, request: Request) -> Answer:
        """Take a job."""
        asked = asked_of(request, self.submit_values, self.submit_flags)
        name = checked_name(asked)
        self.check(asked)
        chunks, memory = self.chunks(asked)
        walltime = duration(asked.resources["walltime"]) if "walltime" in asked.resources else None
        cores = sum(chunk.count * chunk.cores for chunk in chunks)
        wanted = asked.options.get("q", self.batch.default)
        if "@" in wanted:
            text = f"Unknown Host.\nqsub: cannot connect to server {self.server} (errno=15008)\n"
            raise Refused(160, text)
        queue = check_queue(self.batch.queues.get(wanted), walltime, cores, self.batch.unfinished(wanted))
        after = dependencies(asked.attributes.get("depend", ""))
        begin = start_time(asked.options["a"], self.batch.now()) if "a" in asked.options else None
        place = self.place(asked)
        number = self.batch.number()
        job = Job(
            number=str(number),
            name=name,
            queue=queue.name,
            chunks=chunks,
            launch=pbs_launch.launch(self, request, asked, name, str(number)),
            place=place.partition(":")[0],
            alone="excl" in place,
            walltime=walltime if walltime is not None else queue.standard,
            memory=memory,
            rerunnable=asked.options.get("r", "y") != "n",
            holds={"u"} if "h" in asked.options else set(),
            begin=begin,
            after=after,
        )
        job.shown.update(pbs_jobs.as_submitted(self, request, asked, job))
        for one in after:
            if one.number in self.batch.jobs:
                before = self.batch.jobs[one.number].shown.setdefault("before", [])
                before.append(f"{one.kind.replace('after', 'before')}:{self.full(job.number)}@{self.server}")
        if "J" in asked.options:
            self._submit_array(job, asked.options["J"])
        else:
            self.batch.submit(job)
        return Answer(0, self.full(job.number) + "\n")

    def check(self, asked: Asked) -> None:
        """Look at the resources of -l."""
        check_resources(asked.resources, self.batch.settings.gpus > 0)

    def chunks(self, asked: Asked) -> tuple[list[Chunk], int | None]:
        """Say what a job asks for: chunks, and bytes."""
        return chunks_of(asked.resources, self.batch.settings.gpus > 0)

    def place(self, asked: Asked) -> str:
        """Say how the chunks of a job lie."""
        return asked.resources.get("place", "free" if "select" in asked.resources else "pack")

    def resources(self, asked: Asked, job: Job) -> Mapping[str, Any]:
        """Say what is told of what a job asks for."""
        return pbs_jobs.resources(asked, job)

    def _submit_array(self, whole: Job, text: str) -> None:
        found = re.fullmatch(r"([0-9]+)-([0-9]+)(?::([0-9]+))?", text)
        if found is None:
            raise Refused(2, "qsub: illegal -J value\n")
        number = whole.number
        whole.number, whole.shown["indices"] = f"{number}[]", text
        whole.state, whole.created = State.QUEUED, self.batch.now()
        whole.changed = whole.eligible = whole.created
        self.batch.jobs[whole.number] = whole
        for index in range(int(found[1]), int(found[2]) + 1, int(found[3] or 1)):
            part = Job(
                number=f"{number}[{index}]", name=whole.name, queue=whole.queue, chunks=whole.chunks,
                launch=whole.launch, place=whole.place, alone=whole.alone, walltime=whole.walltime, memory=whole.memory,
                holds=set(whole.holds), begin=whole.begin, shown=dict(whole.shown), array=whole, index=index,
            )  # fmt: skip
            self.batch.submit(part)

    def environment(self, job: Job) -> Mapping[str, str]:
        """Say what a job that starts is told in its environment."""
        first = job.chunks[0]
        told = {
            "PBS_JOBID": self.full(job.number),
            "PBS_JOBNAME": job.name,
            "PBS_QUEUE": job.queue,
            "PBS_NODEFILE": str(self.processes.node_file(job)),
            "PBS_ENVIRONMENT": "PBS_BATCH",
            "ENVIRONMENT": "BATCH",
            "PBS_JOBCOOKIE": job.shown.setdefault("cookie", secrets.token_hex(16).upper()),
            "PBS_MOMPORT": "15003",
            "PBS_JOBDIR": job.launch.directory,
            "TMPDIR": str(self.processes.scratch(job)),
            "PBS_NODENUM": "0",
            "PBS_TASKNUM": "1",
            "NCPUS": str(first.cores),
            "OMP_NUM_THREADS": str(first.cores // max(first.ranks, 1) or 1),
        }
        if job.array is not None:
            told |= {"PBS_ARRAY_INDEX": str(job.index), "PBS_ARRAY_ID": self.full(job.array.number)}
        gpus = [str(gpu) for share in job.shares for gpu in share.gpus]
        return {**told, "CUDA_VISIBLE_DEVICES": ",".join(gpus)} if self.batch.settings.gpus else told

    def known(self, program: str, text: str) -> Job:
        """Find a job.

        Raises:
            Refused: it is not known, or the text is no id.
        """
        found = _ID.fullmatch(text)
        if found is None:
            raise Refused(1, f"{program}: illegally formed job identifier: {text}\n")
        job = self.batch.jobs.get(found[1])
        if job is None:
            raise Refused(153, f"{program}: Unknown Job Id {self.full(found[1])}\n")
        return job

    def _each(self, program: str, ids: Sequence[str], do: Callable[[Job], None]) -> Answer:
        code, said = 0, ""
        for text in ids:
            try:
                do(self.known(program, text))
            except Refused as refused:
                code, said = refused.answer.code, said + str(refused)
        return Answer(code, "", said)

    def qdel(self, request: Request) -> Answer:
        """Delete jobs; with -x those that have ended, too."""
        found, ids = parsed(request.arguments, "W", "x")
        options = dict(found)

        def delete(job: Job) -> None:
            if "x" in options:
                self.batch.lose(job)
            elif job.state is not State.ENDED:
                if options.get("W") == "force" and job.state is State.RUNNING:
                    self.batch.kill(job, 9)
                job.shown["waited for"] = pbs_jobs.waits_for(self, job)
                self.batch.end(job, Ended.CANCELLED, f"{self.user}@{self.server}")
            else:
                raise self.finished("qdel", job)

        return self._each("qdel", ids, delete)

    def finished(self, program: str, job: Job) -> Refused:
        """Refuse to do something to a job that has ended."""
        return Refused(35, f"{program}: Job has finished {self.full(job.number)}\n")

    def not_to_be_held(self, program: str, job: Job) -> Refused:
        """Refuse to hold or release a job that has ended; without its id, as the real ones do."""
        return Refused(35, f"{program}: Job has finished \n")

    def _waiting(self, program: str, request: Request, do: Callable[[Job, str], None]) -> Answer:
        found, ids = parsed(request.arguments, "h", "")
        letters = dict(found).get("h", "u")

        def change(job: Job) -> None:
            if job.state is State.ENDED:
                raise self.not_to_be_held(program, job)
            do(job, letters)

        return self._each(program, ids, change)

    def qhold(self, request: Request) -> Answer:
        """Hold jobs."""

        def hold(job: Job, letters: str) -> None:
            for one in letters:
                self.batch.hold(job, one)
            job.shown["held"] = f"Job held by {self.user} on {pbs_show.date(self.batch.now())}"

        return self._waiting("qhold", request, hold)

    def qrls(self, request: Request) -> Answer:
        """Release jobs."""

        def release(job: Job, letters: str) -> None:
            self.batch.release(job, letters)
            job.shown.pop("held", None)

        return self._waiting("qrls", request, release)

    def qsig(self, request: Request) -> Answer:
        """Send signals to jobs."""
        found, ids = parsed(request.arguments, "s", "")
        name = dict(found).get("s", "TERM")

        def send(job: Job) -> None:
            if job.state is not State.RUNNING:
                raise Refused(139, f"qsig: Request invalid for state of job {self.full(job.number)}\n")
            self.batch.kill(job, pbs_jobs.signal_number(name))

        return self._each("qsig", ids, send)

    def qrerun(self, request: Request) -> Answer:
        """Put running jobs back into the queue: an operator may, a user may not."""
        _, ids = parsed(request.arguments, "W", "")

        def rerun(job: Job) -> None:
            raise Refused(159, f"qrerun: Unauthorized Request  {self.full(job.number)}\n")

        return self._each("qrerun", ids, rerun)

    def qselect(self, request: Request) -> Answer:
        """List the ids of jobs."""
        found, _ = parsed(request.arguments, "acAhlNpqrstTuW", "JxHT")
        options = dict(found)
        lines = []
        for job in self.batch.jobs.values():
            letter = self.letter(job)
            listed = not self.ended(job) or "x" in options or "H" in options
            users = options.get("u", self.user).split(",")
            right = (
                self.user in users
                and options.get("q", job.queue) == job.queue
                and options.get("N", job.name) == job.name
                and letter in options.get("s", letter)
            )
            if listed and right and job.array is None:
                lines.append(f"{self.full(job.number)}\n")
        return Answer(0, "".join(lines))

    def ended(self, job: Job) -> bool:
        """Tell whether a job is one of the history."""
        return job.state is State.ENDED

    def letter(self, job: Job) -> str:
        """Say the state of a job."""
        return pbs_jobs.letter(job)

    def qmgr(self, request: Request) -> Answer:
        """Set up queues."""
        return qmgr(self.batch, request)

    def attributes(self, job: Job) -> pbs_show.Attributes:
        """Say all that is known of a job."""
        return pbs_jobs.attributes(self, job)

    def qstat(self, request: Request) -> Answer:
        """Tell about jobs, queues or the server."""
        if request.arguments == ["--version"]:
            return Answer(0, "pbs_version = 23.06.06\n")
        found, ids = parsed(request.arguments, "FuD", "fxHtQBwnsaJp")
        options = dict(found)
        if "B" in options or "Q" in options:
            return pbs_jobs.server_or_queues(self, options)
        history = "x" in options or "H" in options
        if history and not self.batch.history:
            return Answer(1, "", "qstat: PBS is not configured to maintain job history\n")
        jobs, code, said = self._listed(ids, history, "t" in options)
        users = options.get("u", self.user).split(",")
        return Answer(code, self._printed([job for job in jobs if self.user in users], options), said)

    def _listed(self, ids: Sequence[str], history: bool, parts: bool) -> tuple[list[Job], int, str]:
        jobs: list[Job] = []
        code, said = 0, ""
        if not ids:
            jobs = [job for job in self.batch.jobs.values() if job.array is None and (history or not self.ended(job))]
        for text in ids:
            try:
                if not text[:1].isdigit():
                    # To qstat, it is the name of a queue.
                    raise Refused(170, f"qstat: Unknown queue destination {text}\n")
                job = self.known("qstat", text)
                if self.ended(job) and not history:
                    wanted = "use -x or -H to obtain historical job information"
                    raise Refused(35, f"qstat: {self.full(job.number)} Job has finished, {wanted}\n")
            except Refused as refused:
                code, said = refused.answer.code, said + str(refused)
            else:
                jobs.append(job)
        if parts:
            jobs = [one for job in jobs for one in [job, *job.parts]]
        return jobs, code, said

    def _printed(self, jobs: Sequence[Job], options: Mapping[str, Any]) -> str:
        if "f" in options:
            told = {self.full(job.number): self.attributes(job) for job in jobs}
            if options.get("F") == "json":
                if self.faults.first_only:
                    told = dict(list(told.items())[:1])
                return pbs_show.in_json(self.server, self.batch.now(), "Jobs", told)
            if options.get("F") == "dsv":
                return "".join(pbs_show.dsv(number, one) for number, one in told.items())
            return "".join(pbs_show.in_text("Job Id", number, one) for number, one in told.items())
        if "u" in options or "a" in options:
            return pbs_show.user_table(self.server, [pbs_jobs.user_row(self, job) for job in jobs])
        return pbs_show.table([pbs_jobs.row(self, job) for job in jobs])
