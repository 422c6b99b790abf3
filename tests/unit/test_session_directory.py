"""Sessions that cannot be resumed because of their directory: what is wrong, and advice that helps a resume."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyncflow_hpc import WorkflowEngine
from asyncflow_hpc.calls import checked_workflow
from asyncflow_hpc.errors import ArgumentError, ConfigurationError, SessionError
from asyncflow_hpc.session import make_session


def refusal(path: Path, resumed: bool) -> str:
    with pytest.raises(SessionError) as caught:
        make_session(path, resumed=resumed)
    return str(caught.value)


def test_written_by_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert "or choose another" in refusal(tmp_path, resumed=False)
    said = refusal(tmp_path, resumed=True)
    assert "chmod 700" in said
    assert "choose another" not in said


def test_no_directory(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert "choose another uid" in refusal(link, resumed=False)
    assert "choose another" not in refusal(link, resumed=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_of_another_user(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    assert "choose another uid" in refusal(tmp_path, resumed=False)
    assert "only that user can resume it" in refusal(tmp_path, resumed=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_not_writable(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "choose another uid" in refusal(tmp_path, resumed=False)
    assert "to resume it" in refusal(tmp_path, resumed=True)


CONTROLS = ["\n", "\r", "\t", "\0", "\x1b[31m", "\x7f", "\x9b", "\u2028", "\udcff", "\ud800"]


@pytest.mark.parametrize("control", CONTROLS)
def test_no_path(control: str, tmp_path: Path) -> None:
    place = str(tmp_path / f"new{control}")
    given: list[dict[str, str]] = [
        {"uid": f"a{control}", "work_dir": str(tmp_path / "new")},
        {"uid": "a", "work_dir": place},
        {"resume": f"{place}/a"},
        {"resume": f"a{control}", "work_dir": str(tmp_path / "new")},
    ]
    for settings in given:
        with pytest.raises(ConfigurationError, match="path of one line in UTF-8") as caught:
            asyncio.run(opened(**settings))
        assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []


async def opened(**settings: str) -> None:
    await WorkflowEngine.create("local", **settings)


@pytest.mark.parametrize("control", [control for control in CONTROLS if control not in "\0\ud800"])
def test_no_path_of_the_environment(control: str, tmp_path: Path) -> None:
    words = [sys.executable, "-c", OPEN]
    done = subprocess.run(words, env={**os.environ, "ASYNCFLOW_RESUME": f"{tmp_path}/a{control}"}, capture_output=True)
    assert done.returncode == 1 and b"path of one line in UTF-8" in done.stderr
    assert list(tmp_path.iterdir()) == []


OPEN = """\
import asyncio
from asyncflow_hpc import WorkflowEngine
async def main(): await WorkflowEngine.create("local")
asyncio.run(main())
"""


@pytest.mark.parametrize("control", CONTROLS)
def test_a_workflow_is_named_in_one_line(control: str) -> None:
    with pytest.raises(ArgumentError, match="workflow_id must be text of one line"):
        checked_workflow(f"a{control}b")
