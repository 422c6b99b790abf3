"""What a user reads when something went wrong: in a traceback, at the end of a run, and on a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(root: Path, body: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script of one engine in an interpreter of its own."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    script = root / "script.py"
    script.write_text(f"import asyncio, os, sys\nfrom asyncflow_hpc import *\n\nasync def main():\n{lines}\n\n{END}")
    return subprocess.run(
        [sys.executable, str(script)], env={**os.environ, **environment}, cwd=root, capture_output=True, text=True
    )


END = """\
if __name__ == "__main__":
    asyncio.run(main())
"""

FAILING = """\
async with WorkflowEngine.create("local", work_dir=".", uid="session") as flow:
    @flow.function_task
    def divide(number, by=1):
        return number // by

    @flow.executable_task
    async def show(number):
        return f"echo {number}"

    @flow.block
    async def group(number):
        return await divide(number, by=0)
"""


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python shows notes from 3.11 on")
def test_an_exception_of_a_function_names_its_task(root: Path) -> None:
    done = run(root, f"{FAILING}\n    await divide(17, by=0)")
    assert last_line(done) == f"raised by task.000001: divide(17, by=0), in {root}/session/task.000001"
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python shows notes from 3.11 on")
def test_an_exception_that_passes_through_a_block_names_both(root: Path) -> None:
    done = run(root, f"{FAILING}\n    await group(17)")
    inner, outer = done.stderr.strip().splitlines()[-2:]
    assert inner.startswith("raised by task.000002: divide(17, by=0)") and outer == "raised by block.000001: group(17)"


def test_the_last_line_of_a_dependency_failure_has_the_root_cause(root: Path) -> None:
    done = run(root, f"{FAILING}\n    await show(show(divide(17, by=0)))")
    assert last_line(done).endswith(
        "Cannot execute 'show' due to dependency failure: ZeroDivisionError: integer division or modulo by zero"
    )


def test_escapes_of_a_task_are_shown(root: Path) -> None:
    done = run(root, FAILING + ESCAPES)
    assert r"'a\x1b[2Jb' failed: exit code 3" in done.stderr
    assert r"\x1b[31mred\x1b[0m\r\x07" in done.stderr
    assert not set(done.stderr) & set("\x1b\r\x07")


ESCAPES = r"""
    async def odd():
        return r"printf '\033[31mred\033[0m\r\007' >&2; exit 3"

    odd.__name__ = "a\x1b[2Jb"
    await flow.executable_task(odd)()
"""
