"""Where the files of a session and of its tasks lie."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from asyncflow_hpc.errors import SessionError

__all__ = ["make_sandbox", "make_session", "sandbox_of"]


def make_session(path: Path) -> None:
    """Make a session's directory, for its owner only.

    Args:
        path: where; directories above it are made too. It may exist.

    Raises:
        SessionError: it cannot be made or written, or it belongs to or is writable by others.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            _refuse_foreign(path)
    except OSError as error:
        raise SessionError(
            f"session directory {path} cannot be used: {error.strerror}; choose another with work_dir=..."
        ) from error


def _refuse_foreign(path: Path) -> None:
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise SessionError(f"session directory {path} is no directory; choose another uid or work_dir")
    if found.st_uid != os.geteuid():
        raise SessionError(f"session directory {path} belongs to user {found.st_uid}; choose another uid or work_dir")
    if found.st_mode & 0o022:
        raise SessionError(
            f"session directory {path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o});"
            f" `chmod 700 {path}` or choose another"
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise SessionError(f"session directory {path} cannot be written; choose another uid or work_dir")


def sandbox_of(session: str, uid: str, attempt: int = 0) -> str:
    """Say in which directory an attempt of a task runs: `<session>/<uid>`, for retry n `<session>/<uid>.<n>`."""
    return f"{session}/{uid}.{attempt}" if attempt else f"{session}/{uid}"


def make_sandbox(path: str) -> None:
    """Make a sandbox, for its owner only.

    Raises:
        SessionError: it cannot be made, or it is there already.
    """
    try:
        os.mkdir(path, 0o700)
    except OSError as error:
        raise SessionError(f"sandbox {path} cannot be made: {error.strerror}") from error
