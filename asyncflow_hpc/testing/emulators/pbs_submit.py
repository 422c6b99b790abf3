"""qsub of PBS Pro: what is asked for, and how it is refused; texts and codes of a real OpenPBS 23.06.06."""

from __future__ import annotations

import os
import re
import shlex
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .answers import Refused, Request
from .model import Chunk, Dependency, Queue
from .options import IllegalOption, directives, parsed

__all__ = ["Asked", "asked_of", "checked_name", "duration", "size", "start_time"]

_VALUES, _FLAGS = "aAcCeJjklmMNopPqrRSuvW", "fhIVXz"

USAGE = """\
usage: qsub [-a date_time] [-A account_string] [-c interval]
	[-C directive_prefix] [-e path] [-f ] [-h ] [-I [-X]] [-j oe|eo] [-J X-Y[:Z]]
	[-k keep] [-l resource_list] [-m mail_options] [-M user_list]
	[-N jobname] [-o path] [-p priority] [-P project] [-q queue] [-r y|n]
	[-R o|e|oe] [-S path] [-u user_list] [-W otherattributes=value...]
	[-v variable_list] [-V ] [-z] [script | -- command [arg1 ...]]
       qsub --version
"""

_LONGEST_NAME = 230
_NAME = re.compile(r"[A-Za-z0-9._+-][!-.0-~]*")

# What a server knows without a site's own resources.
RESOURCES = frozenset(
    """
    arch cput eoe exec_vnode file filesystems host max_walltime mem min_walltime mpiprocs naccesspolicy ncpus ngpus nice
    nodect nodes ompthreads pcput place pmem pvmem qos select site software vmem vnode walltime accelerator advres
    """.split()  # noqa: SIM905
)
_TIMES = frozenset({"walltime", "cput", "pcput", "max_walltime", "min_walltime"})
_SIZES = frozenset({"mem", "vmem", "pmem", "pvmem", "file"})
_NUMBERS = frozenset({"ncpus", "mpiprocs", "ngpus", "ompthreads", "nice", "nodect"})


@dataclass(slots=True)
class Asked:
    """What somebody wants of a job.

    Attributes:
        options: by letter; of several with one letter, the last, but for -l and -W.
        resources: of -l.
        attributes: of -W.
        arguments: as they were typed.
        standard_name: where no option gives one.
    """

    options: dict[str, str] = field(default_factory=dict)
    resources: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    script: bytes = b""
    argv: Sequence[str] = ()
    arguments: str = ""
    standard_name: str = "STDIN"

    def take(self, found: Sequence[tuple[str, str]]) -> None:
        """Add options; a later one counts."""
        for letter, value in found:
            if letter == "l":
                self.resources.update(_pairs(value))
            elif letter == "W":
                self.attributes.update(_pairs(value))
            else:
                self.options[letter] = value


def _pairs(value: str) -> Mapping[str, str]:
    # A comma within a value is one of a list, which has no equals sign; a select has both.
    found: dict[str, str] = {}
    last = ""
    for part in value.split(","):
        key, equals, word = part.partition("=")
        if equals or not last:
            last = key.strip()
            found[last] = word
        else:
            found[last] += f",{part}"
    return found


def _is_priority(text: str) -> bool:
    return re.fullmatch("[+-]?[0-9]{1,4}", text) is not None and abs(int(text)) < 1024


def _usage(text: str) -> Refused:
    return Refused(2, f"{text}\n{USAGE}")


def asked_of(request: Request, values: str = _VALUES, flags: str = _FLAGS) -> Asked:
    """Read command line and script; what the script says counts where the command line says nothing.

    Raises:
        Refused: qsub cannot make sense of it.
    """
    asked = Asked(arguments=shlex.join(request.arguments).replace("'", ""))
    try:
        line, rest = parsed(request.arguments, values, flags)
        if rest[:1] == ["--"]:
            asked.argv = rest[1:]
        elif rest:
            asked.script, asked.standard_name = _read(request.directory, rest[0]), os.path.basename(rest[0])
        else:
            asked.script = request.given
        for words in directives(asked.script, "#PBS"):
            asked.take(parsed(words, values, flags)[0])
        asked.take(line)
        if not _is_priority(asked.options.get("p", "0")):
            raise _usage("qsub: illegal -p value")
    except IllegalOption as error:
        said = "option requires an argument" if error.missing else "invalid option"
        raise _usage(f"qsub: {said} -- '{error.letter}'") from error
    return asked


def _read(directory: str, name: str) -> bytes:
    path = os.path.join(directory, name)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Refused(1, "qsub: script not a file\n")
        with open(path, "rb") as stream:
            script = stream.read()
    except OSError as error:
        raise Refused(1, f"qsub: script file:: {error.strerror}\n") from error
    if b"\r\n" in script:
        raise Refused(1, "qsub: script contains cr, lf\n")
    return script


def checked_name(asked: Asked) -> str:
    """Return the name of a job.

    Raises:
        Refused: it cannot be one.
    """
    name = asked.options.get("N")
    if name is None:
        return re.sub(r"[^!-~]", "_", asked.standard_name)[:_LONGEST_NAME] or "STDIN"
    if len(name) > _LONGEST_NAME:
        raise Refused(2, "qsub: Job name is too long \n")
    if not _NAME.fullmatch(name):
        raise _usage("qsub: illegal -N value")
    return name


_PLACE = re.compile("(free|pack|scatter|vscatter)?(:?(excl|exclhost|shared))?(:?group=.+)?")


