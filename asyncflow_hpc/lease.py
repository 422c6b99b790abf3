"""Who drives a session: a lock file that names host and pid, and that also works on network file systems.

On one host the kernel knows best: a lock on the journal itself ends with its process. Between hosts the lock file
counts, which its holder renews; one that is not renewed for `LEASE` seconds may be taken over. How long that is, the
clock of the file system says, or a driver has waited for so long itself: the clocks of hosts may differ, or be set.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import tempfile
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import psutil
from flufl.lock import Lock, NotLockedError, TimeOutError

from .errors import SessionError

__all__ = ["LEASE", "Lease"]

log = logging.getLogger(__name__)

LEASE = 60
"""Seconds for which a driver holds its session without renewing."""

# Seconds more, until another host believes that a lease is over: a network file system shows a renewal late.
_SLOP = 15

# Seconds between two looks at the lease of another host.
_LOOK = 1.0

# flufl.lock breaks locks by the clock of this host, unless it has no time to.
_AT_ONCE = timedelta(seconds=-LEASE)

# No part of a path of a session, of a host's name, or of a number.
_SEPARATOR = "#of#"

# File systems without locks of the kernel's.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


# Locks of the kernel's that this process holds.
_guards: set[int] = set()


def _let_go() -> None:
    # A child that outlives its driver, such as that of a pool of processes, would go on holding the session.
    for guard in _guards:
        os.close(guard)
    _guards.clear()


os.register_at_fork(after_in_child=_let_go)


class _Lock(Lock):
    @property
    def hostname(self) -> str:
        """Name of this host; a name from the network may be that of all hosts, such as localhost."""
        return this_host()


class Lease:
    """Holds a session for this driver; it blocks, and belongs into a thread.

    Args:
        journal: path of the session's journal, which is made where it is missing.

    Raises:
        SessionError: another driver has the session.
    """

    def __init__(self, journal: Path) -> None:
        self._path = journal.with_name("journal.lock")
        try:
            self._guard = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _unusable(journal, error) from error
        _guards.add(self._guard)
        try:
            self._lock = _Lock(os.fspath(self._path), lifetime=LEASE, separator=_SEPARATOR)
            self._hold(self._hold_on_this_host())
        except OSError as error:
            self._close_guard()
            raise _unusable(self._path, error) from error
        except BaseException:
            self._close_guard()
            raise

    def _close_guard(self) -> None:
        _guards.discard(self._guard)
        os.close(self._guard)

    def _hold_on_this_host(self) -> bool:
        """Lock the journal itself; returns whether the file system could say that nobody else here has."""
        try:
            fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._held() from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False
        return True

    def _hold(self, known: bool) -> None:
        host, pid = self._holder()
        if host == this_host():
            if not known and psutil.pid_exists(pid):
                raise self._held()
            self._refuse_copy()
            # Its process is gone, or its number is another's now.
            log.info("the driver that had %s is gone: process %d", self._path.parent, pid)
            self._break()
        elif not host and known and self._path.exists():
            # A claim is whole before it becomes the lock.
            log.warning("%s says nothing, as after a loss of power: it is removed", self._path)
            self._break()
        elif host:
            log.warning("waiting for the lease of %s, which had %s, to end", self._whose(), self._path.parent)
            self._wait_for_end()
        try:
            self._lock.lock(timeout=_AT_ONCE)
        except TimeOutError:
            raise self._held() from None
        self._renew()

    def _wait_for_end(self) -> None:
        """Wait until the driver on another host has let go, or can have died.

        Raises:
            SessionError: it lives.
        """
        begun, before = time.monotonic(), self._renewed()
        while before is not None:
            time.sleep(_LOOK)
            renewed = self._renewed()
            if renewed is None:
                return
            if renewed != before:
                raise self._held()
            # Its time may be any, if a clock was set: then it is enough that nobody has renewed it meanwhile.
            if self._now() - renewed > LEASE + _SLOP or time.monotonic() - begun > LEASE + _SLOP:
                self._break()
                return

    def _renew(self) -> None:
        # By the clock of the file system, which is the same for all hosts.
        os.utime(self._path)

    def _renewed(self) -> float | None:
        try:
            return os.stat(self._path).st_mtime
        except FileNotFoundError:
            return None

    def _now(self) -> float:
        with tempfile.TemporaryFile(dir=self._path.parent) as probe:
            return os.fstat(probe.fileno()).st_mtime

    def _refuse_copy(self) -> None:
        """Refuse the copy of a session that is being driven: the processes and jobs of both are the same."""
        original = Path(self._lock.details[2]).with_name("journal.jsonl")
        if original.parent == self._path.parent:
            return
        try:
            guard = os.open(original, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            # It was moved.
            return
        try:
            if not os.path.sameopenfile(guard, self._guard):
                fcntl.flock(guard, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SessionError(
                f"session {self._path.parent} is a copy of {original.parent}, which is driven by {self._whose()}: end"
                " that before you go on with one of them"
            ) from None
        finally:
            os.close(guard)

    def _break(self) -> None:
        with suppress(OSError):
            claim = self._path.read_text()
            self._path.unlink()
            if claim.startswith(os.fspath(self._path)):
                os.unlink(claim)

    def _holder(self) -> tuple[str, int]:
        try:
            host, pid, _ = self._lock.details
        except NotLockedError:
            return "", 0
        return host, pid

    def _whose(self) -> str:
        host, pid = self._holder()
        return f"process {pid} on {host}" if host else "another process"

    def _held(self) -> SessionError:
        return SessionError(
            f"session {self._path.parent} is driven by {self._whose()}; end that first. If it cannot run any more, it"
            f" lets go by itself within {LEASE + _SLOP} s; else remove {self._path} when it has ended"
        )

    def still_ours(self) -> bool:
        """Renew the lease; False if another driver has taken it over."""
        try:
            if not self._lock.is_locked:
                return False
            self._renew()
        except OSError as error:
            # Nobody can say; who takes over needs this file system too.
            log.warning("the lease of %s cannot be renewed now: %s", self._path.parent, error)
        return True

    def close(self) -> None:
        """Let go of the session."""
        with suppress(OSError, NotLockedError):
            self._lock.unlock()
        self._close_guard()


def _unusable(path: Path, error: OSError) -> SessionError:
    return SessionError(f"{path} cannot be written: {error.strerror}; make room, or let it be written")


def this_host() -> str:
    """Return the name of this host, as it is recorded."""
    return socket.gethostname()
