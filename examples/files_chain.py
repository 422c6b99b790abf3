#!/usr/bin/env python3
"""A chain of three executable tasks: each makes a file that the next one reads.

Every task runs in a directory of its own, its sandbox. A task's result is what it prints: here the absolute path of
the file it made, which the next task gets by taking the future as an argument.

    python examples/files_chain.py [--backend NAME] [--work-dir DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from shlex import quote

from asyncflow_hpc import WorkflowEngine


async def chain(flow: WorkflowEngine) -> str:
    """Run the chain, print what each of its steps saw and made, and return the path of the last file."""

    @flow.executable_task
    async def numbers(count: int) -> str:
        """Write the numbers from 1 to `count`; print the path."""
        return f"""set -e
            seq 1 {count} > numbers.txt
            echo "nothing, it is the first step" >&2
            printf '%s\\n' "$PWD/numbers.txt"
            """

    @flow.executable_task
    async def squares(path: str) -> str:
        """Square every number in a file; print the path of the new one."""
        source = quote(path.strip())
        return f"""set -e
            awk '{{ print $1 * $1 }}' {source} > squares.txt
            echo $(wc -l < {source}) lines in {source} >&2
            printf '%s\\n' "$PWD/squares.txt"
            """

    @flow.executable_task
    async def total(path: str) -> str:
        """Add up the numbers in a file; print the path of the file with the sum."""
        source = quote(path.strip())
        return f"""set -e
            awk '{{ sum += $1 }} END {{ print sum }}' {source} > total.txt
            echo $(wc -l < {source}) lines in {source} >&2
            printf '%s\\n' "$PWD/total.txt"
            """

    # No await between the calls: a future given as an argument makes the next step wait for it.
    # What a task prints to standard output is its result; what it saw, it told on standard error.
    first = numbers(100)
    second = squares(first)
    third = total(second)
    steps = {"numbers": first, "squares": second, "total": third}
    paths: list[str] = await asyncio.gather(*steps.values())
    for (name, step), path in zip(steps.items(), paths, strict=True):
        print(f"{name}\n  saw   {step.task.get('stderr', '').strip()}\n  made  {path.strip()}")
    return paths[-1].strip()


async def run(options: argparse.Namespace) -> str:
    """Start an engine, run the chain, shut the engine down."""
    async with await WorkflowEngine.create(backend=options.backend, work_dir=options.work_dir) as flow:
        last = await chain(flow)
        print(f"All files lie under {flow.session_dir}")
    return last


def main() -> int:
    """Run the example; the exit code is 1 if a task failed, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description="Run a chain of three tasks that hand on files.")
    parser.add_argument("--backend", help="name of an execution backend (default: $ASYNCFLOW_BACKEND, else local)")
    parser.add_argument("--work-dir", help="where the session's directory is made (default: the engine's)")
    options = parser.parse_args()
    try:
        with open(asyncio.run(run(options)), encoding="utf-8") as file:
            print(f"The sum of the squares from 1 to 100 is {file.read().strip()}.")
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nInterrupted: the session was shut down, its tasks were cancelled.", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
