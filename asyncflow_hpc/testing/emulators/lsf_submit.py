"""bsub: what is asked for; source: IBM Spectrum LSF 10.1 documentation, bsub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from .answers import Refused, Request
from .model import Chunk, Dependency
from .options import directives

__all__ = ["Asked", "asked_of", "begin_of", "chunks_of", "dependencies", "gpus_of", "memory_of", "minutes"]

# Options of bsub with a value; a longer name is looked for first.
_VALUES = frozenset(
    """
    J Jd P q n W M R o oo e eo U sla g G cwd env w b t gpu nnodes alloc_flags core_isolation cn_mem app E Ep L sp c D F
    S T v m i hl jsm step_cgroup u ti ext
    """.split()  # noqa: SIM905
)
_FLAGS = frozenset("x H r rn B N Ne K Is Ip I csm_y K V ar hl".split())  # noqa: SIM905

_USAGE = "Usage: bsub [options] command [arguments]\n"


def _not_submitted(text: str) -> Refused:
    return Refused(255, f"{text}. Job not submitted.\n")


@dataclass(slots=True)
class Asked:
    """What somebody wants of a job.

    Attributes:
        options: by name; the last of several counts.
        required: all sections of all -R together.
    """

    options: dict[str, str] = field(default_factory=dict)
    required: str = ""
    command: Sequence[str] = ()
    script: bytes = b""

    def take(self, words: Sequence[str]) -> Sequence[str]:
        """Add options; returns the words behind them."""
        left = list(words)
        while left and left[0].startswith("-") and len(left[0]) > 1:
            name = left.pop(0)[1:]
            if name in _FLAGS and name not in _VALUES:
                self.options[name] = ""
            elif name in _VALUES:
                if not left:
                    raise Refused(255, f"-{name}: Option requires an argument.\n{_USAGE}")
                value = left.pop(0)
                if name == "R":
                    self.required += f" {value}"
                self.options[name] = value
            else:
                raise Refused(255, f"{name}: Illegal option.\n{_USAGE}")
        return left


def asked_of(request: Request) -> Asked:
    """Read command line and script.

    Raises:
        Refused: bsub cannot make sense of it.
    """
    asked = Asked()
    line = Asked()
    command = line.take(request.arguments)
    if not command:
        asked.script = request.given
        for words in directives(asked.script, "#BSUB"):
            asked.take(words)
    asked.command = command
    asked.options |= line.options
    asked.required = line.required or asked.required
    if not command and not asked.script.strip():
        raise _not_submitted("No command is specified")
    return asked


def minutes(text: str) -> float:
    """Return the seconds of -W: [hours:]minutes[/host].

    Raises:
        Refused: it is none.
    """
    found = re.fullmatch(r"(?:([0-9]+):)?([0-9]+)(?:/.*)?", text)
    if found is None:
        raise _not_submitted(f"{text}: Bad RUNLIMIT specification")
    return 3600.0 * int(found[1] or 0) + 60.0 * int(found[2])


_UNITS = {"": 10, "B": 0, "K": 10, "KB": 10, "M": 20, "MB": 20, "G": 30, "GB": 30, "T": 40, "TB": 40}


def memory_of(text: str) -> int:
    """Return the bytes of -M, in KB where it has no unit.

    Raises:
        Refused: it is none.
    """
    found = re.fullmatch(r"([0-9]+)([A-Za-z]*)", text)
    if found is None or found[2].upper() not in _UNITS:
        raise _not_submitted(f"{text}: Bad MEMLIMIT specification")
    return int(found[1]) << _UNITS[found[2].upper()]


def gpus_of(text: str) -> int:
    """Return how many GPUs a task gets by -gpu."""
    found = re.search(r"num=([0-9]+)", text)
    return int(found[1]) if found else 1 if text else 0


def chunks_of(asked: Asked) -> tuple[list[Chunk], str]:
    """Return how the slots of a job lie, and whether they are apart.

    Raises:
        Refused: it cannot be understood.
    """
    if asked.required.count("[") != asked.required.count("]"):
        raise _not_submitted("Bad resource requirement syntax")
    text = asked.options.get("n", "1").partition(",")[0]
    if not text.isdigit() or int(text) == 0:
        raise _not_submitted(f"{text}: Bad number of tasks")
    ranks, gpus = int(text), gpus_of(asked.options.get("gpu", ""))
    of_host = "/task" not in asked.options.get("gpu", "")
    each = re.search(r"core\(([0-9]+)\)", asked.required)
    cores = int(each[1]) if each else 1
    if "hosts=1" in asked.required:
        return [Chunk(1, ranks * cores, ranks, gpus if of_host else gpus * ranks)], "pack"
    ptile = re.search(r"ptile=([0-9]+)", asked.required)
    if ptile is None:
        return [Chunk(ranks, cores, 1, gpus)], "free"
    width = max(int(ptile[1]), 1)
    full, rest = divmod(ranks, width)
    shares = [(full, width), (1, rest)] if rest else [(full, width)]
    return [
        Chunk(count, size * cores, size, gpus if of_host else gpus * size) for count, size in shares if count
    ], "scatter"


_CONDITIONS = {"done": "afterok", "exit": "afternotok", "ended": "afterany", "started": "after"}


def dependencies(text: str) -> list[Dependency]:
    """Understand -w where it is a list of conditions that all must hold.

    Raises:
        Refused: it is something else.
    """
    found = []
    for part in filter(None, re.split(r"\s*&&\s*", text.strip())):
        match = re.fullmatch(r"(?:(\w+)\((\d+)\)|(\d+))", part)
        kind = _CONDITIONS.get((match[1] if match else "") or "done") if match else None
        if match is None or kind is None:
            raise _not_submitted(f"{text}: Dependency condition syntax error")
        found.append(Dependency(kind, match[2] or match[3]))
    return found


def begin_of(text: str, now: float) -> float:
    """Return the seconds since the epoch of -b: [[[year:]month:]day:]hour:minute, the next time from now on.

    Raises:
        Refused: it is none.
    """
    import time

    parts = text.split(":")
    if not 2 <= len(parts) <= 5 or not all(part.isdigit() for part in parts):
        raise _not_submitted(f"{text}: Bad time specification")
    today = time.localtime(now)
    year, month, day, hour, minute = [
        *[today.tm_year, today.tm_mon, today.tm_mday][: 5 - len(parts)],
        *[int(part) for part in parts],
    ]
    found = time.mktime((year, month, day, hour, minute, 0, 0, 0, -1))
    return found if found >= now or len(parts) > 2 else found + 24 * 3600


def output_path(directory: str, path: str | None, number: str) -> str | None:
    """Say where output goes, with %J for the number of the job."""
    return None if path is None else os.path.join(directory, path.replace("%J", number))
