"""A script that is run, edited and resumed, or run with a cache: each time by a fresh interpreter.

A fresh run of the edited script in a clean directory is the judge: what has another result there must run again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from zlib import crc32

import pytest

from asyncflow_hpc.recognition import KEYS

HEAD = """
import asyncio, dataclasses, decimal, enum, json, os, sys, typing
from contextvars import ContextVar
from asyncflow_hpc import LocalExecutionBackend, WorkflowEngine

def ran(name):
    with open(os.environ["RAN"], "a") as log:
        log.write(name + "\\n")
"""

TASKS = '''
import helping
import math as m

LIMIT = 5
TABLE = {"a": 1}
level = ContextVar("level", default=1)

@dataclasses.dataclass
class Point:
    """A place."""
    x: int
    y: int = dataclasses.field(default=2, metadata={"unit": "m"})

class Colour(enum.Flag):
    RED = 1
    BLUE = 2

class Shape:
    """Has a size."""
    size = 3
    def area(self):
        return self.size ** 2

def helper(x):
    """Adds."""
    total = x + 1
    return total

def unrelated():
    return 0

def adder(amount):
    def add(x):
        return x + amount
    return add

add = adder(4)

def constant(): ran("constant"); return 10
def by_helper(): ran("by_helper"); return helper(1)
def default(n=7): ran("default"); return n
def operator(): ran("operator"); return 6 * 2
def limit(): ran("limit"); return LIMIT
def table(): ran("table"); return TABLE["a"]
def attribute(): ran("attribute"); return Shape().area()
def fields(): ran("fields"); return [str(f.type) + str(dict(f.metadata)) for f in dataclasses.fields(Point)]
def hints(): ran("hints"); return str(typing.get_type_hints(Shape.area))
def colours(): ran("colours"); return [c.value for c in Colour]
def variable(): ran("variable"); return level.get()
def closure(): ran("closure"); return add(1)
def alias(): ran("alias"); return m.floor(2.5)
def module(): ran("module"); return helping.answer()
def document(): ran("document"); return helper.__doc__
def point(p): ran("point"); return p.x + p.y
def colour(c): ran("colour"); return c.value
def chain(p, before): ran("chain"); return Point(p.x + before, p.y)
FUNCTIONS = [
    constant, by_helper, default, operator, limit, table, attribute, fields, hints, colours, variable, closure, alias,
    module, document,
]
'''

MAIN = """
async def main():
    options = {} if "--cache" not in sys.argv else {"cache": sys.argv[sys.argv.index("--cache") + 1]}
    where = "session" if os.path.exists("session/journal.jsonl") else None
    if where is None:
        # Sets a context variable, and a flag in it.
        decimal.Decimal(1) / 3
    async with WorkflowEngine.create(
        LocalExecutionBackend(), uid=None if where else "session", resume=where and os.path.abspath(where), **options
    ) as flow:
        results = {f.__name__: flow.function_task(f)() for f in FUNCTIONS}
        places = [Point(number) for number in range(3)]
        results |= {f"point {p.x}": flow.function_task(point)(p) for p in places}
        # One who has used it finds more in its class than one who has not.
        mixed = Colour.RED | Colour.BLUE
        results["colour"] = flow.function_task(colour)(mixed)
        link = flow.function_task(chain)
        one = await link(Point(1), 0)
        two = await link(one, 10)
        three = await link(two, 100)
        results = {name: await result for name, result in results.items()}
        results |= {"one": repr(one), "two": repr(two), "three": repr(three)}
    print(json.dumps(results, sort_keys=True))

