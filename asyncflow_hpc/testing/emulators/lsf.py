"""The commands of LSF over the emulated batch system.

Source: IBM Spectrum LSF 10.1 documentation. No recording of a real one is there.
"""

from __future__ import annotations

import getpass
import os
import signal
from collections.abc import Callable, Mapping, Sequence

from . import lsf_show
from .answers import Answer, Command, Refused, Request, Wait
from .batch import BatchSystem
from .faults import Faults
from .lsf_submit import Asked, asked_of, begin_of, chunks_of, dependencies, memory_of, minutes, output_path
from .model import Ended, Job, Launch, Queue, State
from .running import Processes

__all__ = ["LSF_SIGNALS", "Lsf"]

# What bkill, and a limit, send one after the other.
LSF_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)

_LONGEST_HOSTS = 128


class Lsf:
    """IBM Spectrum LSF."""

    def __init__(self, batch: BatchSystem, processes: Processes, faults: Faults) -> None:
        self.batch = batch
        self.processes = processes
        self.user = getpass.getuser()
        self.commands: Mapping[str, Command] = {
            name: self._guarded(command)
            for name, command in {
                "bsub": self.bsub,
                "bjobs": self.bjobs,
                "bkill": self.bkill,
                "bhist": self.bhist,
                "bqueues": self.bqueues,
                "bstop": self.bstop,
                "bresume": self.bresume,
                "brequeue": self.brequeue,
            }.items()
        }
        # bhist reads the log of events, from which nothing is taken when bjobs forgets a job.
        self._all: dict[str, Job] = {}

    def _guarded(self, command: Command) -> Command:
        def answer(request: Request) -> Answer:
            try:
                return command(request)
            except Refused as refused:
                return refused.answer

        return answer

    def reads_input(self, program: str, arguments: Sequence[str]) -> bool:
        """Tell whether a command reads its standard input: bsub without a command."""
        if program != "bsub":
            return False
        try:
            return not Asked().take(arguments)
        except Refused:
            return False

    def down(self, program: str) -> Answer:
        """Let a command wait for the daemon, as the real ones do."""
        raise Wait("batch system daemon not responding ... still trying\n")

    def bsub(self, request: Request) -> Answer:
        """Take a job."""
        asked = asked_of(request)
        walltime = minutes(asked.options["W"]) if "W" in asked.options else None
        chunks, place = chunks_of(asked)
        ranks = sum(chunk.count * chunk.ranks for chunk in chunks)
        queue = self._queue(asked.options.get("q"), walltime, ranks)
        memory = memory_of(asked.options["M"]) if "M" in asked.options else None
        begin = begin_of(asked.options["b"], self.batch.now()) if "b" in asked.options else None
        after = dependencies(asked.options.get("w", ""))
        number = str(self.batch.number())
        job = Job(
            number=number,
            name=asked.options.get("J", self._command(asked)),
            queue=queue.name,
            chunks=chunks,
            launch=self._launch(request, asked, number),
            place=place,
            alone="x" in asked.options,
            walltime=walltime if walltime is not None else queue.standard,
            memory=memory,
            rerunnable="r" in asked.options,
            holds={"u"} if "H" in asked.options else set(),
            begin=begin,
            after=after,
        )
        job.shown.update(
            command=self._command(asked),
            description=asked.options.get("Jd", ""),
            project=asked.options.get("P", "default"),
        )
        self._all[number] = job
        self.batch.submit(job)
        default = "" if "q" in asked.options else "default "
        return Answer(0, f"Job <{number}> is submitted to {default}queue <{queue.name}>.\n")

    def _command(self, asked: Asked) -> str:
        if asked.command:
            return " ".join(asked.command)
        lines = [line for line in asked.script.decode(errors="replace").splitlines() if not line.startswith("#BSUB")]
        return ";".join(lines)

    def _queue(self, name: str | None, walltime: float | None, ranks: int) -> Queue:
        queue = self.batch.queue_named(name)
        if queue is None:
            raise Refused(255, f"{name}: No such queue. Job not submitted.\n")
        if queue.closed:
            raise Refused(255, "User cannot use the queue. Job not submitted.\n")
        if not queue.enabled:
            raise Refused(255, f"{queue.name}: Queue has been closed. Job not submitted.\n")
        if queue.walltime is not None and (walltime or 0.0) > queue.walltime:
            raise Refused(255, "RUNLIMIT: Cannot exceed queue's hard limit(s). Job not submitted.\n")
        if queue.cores is not None and ranks > queue.cores:
            raise Refused(255, "Too many tasks requested. Job not submitted.\n")
        if queue.most is not None and self.batch.unfinished(queue.name) >= queue.most:
            raise Wait("Pending job threshold reached. Retrying in 60 seconds...\n")
        return queue

    def _launch(self, request: Request, asked: Asked, number: str) -> Launch:
        script = asked.script
        if asked.command:
            # Arguments are joined, and a shell reads them.
            script = (" ".join(asked.command) + "\n").encode(errors="surrogateescape")
        directory = asked.options.get("cwd", request.directory)
        streams = {
            name: output_path(
                directory, asked.options.get(name, asked.options.get(name * 2 if name == "o" else "eo")), number
            )
            for name in "oe"
        }
        return Launch(
            shell="/bin/sh",
            script=script,
            environment=request.environment,
            directory=os.path.join(request.directory, directory),
            umask=request.umask,
            output=streams["o"],
            errors=streams["e"] or streams["o"],
            joined=streams["e"] is None,
            truncate="oo" in asked.options,
        )

    def environment(self, job: Job) -> Mapping[str, str]:
        """Say what a job that starts is told in its environment."""
        hosts = [share.node.name for share in job.shares for _ in range(share.ranks)]
        gpus = [str(gpu) for share in job.shares for gpu in share.gpus]
        told = {
            "LSB_JOBID": job.number,
            "LSB_JOBINDEX": "0",
            "LSB_JOBNAME": job.name,
            "LSB_QUEUE": job.queue,
            "LSB_DJOB_HOSTFILE": str(self.processes.node_file(job)),
            "LSB_DJOB_NUMPROC": str(len(hosts)),
            "LSB_MCPU_HOSTS": " ".join(f"{name} {hosts.count(name)}" for name in dict.fromkeys(hosts)),
            "LSB_BATCH_JID": job.number,
            "LSB_EXIT_PRE_ABORT": "99",
            "LS_SUBCWD": job.launch.directory,
        }
        if len(hosts) <= _LONGEST_HOSTS:
            told["LSB_HOSTS"] = " ".join(hosts)
        return {**told, "CUDA_VISIBLE_DEVICES": ",".join(gpus)} if self.batch.settings.gpus else told

    def _each(self, ids: Sequence[str], do: Callable[[Job], str]) -> Answer:
        code, out, err = 0, "", ""
        for text in ids:
            job = self.batch.jobs.get(text)
            if job is None:
                code, err = 255, f"{err}Job <{text}>: No matching job found\n"
                continue
            try:
                out += do(job)
            except Refused as refused:
                code, err = 255, err + str(refused)
        return Answer(code, out, err)

    def bkill(self, request: Request) -> Answer:
        """End jobs."""
        ids = list(request.arguments)
        number = None
        if ids[:1] == ["-s"]:
            number = int(ids[1]) if ids[1].isdigit() else int(signal.Signals[f"SIG{ids[1].removeprefix('SIG')}"])
            ids = ids[2:]
        if ids == ["0"]:
            ids = [job.number for job in self.batch.jobs.values() if job.state is not State.ENDED]
        if not ids:
            return Answer(255, "", "Job ID must be specified\n")

        def end(job: Job) -> str:
            self._refuse_ended(job)
            if number is not None:
                self.batch.kill(job, number)
                return f"Job <{job.number}> is being signaled\n"
            self.batch.end(job, Ended.CANCELLED, self.user)
            return f"Job <{job.number}> is being terminated\n"

        return self._each(ids, end)

    def _refuse_ended(self, job: Job) -> None:
        if job.state is State.ENDED:
            raise Refused(255, f"Job <{job.number}>: Job has already finished\n")

    def bstop(self, request: Request) -> Answer:
        """Hold jobs that do not run yet."""

        def stop(job: Job) -> str:
            self._refuse_ended(job)
            self.batch.hold(job, "u")
            return f"Job <{job.number}> is being stopped\n"

        return self._each(request.arguments, stop)

    def bresume(self, request: Request) -> Answer:
        """Release jobs."""

        def resume(job: Job) -> str:
            self._refuse_ended(job)
            self.batch.release(job, "u")
            return f"Job <{job.number}> is being resumed\n"

        return self._each(request.arguments, resume)

    def brequeue(self, request: Request) -> Answer:
        """Put running jobs back into the queue."""

        def requeue(job: Job) -> str:
            self._refuse_ended(job)
            if job.state is not State.RUNNING:
                raise Refused(255, f"Job <{job.number}>: Job has not started yet\n")
            self.batch.end(job, Ended.REQUEUED)
            return f"Job <{job.number}> is being requeued\n"

        return self._each(request.arguments, requeue)

    def bjobs(self, request: Request) -> Answer:
        """Tell about jobs."""
        words, ids, options = list(request.arguments), [], dict[str, str]()
        while words:
            word = words.pop(0)
            if word in ("-o", "-u", "-q", "-J", "-m", "-P"):
                options[word] = words.pop(0) if words else ""
            elif word.startswith("-"):
                options[word] = ""
            else:
                ids.append(word)
        every = "-a" in options or bool(ids)
        jobs = [job for job in self.batch.jobs.values() if every or job.state is not State.ENDED]
        if options.get("-u", self.user) not in (self.user, "all"):
            jobs = []
        jobs = [job for job in jobs if options.get("-q", job.queue) == job.queue]
        missing = [number for number in ids if number not in self.batch.jobs]
        if ids:
            jobs = [job for job in jobs if job.number in ids]
        said = "".join(f"Job <{number}> is not found\n" for number in missing)
        if "-json" in options:
            return self._records(request, jobs, missing, options.get("-o", "jobid stat"))
        if not jobs:
            nothing = "No job found\n" if "-a" in options else "No unfinished job found\n"
            return Answer(255 if ids else 0, "", said or nothing)
        return Answer(255 if missing else 0, lsf_show.table(self.batch, jobs, self.user), said)

    def _records(self, request: Request, jobs: Sequence[Job], missing: Sequence[str], wanted: str) -> Answer:
        names = lsf_show.fields(wanted)
        unknown = [name for name in names if name not in lsf_show.FIELDS]
        if unknown:
            return Answer(255, "", f"{unknown[0]}: Invalid field name. Invalid output format\n")
        year = request.environment.get("LSB_DISPLAY_YEAR", "").upper() == "Y"
        records = [
            {name.upper(): lsf_show.FIELDS[name](self.batch, job, self.user, year) for name in names} for job in jobs
        ]
        records += [{"JOBID": number, "ERROR": f"Job <{number}> is not found"} for number in missing]
        return Answer(255 if missing else 0, lsf_show.in_json(records))

    def bhist(self, request: Request) -> Answer:
        """Tell what happened to jobs."""
        words, ids = list(request.arguments), []
        while words:
            word = words.pop(0)
            if word in ("-n", "-u", "-q"):
                words = words[1:]
            elif not word.startswith("-"):
                ids.append(word)
        year = request.environment.get("LSB_DISPLAY_YEAR", "").upper() == "Y"
        jobs = [self._all[number] for number in ids if number in self._all]
        if not jobs:
            return Answer(255, "", "No matching job found\n")
        parts = [lsf_show.events(self.batch, job, self.user, year) for job in jobs]
        return Answer(0, f"{'-' * 78}\n".join(parts))

    def forget(self, job: Job) -> None:
        """Leave nothing of a job, not even in the log of events."""
        self._all.pop(job.number, None)

    def bqueues(self, request: Request) -> Answer:
        """Tell about queues."""
        title = "QUEUE_NAME      PRIO STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN  SUSP \n"
        wanted = [word for word in request.arguments if not word.startswith("-")]
        queues = [queue for queue in self.batch.queues.values() if not wanted or queue.name in wanted]
        if not queues:
            return Answer(255, "", f"{wanted[0]}: No such queue\n")
        lines = []
        for queue in queues:
            jobs = [job for job in self.batch.jobs.values() if job.queue == queue.name and job.state is not State.ENDED]
            stats = [lsf_show.stat(job) for job in jobs]
            counts = " ".join(f"{stats.count(name):>5}" for name in ("PEND", "RUN", "PSUSP"))
            status = f"{'Open' if queue.enabled else 'Closed'}:{'Active' if queue.started else 'Inact'}"
            most = "-" if queue.most is None else str(queue.most)
            limits = f"{'-':>3} {most:>4} {'-':>4} {'-':>4}"
            lines.append(f"{queue.name:<15} {30:>4}  {status:<15} {limits} {len(jobs):>5} {counts} \n")
        return Answer(0, title + "".join(lines))
