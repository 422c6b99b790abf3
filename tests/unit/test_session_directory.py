"""Sessions that cannot be resumed because of their directory: what is wrong, and advice that helps a resume."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncflow_hpc.errors import ConfigurationError, SessionError
from asyncflow_hpc.opening import session_dir
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


@pytest.mark.parametrize(
    ("work_dir", "uid"),
    [("/tmp/\udcff", "a"), ("/tmp", "\ud800"), ("/tmp", "a\rb"), ("/tmp", "a\nb"), ("/tmp/a\0b", "a")],
)
def test_no_path(work_dir: str, uid: str) -> None:
    with pytest.raises(ConfigurationError, match="path of one line in UTF-8"):
        session_dir(work_dir, uid)
