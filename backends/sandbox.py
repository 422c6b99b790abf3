"""Where the files of a session and of its tasks lie."""

from __future__ import annotations

import os

from asyncflow_hpc.errors import SessionError
from asyncflow_hpc.session import attempt_name, make_session

__all__ = ["attempt_name", "make_sandbox", "make_session", "sandbox_of"]


def sandbox_of(session: str, uid: str, attempt: int = 0) -> str:
    """Say in which directory an attempt of a task runs: `<session>/<uid>`, for retry n `<session>/<uid>.<n>`."""
    return f"{session}/{attempt_name(uid, attempt)}"


def make_sandbox(path: str) -> None:
    """Make a sandbox, for its owner only.

    Raises:
        SessionError: it cannot be made, or it is there already.
    """
    try:
        os.mkdir(path, 0o700)
    except OSError as error:
        raise SessionError(f"sandbox {path} cannot be made: {error.strerror}") from error
