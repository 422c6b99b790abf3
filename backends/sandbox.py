"""Where the files of a session and of its tasks lie."""

from __future__ import annotations

import os

from asyncflow_hpc.errors import SessionError
from asyncflow_hpc.session import attempt_name, make_session

__all__ = ["attempt_name", "current_umask", "make_sandbox", "make_session", "own_variables", "sandbox_of", "write_file"]


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


def current_umask() -> int:
    """Return the umask of this process without a change of it, which other threads would notice."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
            for line in stream:
                if line.startswith("Umask:"):
                    return int(line.split()[1], 8)
    except (OSError, ValueError):
        pass
    # No Linux, or one before 4.7.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def own_variables(uid: str, session: str, sandbox: str, attempt: int) -> dict[str, str]:
    """Make the variables by which an attempt of a task learns who and where it is."""
    return {
        "ASYNCFLOW_TASK_UID": uid,
        "ASYNCFLOW_SESSION": session,
        "ASYNCFLOW_SANDBOX": sandbox,
        "ASYNCFLOW_ATTEMPT": str(attempt),
    }


def write_file(path: str, data: bytes, mode: int = 0o600) -> None:
    """Write a small file, which no link leads elsewhere.

    Raises:
        OSError: it cannot be written.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    try:
        while data:
            data = data[os.write(file, data) :]
    finally:
        os.close(file)
