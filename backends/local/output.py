"""Standard output and error of a task, read back from its files."""

from __future__ import annotations

import asyncio
import os

__all__ = ["LIMIT", "read_output"]

# Bytes that are handed back; what is more stays in the file.
LIMIT = 64 * 1024 * 1024

# Reading more than this would hold up the loop.
_INLINE = 1024 * 1024


async def read_large(path: str) -> str:
    """Read a large file without holding up the loop."""
    return await asyncio.to_thread(_read, path)


def read_output(path: str) -> str | None:
    """Read a small file; None if it is so large that `read_large` should do it."""
    try:
        with open(path, "rb", buffering=0) as stream:
            data = stream.read(_INLINE + 1)
    except FileNotFoundError:
        return ""
    return None if len(data) > _INLINE else data.decode(errors="replace")


def _read(path: str) -> str:
    with open(path, "rb") as stream:
        data = stream.read(LIMIT)
        size = os.fstat(stream.fileno()).st_size
    text = data.decode(errors="replace")
    if size > LIMIT:
        text += f"\n[asyncflow_hpc: cut after {LIMIT} of {size} bytes; all of it is in {path}]\n"
    return text
