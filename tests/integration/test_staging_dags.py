"""Random workflows with random names: no file is lost, mixed up, or written outside its sandbox."""

from __future__ import annotations

import asyncio
import os
import shlex
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncflow_hpc import InputFile, LocalExecutionBackend, OutputFile, WorkflowEngine

PARTS = st.text(st.sampled_from("ab -.'\"\n$*é\\~="), min_size=1, max_size=3).filter(lambda name: set(name) != {"."})
# Directories and files have names of two kinds, so that one task's file is never another's directory:
# what happens then is tried in test_staging_ways.py.
NAMES = st.builds(
    lambda above, name: "/".join([*(f"{part}d" for part in above), name]), st.lists(PARTS, max_size=2), PARTS
)


@dataclass
class Step:
    """A task to be: what it writes, on whom it depends, and which of their files it declares, under which names."""

    writes: list[str]
    depends: set[int] = field(default_factory=set)
    takes: dict[str, tuple[int, str]] = field(default_factory=dict)


@st.composite
def workflows(draw: Any) -> list[Step]:
    steps: list[Step] = []
    for number in range(draw(st.integers(2, 6))):
        step = Step(draw(st.lists(NAMES, max_size=3, unique=True)))
        offered = [(source, name) for source in range(number) for name in steps[source].writes]
        for source, name in draw(st.lists(st.sampled_from(offered), max_size=3, unique=True)) if offered else []:
            landing = draw(st.one_of(st.just(name), NAMES))
            taken = [*step.writes, *step.takes]
            if not any(landing == other or landing.startswith(f"{other}/") for other in taken):
                step.takes[landing] = (source, name)
        others = draw(st.sets(st.integers(0, number - 1), max_size=2)) if number else set()
        step.depends = {source for source, _ in step.takes.values()} | others
        steps.append(step)
    return steps


def content(number: int, name: str) -> str:
    return f"<{number}:{name}>"


def command_of(number: int, step: Step, names: list[str]) -> str:
    """Read all that should be there, in order, and then write."""
    lines = [f"cat -- ./{shlex.quote(name)} || exit" for name in names]
    for name in step.writes:
        if "/" in name:
            lines.append(f"mkdir -p -- ./{shlex.quote(os.path.dirname(name))} || exit")
        lines.append(f"printf %s {shlex.quote(content(number, name))} >./{shlex.quote(name)} || exit")
    return "\n".join(lines) or "true"


def visible(steps: list[Step], implicit: bool) -> list[dict[str, tuple[int, str]]]:
    """What each step should see beside what it writes: by name, whose file it is."""
    seen: list[dict[str, tuple[int, str]]] = []
    for step in steps:
        merged: dict[str, set[tuple[int, str]]] = {}
        for source in step.depends if implicit else ():
            left = {**seen[source], **{name: (source, name) for name in steps[source].writes}}
            for name, owner in left.items():
                merged.setdefault(name, set()).add(owner)
        mine = {name: next(iter(owners)) for name, owners in merged.items() if len(owners) == 1}
        declared = {*step.writes, *step.takes}
        around = {"/".join(name.split("/")[:end]) for name in declared for end in range(1, name.count("/") + 1)}
        mine = {name: owner for name, owner in mine.items() if name not in declared | around}
        seen.append({**mine, **step.takes})
    return seen


async def run(steps: list[Step], implicit: bool, scripted: bool, root: str) -> None:
    expected = visible(steps, implicit)
    backend = LocalExecutionBackend(scripted=scripted)
    async with WorkflowEngine.create(backend, work_dir=root, implicit_data=implicit) as flow:

        @flow.executable_task
        async def task(text: str, *_: Any) -> str:
            return text

        futures: list[Any] = []
        for number, step in enumerate(steps):
            inputs = [
                InputFile(name, task=futures[source], name=landing) for landing, (source, name) in step.takes.items()
            ]
            outputs = [OutputFile(name) for name in step.writes]
            depends = [futures[source] for source in step.depends]
            futures.append(task(command_of(number, step, sorted(expected[number])), depends, inputs, outputs))
        printed = await asyncio.gather(*futures)
    for number, (step, text) in enumerate(zip(steps, printed, strict=True)):
        assert text == "".join(content(*expected[number][name]) for name in sorted(expected[number]))
        own = {name: content(number, name) for name in step.writes}
        assert real_files(Path(futures[number].task["sandbox"]), futures[number].uid) == own


def real_files(sandbox: Path, uid: str) -> dict[str, str]:
    """The files that are in a sandbox themselves, bookkeeping aside."""
    found = {}
    for above, directories, names in os.walk(sandbox):
        directories[:] = [name for name in directories if name != ".asyncflow"]
        for name in names:
            path = Path(above, name)
            relative = str(path.relative_to(sandbox))
            if not path.is_symlink() and relative not in (f"{uid}.out", f"{uid}.err"):
                found[relative] = path.read_text()
    return found


@pytest.mark.parametrize("scripted", [False, True], ids=["direct", "script"])
@pytest.mark.parametrize("implicit", [False, True], ids=["explicit", "implicit"])
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=workflows())
def test_no_file_is_lost_or_mixed_up(steps: list[Step], implicit: bool, scripted: bool) -> None:
    with tempfile.TemporaryDirectory() as root:
        asyncio.run(run(steps, implicit, scripted, root))
