"""The directory of a session, and the secret by which its tasks prove themselves."""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from .errors import SessionError

__all__ = ["Session", "make_session"]


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
