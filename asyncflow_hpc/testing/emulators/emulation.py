"""Starting and ending an emulated batch system, and what a test or a rehearsal can do to it."""

from __future__ import annotations

import atexit
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from .control import CONTROL

__all__ = ["COMMANDS", "Emulation", "emulate"]

_CLIENT = Path(__file__).with_name("client.py")

# The path of a socket is short.
_LONGEST = 80

# Seconds.
_START = 60.0
_END = 20.0

_PBS = ("qsub", "qstat", "qselect", "qdel", "qhold", "qrls", "qsig", "qrerun", "qmgr")
COMMANDS: Mapping[str, Sequence[str]] = {
    "pbs": _PBS,
    "pbs_classic": _PBS,
    "lsf": ("bsub", "bjobs", "bkill", "bhist", "bqueues", "bstop", "bresume", "brequeue"),
}

_QUEUES: Mapping[str, Mapping[str, Any]] = {
    "short": {"walltime": 1800.0, "cores": 8},
    "off": {"enabled": False},
    "stopped": {"started": False},
    "lim": {"most": 1},
    "acl": {"closed": True},
}
_FIRST = {"pbs": "workq", "pbs_classic": "batch", "lsf": "normal"}

# Seconds for which ended jobs are known: job_history_duration, keep_completed, CLEAN_PERIOD, as they come.
_HISTORY = {"pbs": 24 * 3600.0, "pbs_classic": 300.0, "lsf": 3600.0}


# As /etc/profile on many systems, and /etc/profile.d/pbs.sh.
_PROFILE = """\
[ "$PATH" != "$PBS_O_PATH" ] || PATH=/usr/local/bin:/usr/bin:/bin
export PATH="$PATH":{bin}
"""

# That of PBS itself, which looks for another one.
_MPIEXEC = """\
#!/bin/sh
if [ -n "$PBS_ENVIRONMENT" ]; then name=PBS_O_PATH where=$PBS_O_PATH; else name=PATH where=$PATH; fi
set -f
IFS=:
for directory in $where; do
  case $directory in */emulated-*/bin) continue ;; esac
  [ ! -x "$directory/mpiexec" ] || exec "$directory/mpiexec" "$@"
done
echo "mpiexec:  unexpected error - no non-PBS mpiexec in $name" >&2
exit 1
"""

# What the task manager starts writes to the output of the job, wherever that of who has called it goes.
_PBSDSH = """\
#!/bin/sh
one=
while getopts c:n:osuvh: option; do
  case $option in n) one=$OPTARG ;; c) count=$OPTARG ;; esac
done
shift $((OPTIND - 1))
number=0
while read -r node; do
  if [ "${{one:-$number}}" = "$number" ] && [ "$number" -lt "${{count:-1000000}}" ]; then
    PBS_NODENUM=$number PBS_VNODENUM=$number "$@" </dev/null >>{place}/"${{PBS_JOBID%%.*}}.out" 2>&1 &
  fi
  number=$((number + 1))
done <"$PBS_NODEFILE"
wait
"""

_PBS_TMRSH = """\
#!/bin/sh
[ "$1" != -n ] || shift
shift
exec "$@" </dev/null >>{place}/"${{PBS_JOBID%%.*}}.out" 2>&1
"""


