"""Killing the driver of a workflow and resuming it, until it has come to its end."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asyncflow_hpc.events import Event, TaskEnded, TaskReady
from asyncflow_hpc.journal import read_events

from .on_slurm import Gate

SCRIPT = Path(__file__).parent / "scripts" / "mixed_workflow.py"

RESULTS = '[[3, 9], [4, 16], "7\\n", "7\\n7\\n", [9, 81, 10, 100]]\n'
TASKS = {"a", "b", "add", "show", "pair1", "pair2"}


@dataclass
class Driver:
    """Drivers of one session, one after the other."""

    backend: str
    place: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def run(self, where: str = "") -> subprocess.CompletedProcess[str]:
        """Run the script to its end, or to the line of its journal at which it dies."""
        done = subprocess.run(
            [sys.executable, str(SCRIPT), self.backend, str(self.place), *([where] if where else [])],
            capture_output=True,
            text=True,
            timeout=200,
            env={**os.environ, **self.environment},
        )
        self.said.append(done.stderr)
        return done

    def log(self) -> Counter[str]:
        """How often each line was written by tasks."""
        path = self.place / "log"
        return Counter(path.read_text().splitlines() if path.exists() else ())

    def events(self) -> list[Event]:
        """What the journal says."""
        return list(read_events(self.place / "session"))

    def in_flight(self) -> set[str]:
        """Uids of tasks that were handed to their backend and have not ended, as far as the journal knows."""
        flying: set[str] = set()
        for event in self.events():
            if isinstance(event, TaskReady):
                flying.add(event.uid)
            elif isinstance(event, TaskEnded):
                flying.discard(event.uid)
        return flying


HEAD = """\
import asyncio, logging, os, resource, shlex, signal, sys
from pathlib import Path
from asyncflow_hpc import InputFile, LocalExecutionBackend, WorkflowEngine
from asyncflow_hpc.backends.psij import PsijExecutionBackend
from asyncflow_hpc.backends.radical_pilot import RadicalExecutionBackend

PLACE, RESUME = Path(sys.argv[1]), sys.argv[2] == "resume"
LOG = PLACE / "gate.log"
logging.basicConfig(level=logging.INFO)

def engine(**more):
    session = PLACE / "session"
    resume = session if RESUME and session.exists() else None
    return WorkflowEngine.create(BACKEND, work_dir=PLACE, uid="session", resume=resume, **more)

def note(name):
    with open(LOG, "a") as stream:
        stream.write(name + "\\n")

async def main():
    async with engine(OPTIONS) as flow:
"""

LOCAL = "LocalExecutionBackend(cores=2)"
PBS = 'PsijExecutionBackend("pbs", poll_interval=1.0, submit_rate=200.0, grace=5.0, patience=2)'
SLURM = (
    'PsijExecutionBackend(defaults={"mem_per_rank": "50MB"}, poll_interval=1.0, submit_rate=200.0, grace=5.0,'
    " patience=2, command_timeout=5.0)"
)

FOOT = """
asyncio.run(main())
"""


def script_text(body: str, gate: Gate, backend: str = LOCAL, options: str = "") -> str:
    """Write the script of a driver; it takes the directory of its session, and "resume" or "new"."""
    text = HEAD.replace("BACKEND", backend).replace("OPTIONS", options) + textwrap.indent(body, " " * 8) + FOOT
    return text.replace("GATE", repr(gate.command("held", f"echo held | tee -a {shlex.quote(str(gate.ended))}")))


class Script:
    """A driver with a workflow of its own, run beside the test.

    Args:
        root: directory of its session.
        body: of its `main`, after an engine called `flow` was opened.
        gate: tells its tasks when to go on.
        resume: it goes on with the session that is there.
        before: words in front of its command.
        backend: of its engine.
        options: more arguments of its engine.
        environment: more variables of its own.
    """

    def __init__(
        self,
        root: Path,
        body: str,
        gate: Gate,
        *,
        resume: bool = True,
        before: Sequence[str] = (),
        backend: str = LOCAL,
        options: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        path = root / "script.py"
        path.write_text(script_text(body, gate, backend, options))
        self._gate = gate
        self._process = subprocess.Popen(
            [*before, sys.executable, str(path), str(root), "resume" if resume else "new"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.pid = self._process.pid

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def until_running(self, number: int = 1) -> None:
        """Wait until its task has started for the nth time."""
        self.until(lambda: self._gate.starts().total() >= number)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that happens while it lives."""
        while not condition():
            assert self._process.poll() is None, self._process.communicate()
            time.sleep(0.02)

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def still_runs(self) -> bool:
        """Tell that it has not ended, which would be too early."""
        assert self._process.poll() is None, self._process.communicate()
        return True

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it without a chance to do anything."""
        self._process.kill()
        self._process.wait()

    def result(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end."""
        try:
            out, err = self._process.communicate(timeout=100)
        except BaseException:
            # Nor does it outlive the time limit of its test.
            self.kill()
            raise
        return subprocess.CompletedProcess([], self._process.returncode, out, err)


HELD = """\
@flow.executable_task
async def held():
    return GATE
print(await held(), end="")
"""

BEGUN = """\
@flow.executable_task
async def begin():
    return "true"

await begin()
"""

FORKS = (
    BEGUN
    + """\
child = os.fork()
if not child:
    signal.pause()
(PLACE / "child").write_text(str(child))
"""
    + HELD
)

