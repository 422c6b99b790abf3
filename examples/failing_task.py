#!/usr/bin/env python3
"""What errors say: a command that fails, a task that needed its result, and a function that raises.

The failures are on purpose: the script shows them and exits 0.

    python examples/failing_task.py [--backend NAME] [--work-dir DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import textwrap
from shlex import quote
from typing import Any

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.errors import AsyncFlowError, DependencyFailureError, TaskFailedError


def show_failed(error: TaskFailedError) -> None:
    """Print what the error of a task that ran and failed carries: all that is needed to look into it."""
    print(f"  uid        {error.uid}")
    print(f"  cause      {error.cause}")
    print(f"  exit_code  {error.exit_code}")
    print(f"  signal     {error.signal}")
    print(f"  stderr     {error.stderr.strip()}")
    print(f"  sandbox    {error.sandbox}")


def show_dependent(error: DependencyFailureError) -> None:
    """Print what the error of a task that could not run carries: who failed, and the first error of all."""
    root = error.root_cause
    print(f"  failed_dependencies  {error.failed_dependencies}")
    print(f"  root_cause           {type(root).__name__} of {getattr(root, 'uid', None)}")
    print(f"  __cause__            is the root cause: {error.__cause__ is root}")


def show(title: str, error: BaseException) -> None:
    """Print the type and message of an error, then what its kind adds."""
    print(f"\n{title}")
    print(textwrap.indent(f"{type(error).__name__}: {error}\n", "  "))
    if isinstance(error, TaskFailedError):
        show_failed(error)
    elif isinstance(error, DependencyFailureError):
        show_dependent(error)
    elif error.__cause__ is not None:
        # A function's own exception comes back with its type; the traceback of the process it ran in is its cause.
        print(f"  __cause__  {type(error.__cause__).__name__}, where it happened:")
        print(textwrap.indent(str(error.__cause__).strip(), "    | "))


async def failures(flow: WorkflowEngine) -> list[type]:
    """Call the three tasks, show how each failed, and return the types of their errors."""

    @flow.executable_task
    async def simulate() -> str:
        return "echo 'reading mesh.dat' && echo 'mesh.dat: cell 12 has no volume' >&2; exit 7"

    @flow.executable_task
    async def analyse(output: str) -> str:
        return f"echo {quote(output)}"

    @flow.function_task
    async def mean(numbers: list[float]) -> float:
        return sum(numbers) / len(numbers)

    simulated = simulate()
    futures: dict[str, asyncio.Future[Any]] = {
        "A command that exits with 7": simulated,
        "A task that needs the result of that command": analyse(simulated),
        "A function that raises": mean([]),
    }
    # return_exceptions: wait for all of them, and get the errors as values; a plain `await` raises them.
    errors = await asyncio.gather(*futures.values(), return_exceptions=True)
    for title, error in zip(futures, errors, strict=True):
        if isinstance(error, BaseException):
            show(title, error)
    return [type(error) for error in errors]


async def run(options: argparse.Namespace) -> int:
    """Start an engine, let the tasks fail, shut the engine down."""
    async with await WorkflowEngine.create(backend=options.backend, work_dir=options.work_dir) as flow:
        failed = await failures(flow)
    if failed != [TaskFailedError, DependencyFailureError, ZeroDivisionError]:
        print("\nThese are other errors than the script should show.", file=sys.stderr)
        return 1
    print("\n3 of 3 tasks failed, as they should.")
    return 0


def main() -> int:
    """Run the example; the exit code is 0 if all three tasks failed as they should."""
    parser = argparse.ArgumentParser(description="Show what the errors of failed tasks say.")
    parser.add_argument("--backend", help="name of an execution backend (default: $ASYNCFLOW_BACKEND, else local)")
    parser.add_argument("--work-dir", help="where the session's directory is made (default: the engine's)")
    options = parser.parse_args()
    try:
        return asyncio.run(run(options))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nInterrupted: the session was shut down, its tasks were cancelled.", file=sys.stderr)
        return 130
    except AsyncFlowError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
