"""A small qmgr: it makes queues and sets their limits while the emulated batch system runs."""

from __future__ import annotations

import re

from .answers import Answer, Refused, Request
from .batch import BatchSystem
from .model import Queue
from .pbs_submit import duration

__all__ = ["qmgr"]

_LINE = re.compile(r"(create|set|delete|list)\s+(queue|server)(?:\s+(\w+))?(?:\s+(.*))?", re.IGNORECASE)


def qmgr(batch: BatchSystem, request: Request) -> Answer:
    """Do what `qmgr -c` asks for: create, set, delete or list a queue; set job_history_duration of the server."""
    if len(request.arguments) != 2 or request.arguments[0] != "-c":
        raise Refused(2, "qmgr: the emulated one takes -c and one line\n")
    found = _LINE.fullmatch(request.arguments[1].strip())
    if found is None:
        raise Refused(1, f"qmgr: Syntax error - see pbs_qmgr: {request.arguments[1]}\n")
    verb, what, name, rest = found[1].lower(), found[2].lower(), found[3], found[4] or ""
    if what == "server":
        _set_server(batch, f"{name or ''}{rest}")
        return Answer()
    if verb == "create":
        batch.queues[name] = Queue(name, enabled=False, started=False)
    elif name not in batch.queues:
        raise Refused(170, f"qmgr obj={name} svr=default: Unknown queue\n")
    if verb == "delete":
        del batch.queues[name]
        return Answer()
    if verb == "list":
        return Answer(0, f"Queue {name}\n    {batch.queues[name]}\n")
    for part in filter(None, re.split(r"\s*,\s*", rest)):
        _set_queue(batch.queues[name], *[word.strip() for word in part.partition("=")[::2]])
    batch.look_again()
    return Answer()


def _set_queue(queue: Queue, key: str, value: str) -> None:
    flag = value.lower() in ("true", "t", "y", "1")
    match key:
        case "enabled":
            queue.enabled = flag
        case "started":
            queue.started = flag
        case "acl_user_enable":
            queue.closed = flag
        case "resources_max.walltime":
            queue.walltime = duration(value)
        case "resources_default.walltime":
            queue.standard = duration(value)
        case "resources_max.ncpus":
            queue.cores = int(value)
        case "max_queued" | "max_user_queuable":
            queue.most = int(re.sub(r"\D", "", value) or 0)
        case "queue_type":
            pass
        case _:
            raise Refused(1, f"qmgr obj={queue.name} svr=default: Undefined attribute  {key}\n")


def _set_server(batch: BatchSystem, text: str) -> None:
    key, _, value = text.partition("=")
    match key.strip():
        case "job_history_duration":
            batch.history = duration(value.strip()) or 0.0
        case "keep_completed":
            batch.history = float(value)
        case "job_history_enable":
            batch.history = batch.settings.history if value.strip().lower() in ("true", "1") else 0.0
        case _:
            raise Refused(1, f"qmgr obj= svr=default: Undefined attribute  {key}\n")