class Emulation:
    """An emulated batch system that runs on this machine; a context manager.

    Args:
        kind: "pbs" (PBS Pro, OpenPBS), "pbs_classic" (Torque) or "lsf".
        nodes: how many it pretends to have.
        cores, gpus: of each of them.
        queues: further queues, or other limits of those that there are: name -> walltime (seconds), cores and most
            (jobs of a user) at most, enabled, started, closed (to users), standard (seconds where a job asks for none).
        speed: by which its clock is faster: walltimes and the delays below are divided by it.
        start_delay: seconds from submission to start, at least.
        kill_delay: seconds from the signal that asks a job to end to the one that ends it.
        walltime_delay: seconds over its walltime before a job is ended.
        history: seconds for which ended jobs are known; as the real ones come where None.
        home: in which jobs of PBS and Torque start; the user's where None.

    Attributes:
        place: directory of its commands, in `bin`, and its own files; gone when it ends.
    """

    def __init__(
        self,
        kind: str,
        *,
        nodes: int = 4,
        cores: int = 16,
        gpus: int = 0,
        queues: Mapping[str, Mapping[str, Any]] | None = None,
        speed: float = 1.0,
        start_delay: float = 0.0,
        kill_delay: float = 1.0,
        walltime_delay: float = 1.0,
        history: float | None = None,
        home: str | Path | None = None,
    ) -> None:
        if kind not in COMMANDS:
            raise ValueError(f"no batch system to emulate is called {kind!r}: choose one of {', '.join(COMMANDS)}")
        if speed <= 0 or nodes < 1 or cores < 1:
            raise ValueError("speed, nodes and cores must be above zero")
        self.kind = kind
        merged: dict[str, dict[str, Any]] = {_FIRST[kind]: {}, **{name: dict(one) for name, one in _QUEUES.items()}}
        for name, limits in (queues or {}).items():
            merged[name] = {**merged.get(name, {}), **limits}
        self._settings = {
            "nodes": nodes,
            "cores": cores,
            "gpus": gpus,
            "queues": [{"name": name, **limits} for name, limits in merged.items()],
            "speed": speed,
            "start_delay": start_delay,
            "kill_delay": kill_delay,
            "walltime_delay": walltime_delay,
            "history": _HISTORY[kind] if history is None else history,
            "server": "emulated",
            "home": None if home is None else str(home),
        }
        self.place = Path()
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def bin(self) -> Path:
        """The directory of its commands."""
        return self.place / "bin"

    def start(self) -> None:
        """Start it; its commands are in `bin` then."""
        self.place = _short_directory()
        self.bin.mkdir()
        words = shlex.join([sys.executable, "-I", "-S", str(_CLIENT), str(self.place / "socket")])
        for name in (*COMMANDS[self.kind], CONTROL):
            self._command(name, f'#!/bin/sh\nexec {words} {name} "$@"\n')
        if self.kind != "lsf":
            (self.place / "profile").write_text(_PROFILE.format(bin=shlex.quote(str(self.bin))))
            for name, text in (("pbsdsh", _PBSDSH), ("pbs_tmrsh", _PBS_TMRSH), ("mpiexec", _MPIEXEC)):
                if name == "pbsdsh" or self.kind == "pbs":
                    self._command(name, text.format(place=shlex.quote(str(self.place))))
        self._daemon = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.daemon"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=os.sep,
            start_new_session=True,
        )
        assert self._daemon.stdin is not None and self._daemon.stdout is not None
        given = {"kind": self.kind, "place": str(self.place), "settings": self._settings}
        self._daemon.stdin.write(json.dumps(given).encode() + b"\n")
        self._daemon.stdin.flush()
        if self._daemon.stdout.readline() != b"ready\n":
            self.stop()
            raise RuntimeError(f"the emulated batch system {self.kind} did not start")
        atexit.register(self.stop)

    def _command(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def stop(self) -> None:
        """End it, and all its jobs."""
        atexit.unregister(self.stop)
        daemon, self._daemon = self._daemon, None
        if daemon is not None:
            with suppress(OSError):
                assert daemon.stdin is not None and daemon.stdout is not None
                daemon.stdin.close()
            try:
                daemon.wait(_END)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
            assert daemon.stdout is not None
            daemon.stdout.close()
            shutil.rmtree(self.place, ignore_errors=True)

    def __enter__(self) -> Emulation:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @contextmanager
    def on_path(self) -> Iterator[None]:
        """Put its commands first on PATH of this process."""
        before = os.environ.get("PATH")
        os.environ["PATH"] = f"{self.bin}{os.pathsep}{before or os.defpath}"
        try:
            yield
        finally:
            if before is None:
                del os.environ["PATH"]
            else:
                os.environ["PATH"] = before

    def down(self) -> None:
        """Let the server be down; what runs goes on."""
        self._control("down")

    def up(self) -> None:
        """Let the server be up again."""
        self._control("up")

    def hang(self, command: str, *, after: bool = False) -> None:
        """Let a command never answer: before it does anything, or after it has done what it was asked to do."""
        self._control("hang", command, *(["after"] if after else []))

    def replace(
        self, command: str, out: bytes | str = b"", err: bytes | str = b"", code: int = 0, times: int | None = None
    ) -> None:
        """Let a command do nothing and answer something else: garbage, a refusal.

        Args:
            times: how often; always where None.
        """
        data = [text.encode() if isinstance(text, str) else text for text in (out, err)]
        self._control("replace", command, str(times or "always"), str(code), *[part.hex() for part in data])

    def first_only(self) -> None:
        """Let qstat print the first of several jobs alone as JSON, as OpenPBS after 23.06.06 does."""
        self._control("first-only")

    def heal(self, command: str | None = None) -> None:
        """Let a command, or everything, work as it should again."""
        self._control("heal", *([] if command is None else [command]))

    def lose(self, native_id: str) -> None:
        """Let a job vanish without a trace."""
        self._control("lose", native_id)

    def purge(self, history: float | None = None) -> None:
        """Let the batch system forget all jobs that have ended.

        Args:
            history: seconds for which it remembers those that end from now on, if that is to change.
        """
        if history is not None:
            self._control("history", str(history))
        self._control("purge")

    def requeue(self, native_id: str) -> None:
        """Put a running job back into the queue."""
        self._control("requeue", native_id)

    def exceed_memory(self, native_id: str) -> None:
        """End a job as if it had used more memory than it asked for."""
        self._control("greedy", native_id)

    def kill(self, native_id: str, number: int = signal.SIGKILL, *, script_only: bool = False) -> None:
        """Send a signal to the processes of a job, behind the back of the batch system."""
        self._control("kill-script" if script_only else "kill", native_id, str(int(number)))

    def called(self) -> Counter[str]:
        """How often each command was called."""
        return Counter(json.loads(self._control("called")))

    def times(self, command: str) -> list[float]:
        """When a command was called, in seconds since the epoch."""
        return [float(at) for at in json.loads(self._control("times", command))]

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs that it knows."""
        return list(json.loads(self._control("jobs")))

    def _control(self, *words: str) -> str:
        done = subprocess.run([str(self.bin / CONTROL), *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(done.stderr.splitlines()[0] if done.stderr else f"emulator {words[0]} failed")
        return done.stdout


@contextmanager
def emulate(kind: str, **settings: Any) -> Iterator[Emulation]:
    """Emulate a batch system, with its commands first on PATH of this process.

    Args:
        kind: "pbs" (PBS Pro, OpenPBS), "pbs_classic" (Torque) or "lsf".
        settings: of `Emulation`.

    Returns:
        What makes things go wrong, and counts commands.
    """
    with Emulation(kind, **settings) as emulation, emulation.on_path():
        yield emulation


def _short_directory() -> Path:
    place = Path(tempfile.mkdtemp(prefix="emulated-"))
    if len(str(place)) > _LONGEST:
        place.rmdir()
        place = Path(tempfile.mkdtemp(prefix="emulated-", dir="/tmp"))
    return place
