"""The command `emulator`, with which a rehearsal makes things go wrong, and which no real batch system has.

emulator down | up                    the server does not run, or does again
emulator hang COMMAND [after]         it does not answer: before, or after it has done its work
emulator replace COMMAND TIMES CODE OUT ERR   it answers this (each as hexadecimal bytes), TIMES times or "always"
emulator heal [COMMAND]               it, or everything, works again
emulator first-only                   qstat prints the first job alone as JSON, as OpenPBS after 23.06.06 does
emulator lose ID | requeue ID | kill ID SIGNAL | kill-script ID SIGNAL | greedy ID
emulator purge | history SECONDS
emulator called | times COMMAND | jobs   answers in JSON
"""

from __future__ import annotations

import json
from typing import Any

from .answers import Answer, Flavour, Request
from .batch import BatchSystem
from .faults import Faults
from .model import Ended, Job, State

__all__ = ["CONTROL", "control"]

CONTROL = "emulator"


def control(batch: BatchSystem, flavour: Flavour, faults: Faults, request: Request) -> Answer:
    """Do what is asked for."""
    words = list(request.arguments)
    try:
        answer = _switch(batch, faults, words) or _about_job(batch, flavour, words)
    except (KeyError, IndexError, ValueError) as error:
        return Answer(2, "", f"emulator: {' '.join(words)}: {error!r}\n{__doc__}")
    if answer is None:
        return Answer(2, "", f"emulator: {' '.join(words)} is not known\n{__doc__}")
    return answer


def _switch(batch: BatchSystem, faults: Faults, words: list[str]) -> Answer | None:
    match words:
        case ["down" | "up" as what]:
            faults.down = what == "down"
        case ["hang", program, *after]:
            faults.hanging[program] = after == ["after"]
        case ["replace", program, times, code, out, err]:
            answer = Answer(int(code), bytes.fromhex(out), bytes.fromhex(err))
            faults.replace(program, answer, None if times == "always" else int(times))
        case ["heal", *program]:
            faults.heal(*program)
        case ["first-only"]:
            faults.first_only = True
        case ["purge"]:
            batch.purge()
        case ["history", seconds]:
            batch.history = float(seconds)
        case ["called"]:
            return Answer(0, json.dumps(faults.counted()))
        case ["times", program]:
            return Answer(0, json.dumps(faults.times.get(program, [])))
        case ["jobs"]:
            return Answer(0, json.dumps([_told(job) for job in batch.jobs.values()]))
        case _:
            return None
    return Answer()


def _about_job(batch: BatchSystem, flavour: Flavour, words: list[str]) -> Answer | None:
    match words:
        case ["lose", number]:
            job = _job(batch, number)
            batch.lose(job)
            flavour.forget(job)
        case ["requeue", number]:
            batch.end(_job(batch, number), Ended.REQUEUED)
        case ["greedy", number]:
            batch.end(_job(batch, number), Ended.MEMORY)
        case ["kill", number, signal]:
            batch.kill(_job(batch, number), int(signal))
        case ["kill-script", number, signal]:
            batch.kill(_job(batch, number), int(signal), script_only=True)
        case _:
            return None
    return Answer()


def _job(batch: BatchSystem, number: str) -> Job:
    return batch.jobs[number.partition(".")[0]]


def _told(job: Job) -> dict[str, Any]:
    return {
        "id": job.number,
        "name": job.name,
        "queue": job.queue,
        "state": job.state.name,
        "ended": job.why.name if job.why is not None and job.state is State.ENDED else None,
        "code": job.code,
        "runs": job.runs,
        "nodes": sorted({share.node.name for share in job.shares}),
    }
