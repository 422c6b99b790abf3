"""Ordinary users, as whom root can run the scripts of tests."""

from __future__ import annotations

import os
import pwd
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["User", "somebody"]


class User:
    """Somebody who is not root, and has a directory but no home.

    Attributes:
        name: as whom the scripts run.
        place: the directory.
        python: in which they run.
    """

    def __init__(self, place: Path, python: str, customized: Path, name: str = "nobody") -> None:
        self.name = name
        self.place = place
        self.python = python
        self._customized = customized

    def start(self, *argv: str | Path, home: str = "/nonexistent", **environment: str) -> subprocess.Popen[str]:
        own = {"HOME": home, "PYTHONPATH": str(self._customized), "USER": self.name, "LOGNAME": self.name}
        dropped = {"ASYNCFLOW_BACKEND", "TMPDIR", "COVERAGE_PROCESS_START"}
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        return subprocess.Popen(
            [*self._becoming(), self.python, *map(str, argv)],
            env=kept | own | environment, cwd=self.place, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def _becoming(self) -> list[str]:
        found = pwd.getpwnam(self.name)
        return ["setpriv", f"--reuid={found.pw_uid}", f"--regid={found.pw_gid}", "--clear-groups"]

    def another(self, name: str) -> User:
        """Somebody else, in the same directory."""
        return User(self.place, self.python, self._customized, name)

    def own(self, *paths: Path) -> None:
        """Give files to this user."""
        for path in paths:
            shutil.chown(path, self.name)

    def run(self, *argv: str | Path, **more: Any) -> str:
        process = self.start(*argv, **more)
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, out + err
        return err

    def script(self, text: str, name: str = "script.py") -> Path:
        path = self.place / name
        path.write_text(text)
        return path


@contextmanager
def somebody() -> Iterator[User]:
    """Make a user; the test is skipped where nobody but root can use the package."""
    # Others may enter no directory of TMPDIR, often.
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    customized = place / "site"
    customized.mkdir()
    own = [path for path in site.getsitepackages() if path.startswith(sys.prefix)]
    (customized / "sitecustomize.py").write_text(f"import site\nfor path in {own!r}:\n    site.addsitedir(path)\n")
    place.chmod(0o755)
    desk = place / "desk"
    desk.mkdir()
    shutil.chown(desk, "nobody", "nogroup")
    python = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin") or sys.executable
    user = User(desk, python, customized)
    process = user.start("-c", "import asyncflow_hpc")
    said = process.communicate()[1]
    try:
        if process.returncode != 0:
            pytest.skip(f"an ordinary user cannot use this package here: {said[-300:]}")
        yield user
    finally:
        shutil.rmtree(place)
