"""Start the ranks of one task on this machine: `python ranks.py COUNT GPUS_PER_RANK ARGV...`.

Needs the standard library only, so that it starts fast. The first rank that fails ends the others, as MPI would, and
its exit code is that of the task.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable

GRACE = 5
GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def main(arguments: list[str]) -> int:
    """Run all ranks; returns the exit code of the first that failed, else 0."""
    count, gpus, argv = int(arguments[0]), int(arguments[1]), arguments[2:]
    pids = {_start(rank, count, gpus, argv): rank for rank in range(count)}
    result = 0
    while pids:
        pid, status = os.wait()
        if pids.pop(pid, None) is None or status == 0 or result:
            continue
        code = os.waitstatus_to_exitcode(status)
        result = code if code > 0 else 128 - code
        _signal_all(pids, signal.SIGTERM)
        signal.signal(signal.SIGALRM, lambda *_: _signal_all(pids, signal.SIGKILL))
        signal.alarm(GRACE)
    return result


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def _start(rank: int, count: int, gpus: int, argv: list[str]) -> int:
    environment = {**os.environ, "ASYNCFLOW_RANK": str(rank), "ASYNCFLOW_SIZE": str(count)}
    if gpus:
        for name in GPU_VARIABLES:
            visible = os.environ.get(name, "").split(",")
            environment[name] = ",".join(visible[rank * gpus : (rank + 1) * gpus])
    pid = os.fork()
    if pid:
        return pid
    try:
        os.execvpe(argv[0], argv, environment)
    except OSError as error:
        print(f"{argv[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
