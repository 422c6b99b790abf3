"""Calls of functions come to what a fresh interpreter comes to that runs them alone, whatever was called before.

The oracle is Python itself: each body is a script of its own, started with the empty standard input that tasks have,
and what it leaves running in its process group is killed, as docs/local.md says.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncflow_hpc import LocalExecutionBackend, WorkflowEngine
from asyncflow_hpc.backends.call_results import Returned, read_result
from asyncflow_hpc.backends.sandbox import current_umask
from asyncflow_hpc.errors import TaskFailedError

from . import call_bodies
from .call_bodies import CHANGES, ENDS, VIEWS
from .test_call_server import Server

pytestmark = pytest.mark.timeout(120)

ALL = [*CHANGES, *ENDS, *VIEWS]

SCRIPT = """
import pickle
{source}
value = {call}
with open({result!r}, "wb") as stream:
    pickle.dump(value, stream)
"""


@dataclass(frozen=True)
class Outcome:
    """What a call has come to.

    Attributes:
        code: of its process, as subprocess gives it.
        returned: it returned the value, and its process ended well.
        files: that it left in its directory.
        out, err: what it printed; of a traceback the last lines.
    """

    code: int
    returned: bool
    value: Any
    files: dict[str, str] = field(default_factory=dict)
    out: str = ""
    err: str = ""


def left_in(directory: Path, *own: str) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in sorted(directory.rglob("*"))
        # Also where the call has taken away all rights.
        if path.is_file() and ".asyncflow" not in path.parts and path.name not in own
    }


def said(text: str) -> str:
    """Leave out what differs from run to run: frames of tracebacks, files and addresses."""
    lines = [line for line in text.splitlines() if not line.startswith(("  ", "Traceback"))]
    return re.sub("0x[0-9a-f]+", "0x", "\n".join(line.partition("Warning: ")[2] or line for line in lines))


@functools.cache
def source(name: str) -> str:
    return inspect.getsource(getattr(call_bodies, name))


@functools.cache
def oracle(name: str) -> Outcome:
    with tempfile.TemporaryDirectory() as made:
        sandbox, result = Path(made, "sandbox"), Path(made, "result")
        sandbox.mkdir(0o700)
        awaited = inspect.iscoroutinefunction(getattr(call_bodies, name))
        call = f"__import__('asyncio').run({name}())" if awaited else f"{name}()"
        # The umask that the call has set would hit the result, too.
        text = SCRIPT.format(source=source(name), call=call, result=str(result))
        result.touch()
        Path(made, "script.py").write_text(text)
        with open(f"{made}/out", "wb") as out, open(f"{made}/err", "wb") as err:
            process = subprocess.Popen(
                [sys.executable, f"{made}/script.py"], cwd=sandbox, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip
            code = process.wait()
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        data = result.read_bytes()
        if code == -signal.SIGINT:
            # Python lets a KeyboardInterrupt of a script look so; of a function it is an exception as others are.
            code = 1
        returned = code == 0 and bool(data)
        value = pickle.loads(data) if returned else None
        printed = [said(Path(made, ending).read_text()) for ending in ("out", "err")]
        return Outcome(code, returned, value, left_in(sandbox), *printed)


def function(name: str) -> Callable[[], Any]:
    """Make the function of a body as a script has it."""
    made: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source(name), f"{name}.py", "exec"), made)
    return made[name]  # type: ignore[no-any-return]


def printed(sandbox: Path, uid: str) -> list[str]:
    paths = [sandbox / f"{uid}.{ending}" for ending in ("out", "err")]
    return [said(path.read_text()) if path.exists() else "" for path in paths]


async def by_engine(names: Sequence[str], directory: Path, **how: Any) -> list[Outcome]:
    """Run calls one after the other on one core."""
    outcomes = []
    backend = LocalExecutionBackend(cores=1, **how)
    async with WorkflowEngine.create(backend=backend, work_dir=directory) as flow:
        for name in names:
            future = flow.function_task(function(name))()
            value, returned = None, False
            try:
                value, returned = await future, True
            except TaskFailedError:
                pass
            except BaseException as error:
                assert type(error).__name__ in oracle(name).err, error
            task = future.task
            code = -task["signal"] if task.get("signal") else task["exit_code"]
            sandbox, uid = Path(task["sandbox"]), task["uid"]
            files = left_in(sandbox, f"{uid}.out", f"{uid}.err")
            outcomes.append(Outcome(code, returned, value, files, *printed(sandbox, uid)))
    return outcomes


def compared(name: str, found: Outcome) -> dict[str, tuple[Any, Any]]:
    """Return what differs from the oracle: of what a fresh interpreter does, and here."""
    expected = oracle(name)
    pairs = {key: (getattr(expected, key), getattr(found, key)) for key in Outcome.__dataclass_fields__}
    return {f"{name}: {key}": (there, here) for key, (there, here) in pairs.items() if there != here}


def differences(names: Sequence[str], found: Sequence[Outcome]) -> dict[str, tuple[Any, Any]]:
    return {key: pair for one in map(compared, names, found) for key, pair in one.items()}


def test_each_call_alone(tmp_path: Path) -> None:
    assert differences(ALL, asyncio.run(by_engine(ALL, tmp_path))) == {}


@given(st.lists(st.sampled_from([*CHANGES, *ENDS]), min_size=1, max_size=4), st.permutations(VIEWS))
@settings(max_examples=8, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_call_sees_another(changes: list[str], views: list[str]) -> None:
    names = [*changes, *views[:5], *changes[:1]]
    with tempfile.TemporaryDirectory() as made:
        assert differences(names, asyncio.run(by_engine(names, Path(made)))) == {}


def test_through_the_run_script(tmp_path: Path) -> None:
    assert differences(ALL, asyncio.run(by_engine(ALL, tmp_path, scripted=True))) == {}


def test_by_the_call_server(tmp_path: Path) -> None:
    server, found = Server(tmp_path), []
    with server.process:
        for number, name in enumerate(ALL):
            uid = f"task.{number:06}"
            server.start(uid, function(name), umask=current_umask())
            code, record = server.end(uid)
            assert record is not None
            result = read_result(str(tmp_path / uid), code)
            returned = isinstance(result, Returned)
            value = result.value if isinstance(result, Returned) else None
            files = left_in(tmp_path / uid, f"{uid}.out", f"{uid}.err")
            exit_code = -record.signal if record.signal else record.exit_code
            assert exit_code is not None
            found.append(Outcome(exit_code, returned, value, files, *printed(tmp_path / uid, uid)))
        server.process.kill()
    assert differences(ALL, found) == {}
