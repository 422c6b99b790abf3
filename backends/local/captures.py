"""The files in which a worker keeps the output of its calls.

They move into the sandbox of a call that has written to them. Most calls write nothing, and making two files for each
would cost more than all the rest.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["Captures", "capture_path", "remove_captures"]

_STREAMS = ((1, "out"), (2, "err"))


def capture_path(session: str, mark: str, pid: int, ending: str) -> str:
    """Return where a worker of the backend with that mark keeps the output of its present call."""
    return f"{session}/.asyncflow/{mark}.{pid}.{ending}"


def remove_captures(session: str, mark: str) -> None:
    """Remove the files in which workers that have ended kept the output of their calls."""
    directory = Path(capture_path(session, mark, 0, "out")).parent
    for path in directory.glob(f"{mark}.*"):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        directory.rmdir()


class Captures:
    """The standard output and error of a worker process.

    Attributes:
        paths: of the files, by their descriptors.
        opened: how often one was opened.
    """

    def __init__(self) -> None:
        self.opened = 0
        self._pid = os.getpid()
        self._session = ""
        self.paths: dict[int, str] = {}
        self._files: dict[int, tuple[int, int]] = {}

    def open(self, session: str, mark: str) -> None:
        """Open the files of a session.

        Raises:
            OSError: they cannot be made.
        """
        if session == self._session:
            return
        for descriptor, ending in _STREAMS:
            path = capture_path(session, mark, self._pid, ending)
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            self.paths[descriptor] = path
            self._open(descriptor)
        self._session = session

    def _open(self, descriptor: int) -> None:
        opened = os.open(self.paths[descriptor], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
        self.opened += 1
        found = os.fstat(descriptor)
        self._files[descriptor] = found.st_dev, found.st_ino

    def hand_over(self, sandbox: str, uid: str) -> bool:
        """Move what was written into a sandbox.

        Returns:
            Whether the streams still led to the files; if not, something else was put in their place.

        Raises:
            OSError: it cannot be moved.
        """
        intact = True
        for descriptor, ending in _STREAMS:
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) != self._files[descriptor]:
                intact = False
            if found.st_size:
                os.rename(self.paths[descriptor], f"{sandbox}/{uid}.{ending}")
                self._open(descriptor)
        return intact
