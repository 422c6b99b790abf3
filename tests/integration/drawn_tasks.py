"""Tasks made of the shell words of real life, and what plain sh makes of them."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from .left_files import files_in

__all__ = ["Drawn", "Outcome", "made_in", "oracle", "printed", "tasks"]

SET_UP = [
    "export X=3",
    "X='two words'; export X",
    "# module load gcc",
    "module() { :; }; module load gcc/13",
    "module load gcc/13",
    "[ -e setup.sh ] && . ./setup.sh",
    "[ ! -e setup.sh ] || . ./setup.sh",
    ". ./no-such-environment/bin/activate",
    "ulimit -s unlimited 2>/dev/null || :",
    "ulimit -n 64",
    "set -e",
    "set -eu",
    "set -u; export Y=${Y-none}",
    "set -u; echo $unset",
    "set -x",
    "set -o pipefail 2>/dev/null || :",
    "set -f; set -C",
    "trap 'rm -rf scratch' EXIT; mkdir scratch",
    "trap 'echo bye' EXIT",
    "trap 'exit 9' EXIT",
    "trap '' TERM INT",
    "trap : CHLD",
    "cd /",
    "cd no/such/place",
    "mkdir -p work && cd work",
    "exec 2>/dev/null",
    "exec 3>&- 9>&-",
    "exec bash -l",
    "exec true",
    "exit 0",
    "exit 4",
    "false",
    "true && false || true",
    "if true; then",
    "echo 'open",
    "cat <<E\ntext of a here document\nE",
    "printf() { :; }; cat() { exit 0; }",
    "alias true=false",
    "echo set up; echo err set up >&2",
    "for i in 1 2 3; do echo $i; done",
    "sleep 300 &",
    "umask 027",
    "export PATH=/usr/bin:/bin:/opt/app/bin",
    "kill -TERM $$",
    "unset HOME",
    "x=$(cat)",
    "\ttrue",
    "true;",
    "true &",
]

BODY = [
    "echo out; echo err words >&2",
    "printf 'a\\tb\\n\\377'",
    'echo "X is ${X-unset}"',
    "echo data >made",
    "echo data >out.txt",
    "[ -e out.txt ] || echo data >out.txt",
    "rm -f out.txt",
    "mkdir -p d; echo x >d/f; chmod 640 d/f",
    "ln -s nowhere dangling",
    "cat in.txt 2>/dev/null || echo no input",
    "read line; echo \"read $? '$line'\"",
    '[ "$(pwd)" = / ] && echo root || echo elsewhere',
    "(sleep 0.05; echo late) & wait $!",
    "sleep 300 &",
    "nohup sleep 300 >/dev/null 2>&1 &",
    "trap 'echo trapped' EXIT",
    "trap '' TERM INT HUP",
    "trap 'exit 0' TERM",
    "trap 'exit 5' USR1",
    "exec 3>&1; echo three >&3",
    "exec 2>&1; echo err both >&2",
    "set -e",
    "set -u",
    "set -f; echo *",
    "cd /",
    "false || :",
    "yes 0123456789 | head -c 200000",
    "echo $(( 6 * 7 ))",
    "IFS=:; set -- $PATH; [ $# -gt 0 ] && echo some",
    "echo 'it''s' \"$(printf '%s' '$HOME')\" \\\\",
    "umask 077; : >private",
    ": >'a name, with $(words)'",
    "case $X in 3) echo three ;; *) echo other ;; esac",
]

END = [
    *("true", "true", "true", ":", "exit", "exit 0", "exec true", "exec echo last", "echo last | cat"),
    *("false", "exit 1", "exit 2", "exit 75", "exit 125", "exit 126", "exit 127", "exit 128", "exit 129", "exit 137"),
    *("exit 143", "exit 255", "exec false", "no-such-program", "exec no-such-program", "/etc/passwd", "(exit 3)"),
    # A node may let them leave a core, where the driver's limit forbids it.
    *(
        f"ulimit -c 0; kill -{name} $$"
        for name in ("KILL", "TERM", "INT", "HUP", "USR1", "USR2", "SEGV", "ABRT", "PIPE", "XCPU")
    ),
    *("sh -c 'kill -9 $$'", "sh -c 'kill -TERM $$'; exit 0", "sh -c 'exit 3' || exit 4", "exit 3 & wait $!"),
    *(
        "(",
        "if",
        "echo 'open",
        "true &",
        "false | true",
        "! true",
        "exec sh -c 'exit 6'",
        "kill -TERM 0",
        "set -e; false",
    ),
]

AFTER = ["echo after", "true", "false", "# nothing", "exit 0", "exit 4", "rm -f out.txt", "echo data >out.txt"]
AFTER += ["trap 'exit 4' EXIT", "exec true", "kill -TERM $$", "[ -e made ]"]

VARIABLES = {
    "X": ["3", "", "a b", "$(exit 1)", "'", "\\", "ü", "*"],
    "PATH": ["/usr/bin:/bin", "/opt/app/bin:/usr/bin:/bin"],
    "IFS": ["3"],
    "CDPATH": ["/tmp:/"],
    "ENV": ["/no/such"],
    "BASH_ENV": ["/no/such"],
    "LANG": ["C", "C.UTF-8"],
    "HOME": ["/"],
    "PS4": ["$(echo bad >bad)"],
    "asyncflow_code": ["0"],
    "exit_code": ["0"],
}


@dataclass(frozen=True)
class Drawn:
    """A task.

    Attributes:
        before, after: lines of shell text around the command.
        shell: that reads them and the command.
        feeds: it has an input, in.txt; promises: and an output, out.txt.
        limit: its walltime in seconds; it takes longer, whatever it does.
    """

    command: str
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    shell: str = "/bin/sh"
    feeds: bool = False
    promises: bool = False
    limit: bool = False


def _few(words: list[str], most: int) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(words), max_size=most)


def _environments() -> st.SearchStrategy[dict[str, str]]:
    pairs = st.sampled_from([(name, value) for name, values in VARIABLES.items() for value in values])
    return st.lists(pairs, max_size=3).map(dict)


@st.composite
def tasks(draw: Any) -> Drawn:
    """Draw a task; one in twelve runs into its walltime."""
    limit = draw(st.integers(0, 11)) == 0
    end = "sleep 300 & wait; wait; sleep 300" if limit else draw(st.sampled_from(END))
    return Drawn(
        command="\n".join([*draw(_few(BODY, 4)), end]),
        # What ends a task before its walltime is left out of one that has some.
        before=[] if limit else draw(_few(SET_UP, 2)),
        after=[] if limit else draw(_few(AFTER, 1)),
        environment=draw(_environments()),
        shell=draw(st.sampled_from(["/bin/sh", "/bin/bash"])),
        feeds=draw(st.booleans()),
        promises=not limit and draw(st.booleans()),
        limit=limit,
    )


class Outcome(NamedTuple):
    """What a task has come to.

    Attributes:
        cause: why it failed; several where nobody can tell them apart.
        code: exit code, or the number of a signal below zero; None where it does not matter.
    """

    done: bool
    cause: frozenset[str]
    code: int | None
    out: str
    err: str
    files: dict[str, Any]


def made_in(sandbox: Path) -> dict[str, Any]:
    """Return mode and content of each file that a task has made."""
    given = ("in.txt", "task.0")
    return {name: found for name, found in files_in(sandbox).items() if not name.startswith(given)}


# All of the oracle: lines, command, lines, each of its ends in a file of no bytes, which no ulimit forbids.
_SCRIPT = """
cd {sandbox}
{before}
: >{marks}/began
{python} -ISc {waits} {marks} {shell} -c {command}
code=$?
{after}
: >{marks}/finished
exit $code
"""
_WAITS = "import subprocess, sys; n = subprocess.call(sys.argv[2:]); open(f'{sys.argv[1]}/code.{n}', 'w'); sys.exit(n)"


def oracle(task: Drawn, place: Path) -> Outcome:
    """Run a task by plain sh in a new directory, with nothing of this project."""
    sandbox, marks = place / "sandbox", place / "marks"
    sandbox.mkdir(parents=True)
    marks.mkdir()
    if task.feeds:
        (sandbox / "in.txt").write_text("input\n")
    words = {"sandbox": sandbox, "marks": marks, "python": sys.executable, "waits": _WAITS}
    words |= {"shell": task.shell, "command": task.command}
    text = _SCRIPT.format(
        **{name: shlex.quote(str(word)) for name, word in words.items()},
        before="\n".join(f"{{ :\n{line}\n}} || exit" for line in task.before),
        after="\n".join(f"{{ :\n{line}\n}} || [ $code != 0 ] || exit" for line in task.after),
    )
    (place / "script").write_text(text)
    out, err = place / "out", place / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [task.shell, place / "script"], env={**os.environ, **task.environment}, stdin=subprocess.DEVNULL,
            stdout=stdout, stderr=stderr, start_new_session=True,
        )  # fmt: skip
        with suppress(subprocess.TimeoutExpired):
            process.wait(1.0 if task.limit else 60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    codes = [int(path.suffix[1:]) for path in marks.glob("code.*")]
    return Outcome(
        *_ended(task, (marks / "began").exists(), codes, (marks / "finished").exists(), process.returncode, sandbox),
        *printed(out, err),
        made_in(sandbox),
    )


def _ended(
    task: Drawn, began: bool, codes: list[int], finished: bool, last: int, sandbox: Path
) -> tuple[bool, frozenset[str], int | None]:
    def failed(code: int | None, *causes: str) -> tuple[bool, frozenset[str], int | None]:
        return False, frozenset(causes), code

    if task.limit:
        return failed(None, "WALLTIME")
    if not began:
        return failed(None, "BOOTSTRAP")
    if not codes:
        # The command has killed the shell around it; a task without lines has none.
        return failed(None, "BACKEND", "SIGNAL")
    [code] = codes
    if code != 0:
        return failed(code, "SIGNAL" if code < 0 else "EXIT_CODE")
    if not finished:
        return failed(last, "SIGNAL" if last < 0 else "EXIT_CODE" if last else "BACKEND")
    if task.promises and not (sandbox / "out.txt").exists():
        return failed(0, "MISSING_OUTPUT")
    return True, frozenset(), 0


def printed(out: Path, err: Path) -> tuple[str, str]:
    """Return what a task printed, without the words of shells on errors, which name their scripts."""
    said = err.read_text(errors="replace").splitlines()
    return out.read_text(errors="replace"), "\n".join(line for line in said if line.startswith("err "))
