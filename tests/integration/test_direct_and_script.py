"""A plain command runs directly, the same one through the run script: nobody may be able to tell."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import InputFile, LocalExecutionBackend, OutputFile, WorkflowEngine

from .left_files import files_in

LOOK = """
import json, os, resource, signal, sys
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
hidden = ("ASYNCFLOW_MARK", "PWD", "OLDPWD", "SHLVL", "_")
print(json.dumps({
    "environment": {name: value for name, value in os.environ.items() if name not in hidden},
    "signals": [fields[name].strip() for name in ("SigBlk", "SigIgn", "SigCgt")],
    "descriptors": sorted(os.listdir("/proc/self/fd"))[:-1],
    "umask": fields["Umask"].strip(),
    "limits": [resource.getrlimit(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_AS)],
    "in": os.readlink("/proc/self/fd/0"),
    "out": os.path.basename(os.readlink("/proc/self/fd/1")),
    "nice": os.nice(0),
    "terminal": os.isatty(0),
    "arguments": sys.argv[1:],
    "directory": os.getcwd(),
}, sort_keys=True))
"""

ODD = ["", "two words", "-n", "$HOME", "`id`", "'", '"', "\\", "\n", "*", "é", "!", "#x", "~", "a=b"]

COMMANDS: dict[str, Any] = {
    "sees": [sys.executable, "-c", LOOK, *ODD],
    "shell text": "echo \"$HOME\" '$x' *; cd /; pwd; echo err >&2",
    "exit code": "exit 7",
    "high exit code": "exit 255",
    "killed": "kill -9 $$",
    "terminated": "kill -TERM $$",
    "no such program": ["no such program", "x"],
    "no program": ["/etc/passwd"],
    "a builtin's name": ["export", "x"],
    "an assignment": ["A=b", "true"],
    "binary output": r"printf '\000\377\n' ; printf 'x\r\n' >&2",
    "large output": "yes 0123456789 | head -c 3000000; yes e | head -c 100000 >&2",
    "files": "mkdir -p 'd d'; echo x >'d d/f'; echo '#!' >prog; chmod 755 prog; ln -s prog lnk; touch -- -n",
    "reads its input": "cat; echo $?",
    "late child": "(sleep 0.2; echo late >late) & echo early",
    **{
        f"{damage}; exit {code}": f"cd ..; echo out; echo err >&2; {damage}; exit {code}"
        for code in (0, 3)
        for damage in (
            "rm -r $ASYNCFLOW_TASK_UID",
            "mv $ASYNCFLOW_TASK_UID $ASYNCFLOW_TASK_UID.moved",
            "rm -r $ASYNCFLOW_TASK_UID; echo >$ASYNCFLOW_TASK_UID",
            *(
                f"cd $ASYNCFLOW_TASK_UID; rm $ASYNCFLOW_TASK_UID.{ending}; {instead} $ASYNCFLOW_TASK_UID.{ending}"
                for ending in ("out", "err")
                for instead in (":", "mkdir", "mkfifo", "ln -s nowhere", "ln -s .", "ln -s $ASYNCFLOW_TASK_UID.out")
            ),
        )
    },
}


async def run_all(scripted: bool, root: Path) -> dict[str, Any]:
    backend = LocalExecutionBackend(cores=2, scripted=scripted)
    async with WorkflowEngine.create(backend, uid="session", work_dir=root) as flow:

        @flow.executable_task
        async def task(command: Any, *_: Any) -> Any:
            return command

        @flow.function_task
        def function(value: int) -> int:
            print("printed", value)
            return 10 // value

        (root / "data").write_text("data")
        declared = [InputFile(root / "data", name="in/data"), OutputFile("out")]
        futures = {name: task(command) for name, command in COMMANDS.items()}
        futures["with files"] = task("cat in/data >out; ls -l | wc -l", declared, futures["files"])
        futures["without its output"] = task("true", OutputFile("never"))
        futures["without its input"] = task("true", InputFile(root / "nothing"))
        futures["environment"] = task(
            "echo $A; env | grep B.C", task_description={"environment": {"A": "1", "B.C": "x y"}}
        )
        futures["returns"] = function(3)
        futures["raises"] = function(0)
        await asyncio.gather(*futures.values(), return_exceptions=True)
        return {name: left_by(future, root) for name, future in futures.items()}


def left_by(future: Any, root: Path) -> dict[str, Any]:
    task = future.task
    error = future.exception()
    keys = ("uid", "state", "exit_code", "signal", "cause", "stdout", "stderr", "sandbox", "return_value")
    return {
        **{key: task.get(key) for key in keys},
        "error": (type(error), str(error)),
        "files": files_in(Path(task["sandbox"])),
    }


@pytest.fixture
async def both(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    # The same paths for both, one after the other.
    place = root / "place"
    results = []
    for scripted in (False, True):
        place.mkdir()
        results.append(await run_all(scripted, place))
        shutil.rmtree(place)
    return results[0], results[1]


async def test_nobody_can_tell(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    direct, scripted = both
    for name in direct:
        ignored = DIFFERENCES.get(name, set())
        assert {key: value for key, value in direct[name].items() if key not in ignored} == {
            key: value for key, value in scripted[name].items() if key not in ignored
        }, name


# In the words of a shell: sh names itself, or the line of the script, and the traceback of a function is printed too.
DIFFERENCES = {
    "no such program": {"stderr", "error", "files"},
    "no program": {"stderr", "error", "files"},
    "a builtin's name": {"stderr", "error", "files"},
    "an assignment": {"stderr", "error", "files"},
    "raises": {"stderr", "files"},
}
