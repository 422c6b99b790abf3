"""A workflow of functions, commands, files and a block, whose driver can be told to die at any line of its journal.

Arguments: the backend (local, local-script, slurm, pbs), the directory of the log and of the session, and where to die:
"NUMBER before", "NUMBER after", or nothing. Prints its results as JSON. Each task leaves lines in the log: "name start"
and "name done".
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from asyncflow_hpc import InputFile, LocalExecutionBackend, OutputFile, WorkflowEngine
from asyncflow_hpc.backends.psij import PsijExecutionBackend
from asyncflow_hpc.journal import Journal

KIND, PLACE = sys.argv[1], Path(sys.argv[2])
LOG = str(PLACE / "log")
LOG_FILE = shlex.quote(LOG)
NUMBER, WHEN = (int(sys.argv[3].split()[0]), sys.argv[3].split()[1]) if len(sys.argv) > 3 else (0, "")


def die_at_a_line() -> None:
    append, lines = Journal.append, 0

    def counted(journal: Journal, event: Any) -> None:
        nonlocal lines
        lines += 1
        if lines == NUMBER and WHEN == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        append(journal, event)
        if lines == NUMBER:
            journal.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.append = counted  # type: ignore[method-assign]


def backend() -> Any:
    if KIND in ("slurm", "pbs"):
        defaults = {"mem_per_rank": "150MB"}
        return PsijExecutionBackend(
            KIND, defaults=defaults, poll_interval=1.0, submit_rate=100.0, grace=5.0, patience=2
        )
    return LocalExecutionBackend(cores=2, scripted=KIND == "local-script")


def note(line: str) -> None:
    with open(LOG, "a") as stream:
        stream.write(line + "\n")


async def main() -> None:
    session = PLACE / "session"
    resume = session if (session / "journal.jsonl").exists() else None
    async with WorkflowEngine.create(backend(), work_dir=PLACE, uid="session", resume=resume) as flow:

        @flow.function_task
        def draw(name: str, number: int) -> list[int]:
            note(f"{name} start")
            Path("drawn.txt").write_text(f"{number}\n")
            note(f"{name} done")
            return [number, number * number]

        @flow.executable_task
        async def add(name: str, *drawn: Any, out: Any = None) -> str:
            total = sum(x for x, _ in drawn)
            return f"echo {name} start >>{LOG_FILE}; echo {total} | tee sum.txt; echo {name} done >>{LOG_FILE}"

        @flow.executable_task
        async def show(name: str, files: list[Any], *_: Any) -> str:
            return f"echo {name} start >>{LOG_FILE}; cat sum.txt total.txt; echo {name} done >>{LOG_FILE}"

        @flow.block
        async def pair(name: str, first: list[int]) -> list[int]:
            one = await draw(f"{name}1", first[1])
            two = await draw(f"{name}2", one[0] + 1)
            return [*one, *two]

        first = draw("a", 3)
        second = draw("b", 4)
        added = add("add", first, second, out=OutputFile("sum.txt"))
        total = InputFile("sum.txt", task=added, name="total.txt")
        shown = show("show", [total, InputFile("sum.txt", task=added)], added)
        paired = pair("pair", first)
        print(json.dumps([await first, await second, await added, await shown, await paired]))


if NUMBER:
    die_at_a_line()
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
asyncio.run(main())
