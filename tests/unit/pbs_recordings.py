"""What a real OpenPBS has answered, and its JSON as the text that `qstat -f` prints of the same job."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

RECORDED = Path(__file__).parent / "recorded" / "pbs"

_PARTS = re.compile(r"\$ (.*)\n--- rc=(\d+)\n--- stdout\n(.*?)--- stderr\n?(.*)", re.DOTALL)


class Answer(NamedTuple):
    command: str
    returncode: int
    stdout: str
    stderr: str


def answer(name: str) -> Answer:
    """Read a recording."""
    found = _PARTS.fullmatch((RECORDED / f"{name}.txt").read_text())
    assert found is not None, name
    return Answer(found[1], int(found[2]), found[3], found[4])


def as_text(recorded: str) -> str:
    """Write the jobs of a JSON answer as `qstat -f` does; long values are folded at commas."""
    jobs = json.loads(recorded).get("Jobs", {})
    return "".join(f"Job Id: {number}\n{_attributes(job)}\n" for number, job in jobs.items())


def _attributes(job: dict[str, Any]) -> str:
    lines = []
    for name, value in job.items():
        if name == "Variable_List":
            value = ",\n\t".join(f"{key}={word}" for key, word in value.items())
        pairs = {f"{name}.{key}": word for key, word in value.items()} if isinstance(value, dict) else {name: value}
        lines += [f"    {key} = {word}\n" for key, word in pairs.items()]
    return "".join(lines)
