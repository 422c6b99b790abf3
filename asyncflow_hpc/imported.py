"""The modules that a script has imported from beside it, whose code is not part of the keys of its tasks."""

from __future__ import annotations

import sys
import sysconfig
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

__all__ = ["imported_files"]

# Directories into which packages are installed, wherever they lie.
_PACKAGES = frozenset({"site-packages", "dist-packages"})


def imported_files() -> dict[str, str]:
    """Return digests of the files of all modules that belong neither to Python nor to an installed package.

    Reads the files, so that it may take long. The script itself and this package are left out.
    """
    installed = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    found = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or name in ("__main__", "__mp_main__") or name.startswith("asyncflow_hpc"):
            continue
        path = Path(file)
        if not _PACKAGES.intersection(path.parts) and not any(map(path.is_relative_to, installed)):
            with suppress(OSError):
                found[name] = blake2b(path.read_bytes(), digest_size=8).hexdigest()
    return found
