"""Room on a disk that is set apart for a file before it is needed, so that a full disk cannot refuse it then."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Any

__all__ = ["reserve"]

# Of fallocate(2): the file gets no longer by it.
_KEEP_SIZE = 1

# This system or this file system cannot do it.
_CANNOT = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM)


@cache
def _fallocate() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    found = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if found is not None:
        found.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return found


def reserve(descriptor: int, offset: int, size: int) -> bool:
    """Set room apart behind the end of a file, which keeps its size; cutting the file gives it back.

    Args:
        descriptor: of the file, open for writing.
        offset: from where, in bytes.
        size: how much, in bytes.

    Returns:
        Whether that is possible here.

    Raises:
        OSError: there is not so much.
    """
    function = _fallocate()
    if function is None:
        return False
    while function(descriptor, _KEEP_SIZE, offset, size) != 0:
        code = ctypes.get_errno()
        if code in _CANNOT:
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True
