"""What a task has left in its sandbox."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

__all__ = ["files_in"]


def files_in(sandbox: Path) -> dict[str, Any]:
    """Return mode and content of each file and directory of a sandbox, but for its bookkeeping."""
    found: dict[str, Any] = {}
    for path in sandbox.rglob("*"):
        name = str(path.relative_to(sandbox))
        if name.split("/")[0] != ".asyncflow":
            mode = path.lstat().st_mode
            content = path.read_bytes() if stat.S_ISREG(mode) else path.readlink() if stat.S_ISLNK(mode) else None
            found[name] = (stat.filemode(mode), content)
    return found
