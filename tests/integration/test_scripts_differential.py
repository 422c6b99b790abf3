"""Drawn tasks come to the same on every backend, and to what plain sh makes of them.

ASYNCFLOW_TEST_EXAMPLES draws more of them than a run of all tests does, by the seed of --hypothesis-seed.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st

from asyncflow_hpc import InputFile, LocalExecutionBackend, OutputFile, WorkflowEngine
from asyncflow_hpc.backends.psij import PsijExecutionBackend
from asyncflow_hpc.errors import TaskFailedError
from asyncflow_hpc.testing import Emulation
from asyncflow_hpc.testing.leftovers import assert_none_left

from .drawn_tasks import Drawn, Outcome, made_in, oracle, printed, tasks

pytestmark = pytest.mark.timeout(0 if "ASYNCFLOW_TEST_EXAMPLES" in os.environ else 300)

EXAMPLES = int(os.environ.get("ASYNCFLOW_TEST_EXAMPLES", "0"))

# Examples are not shrunk: a failure names the one task of many that differs.
drawn = settings(
    max_examples=EXAMPLES or 2,
    derandomize=not EXAMPLES,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
    verbosity=Verbosity.quiet,
)


async def by_engine(backend: Any, given_tasks: list[Drawn], place: Path, walltime: float) -> list[Outcome]:
    (place / "in.txt").write_text("input\n")
    async with WorkflowEngine.create(backend, work_dir=place, retries=0) as flow:

        @flow.executable_task
        async def task(command: str, *_: Any) -> str:
            return command

        futures = []
        for one in given_tasks:
            files: list[Any] = [InputFile(place / "in.txt")] if one.feeds else []
            description: dict[str, Any] = {"environment": one.environment, "shell": one.shell}
            description |= {"pre_exec": one.before, "post_exec": one.after}
            description |= {"walltime": walltime} if one.limit else {}
            files += [OutputFile("out.txt")] if one.promises else []
            futures.append(task(one.command, files, task_description=description))
        return [seen(future.task, error) for future, error in zip(futures, await ends(futures), strict=True)]


async def ends(futures: list[Any]) -> list[BaseException | None]:
    found = await asyncio.gather(*futures, return_exceptions=True)
    return [one if isinstance(one, BaseException) else None for one in found]


def seen(task: Any, error: BaseException | None) -> Outcome:
    assert error is None or isinstance(error, TaskFailedError), error
    sandbox, uid = Path(task["sandbox"]), task["uid"]
    signal = task.get("signal")
    return Outcome(
        error is None,
        frozenset() if error is None else frozenset([error.cause.value]),
        -signal if signal else task["exit_code"],
        *printed(sandbox / f"{uid}.out", sandbox / f"{uid}.err"),
        made_in(sandbox),
    )


def differences(expected: Outcome, found: Outcome) -> dict[str, tuple[Any, Any]]:
    """Return what is not as it must be: of the oracle, and here."""
    pairs = {name: (getattr(expected, name), getattr(found, name)) for name in Outcome._fields}
    same = {name: (a == b) for name, (a, b) in pairs.items()}
    same["cause"] = found.cause == expected.cause or bool(found.cause and found.cause <= expected.cause)
    same["code"] = same["code"] or expected.code is None
    if expected.code is not None and 128 < expected.code <= 192 and found.code == 128 - expected.code:
        # docs/staging.md: a shell reports such an end and that by a signal alike.
        same["cause"] = same["code"] = True
    if "WALLTIME" in expected.cause:
        # The oracle kills, where a backend asks first.
        same["out"] = same["err"] = True
    return {name: pairs[name] for name in pairs if not same[name]}


def compare(make: Callable[[], Any], given_tasks: list[Drawn], walltime: float = 0.5) -> None:
    with tempfile.TemporaryDirectory() as made:
        place = Path(made, "a place with 'quotes'")
        place.mkdir()
        expected = [oracle(task, place / f"oracle.{number}") for number, task in enumerate(given_tasks)]
        found = asyncio.run(by_engine(make(), given_tasks, place, walltime))
        differing = [
            (task, differs)
            for task, one, other in zip(given_tasks, expected, found, strict=True)
            if (differs := differences(one, other))
        ]
        if differing:
            pytest.fail("\n".join(map(str, differing)), pytrace=False)
        assert_none_left(place, patience=15)


@given(st.lists(tasks(), min_size=20, max_size=20))
@drawn
def test_direct(given_tasks: list[Drawn]) -> None:
    compare(lambda: LocalExecutionBackend(cores=2), given_tasks)


@given(st.lists(tasks(), min_size=20, max_size=20))
@drawn
def test_by_the_run_script(given_tasks: list[Drawn]) -> None:
    compare(lambda: LocalExecutionBackend(cores=2, scripted=True), given_tasks)


@pytest.mark.parametrize("kind", ["pbs", "pbs_classic", "lsf"])
def test_on_an_emulated_scheduler(kind: str) -> None:
    with Emulation(kind, nodes=4, cores=8, kill_delay=10.0 if kind != "lsf" else 0.5, walltime_delay=0.2) as emulation:

        def backend() -> PsijExecutionBackend:
            return PsijExecutionBackend(kind, poll_interval=1.0, submit_rate=200.0, grace=10.0, patience=2)

        @given(st.lists(tasks(), min_size=12, max_size=12))
        @drawn
        def check(given_tasks: list[Drawn]) -> None:
            compare(backend, given_tasks, walltime=2.0)

        with emulation.on_path():
            check()