def check_resources(resources: Mapping[str, str], gpus: bool = True) -> None:
    """Look at the resources of -l.

    Args:
        gpus: the site has defined ngpus.

    Raises:
        Refused: one that is not known, or has no such value.
    """
    if not _PLACE.fullmatch(resources.get("place", "free")):
        raise Refused(166, "qsub: Illegal attribute or resource value\n")
    for name, value in resources.items():
        if name not in RESOURCES or (name == "ngpus" and not gpus):
            raise Refused(187, f"qsub: Unknown resource Resource_List.{name}\n")
        if name in _TIMES | _SIZES | _NUMBERS and _value(name, value) is None:
            raise Refused(166, f"qsub: Illegal attribute or resource value Resource_List.{name}\n")
    if "nodes" in resources and {"select", "place"} & set(resources):
        raise Refused(6, "qsub: Cannot be used with select or place: nodes\n")


def _value(name: str, value: str) -> float | None:
    if name in _TIMES:
        return duration(value)
    if name in _SIZES:
        return size(value)
    return int(value) if value.isdigit() else None


def chunks_of(resources: Mapping[str, str], gpus: bool = True) -> tuple[list[Chunk], int | None]:
    """Understand -l select, or what there is in its place.

    Args:
        gpus: the site has defined ngpus.

    Returns:
        The chunks, and the bytes of memory that all of them ask for together.

    Raises:
        Refused: it cannot be understood.
    """
    text = resources.get("select", f"1:ncpus={resources.get('ncpus', '1')}")
    chunks, memory = [], 0
    for part in text.split("+"):
        count, *wishes = part.split(":")
        if not count.isdigit():
            count, wishes = "1", part.split(":")
        if int(count) == 0:
            raise Refused(166, "qsub: Illegal attribute or resource value\n")
        found: dict[str, str] = {}
        for wish in wishes:
            name, equals, value = wish.partition("=")
            if not equals:
                raise Refused(166, "qsub: Illegal attribute or resource value\n")
            if (name not in RESOURCES and name != "model") or (name == "ngpus" and not gpus):
                raise Refused(187, f"qsub: Unknown resource: {name}\n")
            if name in _SIZES | _NUMBERS and _value(name, value) is None:
                raise Refused(166, f"qsub: Illegal attribute or resource value Resource_List.{name}\n")
            found[name] = value
        cores = int(found.get("ncpus", "1"))
        chunks.append(Chunk(int(count), cores, int(found.get("mpiprocs", "1")), int(found.get("ngpus", "0"))))
        memory += int(count) * (size(found.get("mem", "0")) or 0)
    return chunks, memory or size(resources.get("mem", "")) or None


def check_queue(queue: Queue | None, walltime: float | None, cores: int, unfinished: int) -> Queue:
    """Let a queue take a job, or not.

    Raises:
        Refused: it does not.
    """
    if queue is None:
        raise Refused(170, "qsub: Unknown queue\n")
    if queue.closed:
        raise Refused(159, "qsub: Unauthorized Request \n")
    if not queue.enabled:
        raise Refused(173, "qsub: Queue is not enabled\n")
    over = queue.walltime is not None and (walltime or 0.0) > queue.walltime
    if over or (queue.cores is not None and cores > queue.cores):
        raise Refused(188, "qsub: Job violates queue and/or server resource limits\n")
    if queue.most is not None and unfinished >= queue.most:
        raise Refused(38, "qsub: would exceed queue generic's per-user limit\n")
    return queue


def duration(text: str) -> float | None:
    """Return the seconds of "HH:MM:SS" or of a number; None if it is neither."""
    if not re.fullmatch(r"[0-9]+(:[0-9]{1,2}){0,2}(\.[0-9]+)?", text):
        return None
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def size(text: str) -> int | None:
    """Return the bytes of a size such as "100mb"; None if it is none."""
    found = re.fullmatch(r"([0-9]+)([kmgt]?)([bw]?)", text.lower())
    return int(found[1]) * _UNITS[found[2]] * (8 if found[3] == "w" else 1) if found else None


def start_time(text: str, now: float) -> float:
    """Return the seconds since the epoch of -a: [[CC]YY][MM][DD]hhmm[.SS], the next time from now on.

    Raises:
        Refused: it is none.
    """
    whole, _, seconds = text.partition(".")
    today = time.localtime(now)
    given = [whole[max(0, end - 2) : end] for end in range(len(whole), 0, -2)][::-1]
    if not whole.isdigit() or len(whole) % 2 or not 4 <= len(whole) <= 12:
        raise _usage("qsub: illegal -a value")
    minute, hour = int(given[-1]), int(given[-2])
    day = int(given[-3]) if len(given) > 2 else today.tm_mday
    month = int(given[-4]) if len(given) > 3 else today.tm_mon
    year = int("".join(given[:-4]) or today.tm_year) if len(given) > 4 else today.tm_year
    year += 2000 if year < 100 else 0
    found = time.mktime((year, month, day, hour, minute, int(seconds or 0), 0, 0, -1))
    return found if found >= now or len(given) > 2 else found + 24 * 3600


_DEPENDENCIES = frozenset({"after", "afterok", "afternotok", "afterany"})


def dependencies(text: str) -> list[Dependency]:
    """Understand -W depend.

    Raises:
        Refused: it cannot be understood.
    """
    found = []
    for part in filter(None, text.split(",")):
        kind, *numbers = part.split(":")
        if kind not in _DEPENDENCIES or not numbers:
            raise _usage("qsub: illegal -W value")
        found += [Dependency(kind, number.partition(".")[0]) for number in numbers]
    return found
