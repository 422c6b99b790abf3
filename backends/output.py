"""Standard output and error of a task, read back from its files."""

from __future__ import annotations

import errno
import os
import stat

__all__ = ["LIMIT", "read_large", "read_output"]

# Bytes that are handed back; what is more stays in the file.
LIMIT = 64 * 1024 * 1024

# Reading more than this would hold up the loop.
_INLINE = 1024 * 1024


def read_output(path: str, required: bool = False) -> str | None:
    """Read a small file.

    Args:
        required: it must be there.

    Returns:
        Its text, "" where there is none, or None if it is so large that `read_large` should do it off the loop.

    Raises:
        OSError: it cannot be read, or is no file.
    """
    try:
        descriptor = _open(path)
    except FileNotFoundError:
        if required:
            raise
        return ""
    with open(descriptor, "rb", buffering=0) as stream:
        data = stream.read(_INLINE + 1)
    return None if len(data) > _INLINE else data.decode(errors="replace")


def read_large(path: str) -> str:
    """Read a file of any size, up to the limit."""
    with open(_open(path), "rb") as stream:
        data = stream.read(LIMIT)
        size = os.fstat(stream.fileno()).st_size
    text = data.decode(errors="replace")
    if size > LIMIT:
        text += f"\n[asyncflow_hpc: cut after {LIMIT} of {size} bytes; all of it is in {path}]\n"
    return text


def _open(path: str) -> int:
    # A task may have put anything there; a pipe would hold up the driver.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no file any more", path)
    return descriptor