CHAIN = """\
@flow.function_task
def one():
    note("one")
    return 1

@flow.function_task
def two(x):
    note("two")
    return x + 1

@flow.function_task
def other():
    note("other")
    return 2

print(await two(one()) + await other())
"""

READS = """\
@flow.executable_task
async def read(item):
    return f"echo read >>{shlex.quote(str(LOG))}; cat input"
print(await read(InputFile(str(PLACE / "input"))), end="")
"""

# One that is done, two that run, and two that wait for their cores.
IN_PILOT = """\
def gated(name, gate):
    log, ended, path = (shlex.quote(str(PLACE / file)) for file in ("gate.log", "gate.ended", gate))
    return f"echo {name} >>{log}; until [ -e {path} ]; do sleep 0.1; done; echo {name} | tee -a {ended}"

@flow.executable_task
async def command(name, gate="."):
    return gated(name, gate)

@flow.function_task
def square(x):
    note("square")
    return x * x

first = [await command("done"), await square(7)]
late, held = command("late", "late.open"), command("held", "gate.open")
while not all(task.done() or task.state == "RUNNING" for task in (late, held)):
    await asyncio.sleep(0.01)
waiting = [command(f"wait{number}", "gate.open") for number in range(2)]
print(*first, *await asyncio.gather(late, held, *waiting), sep=",")
"""

# All are done while the driver goes on.
DONE_IN_PILOT = """\
@flow.executable_task
async def command(name):
    return f"echo {name.replace(' ', '-')} >>{shlex.quote(str(LOG))}; echo {name}"

@flow.function_task
def square(x):
    note("square")
    return x * x

print(*await asyncio.gather(command("command"), square(7)), sep=",")
(PLACE / "done").touch()
while not (PLACE / "gate.open").exists():
    await asyncio.sleep(0.02)
"""

FAILS = """\
@flow.executable_task
async def fails():
    return f"[ -e {shlex.quote(str(PLACE / 'mended'))} ] && echo mended"
print(await fails(), end="")
"""

STREAM = """\
@flow.executable_task
async def stream(values):
    return f"echo stream >>{shlex.quote(str(LOG))}; echo {sum(values)}"

@flow.block
async def numbers():
    return (x for x in (1, 2))

print(await stream(numbers()), end="")
"""

FULL = """\
@flow.executable_task
async def work(name):
    return f"echo {name} >>{shlex.quote(str(LOG))}; echo {name}"

await work("before")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, ((PLACE / "session" / "journal.jsonl").stat().st_size, hard))
try:
    await work("refused")
except Exception as error:
    print(type(error).__name__, error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print(await work("after"), end="")
"""

LARGE = """\
@flow.function_task
def large():
    note("large")
    return b"x" * 100_000

hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (hard if RESUME else 50_000, hard))
print(len(await large()))
"""

TWO_ENGINES = (
    HELD
    + """\
async with WorkflowEngine.create(LocalExecutionBackend(cores=1), work_dir=PLACE) as other:
    @other.executable_task
    async def held():
        return "echo other"
    print(await held(), end="")
"""
)

WAVES = """\
logging.getLogger().addHandler(logging.FileHandler(PLACE / "driver.log"))

@flow.executable_task
async def begin():
    return "true"

if not (PLACE / "bare").exists():
    await begin()
# Whoever sees it knows that it is closed.
(PLACE / "begun.new").touch()
(PLACE / "begun.new").rename(PLACE / "begun")
while (PLACE / "wait").exists():
    await asyncio.sleep(0.02)

@flow.executable_task
async def work(name, *_):
    log, gate = (shlex.quote(str(PLACE / name)) for name in ("gate.log", "gate.open"))
    return f"echo {name} >>{log} && echo {name} && until [ -e {gate} ]; do sleep 0.05; done && echo {name}-done >>{log}"

@flow.function_task
def call(name, *_):
    import time
    note(name)
    while not (PLACE / "gate.open").exists():
        time.sleep(0.05)
    note(f"{name}-done")
    return f"{name}\\n"

first = [task(f"{task.__name__}{number}") for number in range(2) for task in (work, call)]
while not (PLACE / "gate.open").exists() or (PLACE / "hold").exists():
    await asyncio.sleep(0.02)
second = [task(f"{task.__name__}{number}") for number in range(2, 4) for task in (work, call)]
second += [work(f"more{number}") for number in range(50) if (PLACE / "many").exists()]
results = await asyncio.gather(*first, *second, return_exceptions=True)
print(*sorted(result for result in results[:8] if isinstance(result, str)), sep="", end="")
for result in results:
    if isinstance(result, Exception):
        print("REFUSED", type(result).__module__, type(result).__name__, result, file=sys.stderr)
sys.exit(any(isinstance(result, Exception) for result in results))
"""

# The tasks of each, and what all come to.
FIRST, SECOND = ([f"{kind}{number}" for number in wave for kind in ("work", "call")] for wave in ((0, 1), (2, 3)))
WAVES_NAMES = sorted(FIRST + SECOND)
WAVES_RESULT = "".join(f"{name}\n" for name in WAVES_NAMES)

MOVED = """\
@flow.executable_task(backend=LAST)
async def held():
    return GATE

@flow.executable_task(backend="second")
async def free():
    return "echo free"

waiting = held()
print(await free(), end="")
print(await waiting, end="")
"""

TWO_BACKENDS = '[LocalExecutionBackend(cores=1), LocalExecutionBackend(cores=1, name="second")]'
