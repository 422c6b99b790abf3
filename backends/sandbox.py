"""Where the files of a session and of its tasks lie."""

from __future__ import annotations

import os
from collections.abc import Mapping

from asyncflow_hpc.errors import SessionError
from asyncflow_hpc.session import attempt_name, make_session
from asyncflow_hpc.task import TaskDescription

__all__ = [
    "THREAD_VARIABLES",
    "attempt_name",
    "current_umask",
    "make_sandbox",
    "make_session",
    "own_variables",
    "sandbox_of",
    "thread_variables",
    "write_file",
]

# By which libraries learn how many threads to start; else they start one for each core of the machine.
_OPENMP = "OMP_NUM_THREADS"
THREAD_VARIABLES = (
    _OPENMP,
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


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


def thread_variables(description: TaskDescription, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Make the variables that limit the threads of a rank to its cores.

    Those that the user has set hold, in the task's environment or in the driver's. The libraries read their own
    variables before OMP_NUM_THREADS, so these are left alone where the user has set that one.

    Args:
        environment: the driver's.
    """
    given = {name: environment[name] for name in THREAD_VARIABLES if name in environment}
    if "PBS_JOBID" in environment and environment.get(_OPENMP) == environment.get("NCPUS"):
        # PBS has set it, for the job in which the driver runs.
        given.pop(_OPENMP, None)
    given.update((name, value) for name, value in description.environment.items() if name in THREAD_VARIABLES)
    wanted = () if _OPENMP in given else THREAD_VARIABLES
    return {**dict.fromkeys(wanted, str(description.cores_per_rank)), **given}


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