asyncio.run(main())
"""

SCRIPT = HEAD + TASKS + MAIN
HELPING = "def answer():\n    return 42\n"

TIMEOUT = 120


def run(place: Path, script: str, *arguments: str, helping: str = HELPING) -> tuple[dict[str, str], Counter[str], str]:
    """Run a script: its results, what it has run, and what it has written to its standard error."""
    place.mkdir(exist_ok=True)
    (place / "script.py").write_text(script)
    (place / "helping.py").write_text(helping)
    log = place / "ran"
    log.write_text("")
    done = subprocess.run(
        [sys.executable, "script.py", *arguments],
        cwd=place,
        env={**os.environ, "RAN": str(log)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), Counter(log.read_text().split()), done.stderr


def edited(script: str, *pairs: tuple[str, str]) -> str:
    """A script in which each of several texts, which must be there, is another one."""
    for old, new in pairs:
        assert old in script, old
        script = script.replace(old, new)
    return script


CHANGES = [
    ("return 10", "return 11"),
    ("total = x + 1", "total = x + 2"),
    ("n=7", "n=8"),
    ("6 * 2", "6 - 2"),
    ("LIMIT = 5", "LIMIT = 6"),
    ('{"a": 1}', '{"a": 2}'),
    ("size = 3", "size = 4"),
    ('"unit": "m"', '"unit": "km"'),
    ("BLUE = 2", "BLUE = 4"),
    ("default=1)", "default=3)"),
    ("adder(4)", "adder(5)"),
    ("m.floor", "m.ceil"),
    ("p.x + p.y", "p.x - p.y"),
]

NEUTRAL = [
    ('    """A place."""\n', ""),
    ('"""Has a size."""', '"""Is\n    large."""'),
    ("total", "much"),
    ("import math as m", "import math as mathematics"),
    ("m.floor", "mathematics.floor"),
    ("amount", "increase"),
    ("def unrelated():\n    return 0\n", "def unrelated():\n    return 1  # Or not.\n"),
    ("LIMIT = 5\n", "# A limit.\n\nLIMIT = 5\n"),
    ("def constant()", "def constant() -> int"),
    ("class Shape:", "class Circle: ...\n\n\nclass Shape:"),
]


@pytest.mark.parametrize("way", ["resume", "cache"])
def test_whatever_changes_a_fresh_run_is_not_reused(way: str, tmp_path: Path) -> None:
    arguments = ["--cache", str(tmp_path / "cache")] if way == "cache" else []
    before, ran, _ = run(tmp_path / "first", SCRIPT, *arguments)
    assert set(ran) >= {"constant", "chain", "colour"}
    changed = edited(SCRIPT, *CHANGES)
    fresh, _, _ = run(tmp_path / "fresh", changed)
    differing = {name for name, value in fresh.items() if before[name] != value}
    assert len(differing) >= len(CHANGES)
    after, again, _ = run(tmp_path / ("first" if way == "resume" else "second"), changed, *arguments)
    assert after == fresh
    assert again["module"] == 0


@pytest.mark.parametrize("way", ["resume", "cache"])
def test_what_changes_no_result_is_reused(way: str, tmp_path: Path) -> None:
    arguments = ["--cache", str(tmp_path / "cache")] if way == "cache" else []
    place = tmp_path / "first"
    before, _, _ = run(place, SCRIPT, *arguments)
    # Twice: what is done at once leaves other traces in classes than what is run.
    for number, script in enumerate((SCRIPT, edited(SCRIPT, *NEUTRAL), SCRIPT)):
        after, again, said = run(place if way == "resume" else tmp_path / str(number), script, *arguments)
        assert (after, again) == (before, {})
        assert "have changed" not in said


DESCRIBED = (
    HEAD
    + """
def task(): ran("task"); return 1

async def command(): return ["sh", "-c", "echo command >> $RAN"]

async def main():
    description = DESCRIPTION
    where = "session" if os.path.exists("session/journal.jsonl") else None
    async with WorkflowEngine.create(
        LocalExecutionBackend(cores=2), uid=None if where else "session", resume=where and os.path.abspath(where)
    ) as flow:
        function = flow.function_task(task_description=description)(task)
        await asyncio.gather(function(), flow.executable_task(task_description=description)(command)())
    print("{}")

asyncio.run(main())
"""
)

UNSEEN = {
    "walltime": 100,
    "mem_per_rank": "1MB",
    "queue": "long",
    "account": "other",
    "retries": 3,
    "qos": "high",
    "constraint": "fast",
    "reservation": "night",
    "slurm": {"comment": "x", "nice": 5},
    "pbs": {"-p": 3, "walltime": "1:00:00"},
    "lsf": {"sp": 3},
    "radical_pilot": {"priority": 3},
}


def test_what_a_task_cannot_see_does_not_count(tmp_path: Path) -> None:
    def described(description: dict[str, object]) -> Counter[str]:
        return run(tmp_path, edited(DESCRIBED, ("DESCRIPTION", repr(description))))[1]

    both = {"task": 1, "command": 1}
    assert described({}) == both
    assert described(UNSEEN) == {}
    for seen in (
        {"environment": {"A": "1"}},
        {"environment": {"A": "2"}},
        {"cores_per_rank": 2},
        {"pre_exec": ["true"]},
    ):
        assert described({**UNSEEN, **seen}) == both
    assert described({"environment": {"A": 1}}) == {}


def test_modules_that_have_changed_are_named_once(tmp_path: Path) -> None:
    before, _, _ = run(tmp_path, SCRIPT)
    after, again, said = run(tmp_path, SCRIPT, helping=HELPING.replace("42", "43"))
    assert (after, again) == (before, {})
    assert said.count("have changed") == 1
    assert "ran: helping; results of finished tasks are reused" in said


def test_a_session_with_keys_of_another_kind_is_refused(tmp_path: Path) -> None:
    run(tmp_path, SCRIPT)
    journal = tmp_path / "session" / "journal.jsonl"
    first, _, rest = journal.read_text().partition("\n")
    opened = json.loads(first)
    assert opened.pop("keys") == KEYS
    del opened["sum"]
    line = json.dumps(opened, separators=(",", ":"))[:-1]
    journal.write_text(f'{line},"sum":"{crc32(line.encode()):08x}"}}\n{rest}')
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 1
    assert "so that its tasks cannot be recognized: resume it with the version that recorded it" in done.stderr
