"""Function tasks through the run script: each in an interpreter of its own, as on a node."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from asyncflow_hpc.states import FailureCause, TaskState

from ..call_files import write_call
from ..call_results import Returned, read_result
from ..pickling import dump_arguments, dump_context
from ..staging.apply import Survey
from ..verdict import Verdict
from .command_attempts import CommandAttempt
from .processes import End

__all__ = ["ScriptedCallAttempt"]

# As `-m asyncflow_hpc.backends.run_function`, but no file of the sandbox stands for a module while Python starts.
_RUN_FUNCTION = (
    "import sys; sys.path[:] = filter(None, sys.path);"
    " from asyncflow_hpc.backends.run_function import main; sys.exit(main(sys.argv[1:]))"
)


class ScriptedCallAttempt(CommandAttempt):
    """A function task whose call and result go through files of its sandbox."""

    def _links(self) -> Survey | None:
        return None

    def _argv(self) -> list[str]:
        return [sys.executable, "-c", _RUN_FUNCTION, self.sandbox]

    def _start_script(self) -> None:
        task = self.task
        name, function = task["name"], task["function"]
        assert function is not None
        _, data = self.backend.pickles.get(name, function)
        arguments = dump_arguments(name, task["args"], task["kwargs"])
        carried = task.get("context")
        context = None if carried is None else dump_context(carried)
        write_call(self.sandbox, name, data, arguments, context, sys.path)
        super()._start_script()

    def _judge(self, end: End | None) -> None:
        for ending in ("out", "err"):
            path = self._path(ending)
            with suppress(OSError):
                if os.path.getsize(path) == 0:
                    # A function that printed nothing leaves no files of output.
                    os.unlink(path)
        super()._judge(end)

    def _take(self, verdict: Verdict) -> None:
        if verdict.cause not in (None, FailureCause.EXIT_CODE):
            super()._take(verdict)
            return
        result = read_result(self.sandbox, verdict.exit_code)
        task = self.task
        if isinstance(result, Returned):
            task["return_value"] = result.value
            if not task.get("capture_stdio"):
                task["stdout"] = task["stderr"] = None
            super()._take(verdict)
            return
        task["exception"], task["exit_code"] = result.error, result.exit_code
        self._conclude(TaskState.FAILED, result.cause)
