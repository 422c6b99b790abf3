"""Fixtures of the integration tier."""

from __future__ import annotations

import os
import shutil

import pytest

SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}


@pytest.fixture(params=list(SHELLS))
def shell(request: pytest.FixtureRequest) -> list[str]:
    """Each shell that the run script promises to run under."""
    argv = SHELLS[request.param]
    if shutil.which(argv[0]) is None:
        reason = f"{argv[0]} is not installed; scripts/test installs it as root"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return argv
