"""How PBS prints jobs: attributes as text, as JSON and with delimiters; held to the recordings of a real OpenPBS."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["Attributes", "clock", "date", "dsv", "hours", "in_json", "in_text", "short_date", "table", "user_table"]

Attributes = Mapping[str, Any]

# Columns of a line of `qstat -f`; what is longer goes on in the next one, behind a tab.
_WIDTH, _TAB = 78, 9


def date(seconds: float | None) -> str:
    """Write a time as in attributes, such as "Mon Nov 23 16:11:36 2026"."""
    return time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(seconds))


def short_date(seconds: float | None) -> str:
    """Write a time as in comments, such as "Mon Nov 23 at 16:11"."""
    return time.strftime("%a %b %d at %H:%M", time.localtime(seconds))


def clock(seconds: float) -> str:
    """Write a duration, such as "00:05:00"."""
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def hours(seconds: float | None) -> str:
    """Write a duration without its seconds."""
    return "  -- " if seconds is None else clock(seconds)[:5]


def in_text(title: str, name: str, attributes: Attributes) -> str:
    """Print one job, queue or server as `qstat -f` does, with an empty line behind it.

    Args:
        title: such as "Job Id".
    """
    lines = [f"{title}: {name}"]
    lines += [_folded(key, str(value)) for key, value in _flat(attributes)]
    return "\n".join(lines) + "\n\n"


def _escaped(word: str) -> str:
    return re.sub(r"""([\\,'"])""", r"\\\1", word)


def _flat(attributes: Attributes) -> Iterable[tuple[str, Any]]:
    for key, value in attributes.items():
        if key == "Variable_List":
            yield key, ",".join(f"{name}={_escaped(word)}" for name, word in value.items())
        elif isinstance(value, Mapping):
            yield from ((f"{key}.{name}", word) for name, word in value.items())
        else:
            yield key, value


def _folded(key: str, value: str) -> str:
    head = f"    {key} = "
    parts, column = [head], len(head)
    if column + len(value) <= _WIDTH:
        return head + value
    words = value.split(",")
    for number, word in enumerate(words):
        if column + len(word) < _WIDTH:
            parts.append(word)
            column += len(word)
        else:
            if number:
                parts.append("\n\t")
                column = _TAB
            for letter in word:
                parts.append(letter)
                column += 1
                if column > _WIDTH:
                    parts.append("\n\t")
                    column = _TAB - 1
        if number + 1 < len(words):
            parts.append(",")
            column += 1
    return "".join(parts)


def dsv(name: str, attributes: Attributes, delimiter: str = "|") -> str:
    """Print one job on a line."""
    pairs = [f"{key}={value}" for key, value in _flat(attributes)]
    return delimiter.join([f"Job Id: {name}", *pairs]) + "\n"


def in_json(server: str, now: float, kind: str, found: Mapping[str, Attributes]) -> str:
    """Print jobs, queues or the server as `qstat -F json` does.

    Args:
        kind: such as "Jobs", which is left out where there are none.
    """
    whole: dict[str, Any] = {"timestamp": int(now), "pbs_version": "23.06.06", "pbs_server": server}
    if found:
        whole[kind] = found
    return json.dumps(whole, indent="\t", separators=(",", ":\t"), ensure_ascii=False) + "\n"


_TITLE = (
    "Job id            Name             User              Time Use S Queue\n"
    "----------------  ---------------- ----------------  -------- - -----\n"
)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}*"


def table(rows: Sequence[tuple[str, str, str, str, str, str]]) -> str:
    """Print jobs as qstat does without options: id, name, user, time used, state, queue."""
    lines = [
        f"{_cut(number, 17):<17} {_cut(name, 16):<16} {user[:15]:<15} {used:>8} {state} {queue:<16}\n"
        for number, name, user, used, state, queue in rows
    ]
    return _TITLE + "".join(lines) if rows else ""


_USER_TITLE = """\

{server}: 
                                                            Req'd  Req'd   Elap
Job ID          Username Queue    Jobname    SessID NDS TSK Memory Time  S Time
--------------- -------- -------- ---------- ------ --- --- ------ ----- - -----
"""  # noqa: W291

UserRow = tuple[str, str, str, str, "int | None", int, int, str, str, str, str]


def user_table(server: str, rows: Sequence[UserRow]) -> str:
    """Print jobs as `qstat -u` does."""
    lines = []
    for number, user, queue, name, session, nodes, cores, memory, asked, state, used in rows:
        told = "   -- " if session is None else f"{session:>6}"
        lines.append(
            f"{_cut(number, 15):<15} {user[:8]:<8} {_cut(queue, 8):<8} {_cut(name, 10):<10} {told} {nodes:>3}"
            f" {_cut(str(cores), 3):>3} {memory} {asked} {state} {used}\n"
        )
    return _USER_TITLE.format(server=server) + "".join(lines) if rows else ""
