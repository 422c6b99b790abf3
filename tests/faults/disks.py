"""Small disks that a test fills."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["Disk", "mounted"]


class Disk:
    """A file system of one megabyte."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._ballast = place / "ballast"

    def fill(self) -> None:
        """Leave not one byte."""
        with open(self._ballast, "ab", buffering=0) as stream:
            for size in (65536, 4096, 1):
                try:
                    while True:
                        stream.write(b"x" * size)
                except OSError as error:
                    assert error.errno == errno.ENOSPC
        assert os.statvfs(self.place).f_bavail == 0

    def make_room(self) -> None:
        self._ballast.unlink()


@contextmanager
def mounted(place: Path) -> Iterator[Disk]:
    """Mount one in a directory; the test is skipped where nothing can be mounted."""
    words = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", str(place)]
    if subprocess.run(words, check=False, capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
