"""Function tasks through the run script: each in an interpreter of its own, as on a node."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress

from asyncflow_hpc.task import TaskDescription

from ..away import PickledCall, runner_argv
from ..staging.apply import Survey
from .command_attempts import CommandAttempt
from .processes import End

__all__ = ["ScriptedCallAttempt", "needs_script"]

# Python, its dynamic linker and its C library read these when they start: python(1), ld.so(8), locale(7).
_AT_START = re.compile(r"PYTHON|LD_|DYLD_|LC_|MALLOC_|(LANG|LANGUAGE|LOCPATH|GLIBC_TUNABLES)$")


def needs_script(description: TaskDescription, fresh: bool) -> bool:
    """Tell whether a function needs an interpreter that starts for it alone.

    Args:
        description: of its task.
        fresh: it is to have what a fresh interpreter has.
    """
    if description.pre_exec or description.post_exec:
        return True
    return fresh and any(map(_AT_START.match, description.environment))


class ScriptedCallAttempt(CommandAttempt):
    """A function task whose call and result go through files of its sandbox."""

    leaves_output = False

    def _links(self) -> Survey | None:
        return None

    def _argv(self) -> list[str]:
        return runner_argv(sys.executable, self.sandbox)

    def _start_script(self) -> None:
        PickledCall.of(self.task, self.backend.pickles).leave(self.sandbox)
        super()._start_script()

    def _judge(self, end: End | None) -> None:
        for ending in ("out", "err"):
            path = self._path(ending)
            with suppress(OSError):
                if os.path.getsize(path) == 0:
                    # A function that printed nothing leaves no files of output.
                    os.unlink(path)
        super()._judge(end)
