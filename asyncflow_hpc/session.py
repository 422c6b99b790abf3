"""The directory of a session, and the secret by which its tasks prove themselves."""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from .errors import SessionError

__all__ = ["Session", "attempt_name", "make_session"]


def _secret() -> str:
    return secrets.token_hex(16)


@dataclass(frozen=True)
class Session:
    """One run of a script, and all that resume it.

    Attributes:
        path: the directory that holds all sandboxes; made when the first task runs.
        secret: from which the nonces of its attempts are made; it stays the same when the session is resumed.
    """

    path: Path
    secret: str = field(default_factory=_secret, repr=False)

    def nonce(self, uid: str, attempt: int) -> str:
        """Return what the completion record of an attempt must repeat."""
        return blake2b(f"{self.secret} {uid} {attempt}".encode(), digest_size=16).hexdigest()


def attempt_name(uid: str, attempt: int) -> str:
    """Name an attempt in its session: `<uid>`, for retry n `<uid>.<n>`."""
    return f"{uid}.{attempt}" if attempt else uid


def make_session(path: Path, *, resumed: bool = False) -> None:
    """Make a session's directory, for its owner only.

    Args:
        path: where; directories above it are made too. It may exist.
        resumed: it is an earlier driver's, so advice to choose another would be of no use.

    Raises:
        SessionError: it cannot be made or written, or it belongs to or is writable by others.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            _refuse_foreign(path, resumed)
    except OSError as error:
        advice = "let it be written, and resume it again" if resumed else "choose another with work_dir=..."
        raise SessionError(f"session directory {path} cannot be used: {error.strerror}; {advice}") from error


def _refuse_foreign(path: Path, resumed: bool) -> None:
    found = os.lstat(path)
    other = "choose another uid or work_dir"
    if not stat.S_ISDIR(found.st_mode):
        advice = "resume its directory itself" if resumed else other
        raise SessionError(f"session directory {path} is no directory; {advice}")
    if found.st_uid != os.geteuid():
        advice = "only that user can resume it" if resumed else other
        raise SessionError(f"session directory {path} belongs to user {found.st_uid}; {advice}")
    if found.st_mode & 0o022:
        raise SessionError(
            f"session directory {path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o});"
            f" `chmod 700 {path}`{'' if resumed else ' or choose another'}"
        )
    if not os.access(path, os.W_OK | os.X_OK):
        advice = f"to resume it, `chmod 700 {path}`, or mount it writable" if resumed else other
        raise SessionError(f"session directory {path} cannot be written; {advice}")
