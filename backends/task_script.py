"""task.sh: what a user asked for, and nothing else; short, and runnable by hand."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from asyncflow_hpc.task import Task, TaskDescription

from .runner import runner_place
from .sandbox import THREAD_VARIABLES, own_variables

__all__ = ["TaskScript", "odd_variables"]

# By its full path, as the task's PATH may lead elsewhere.
_ENV = "/usr/bin/env"

_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")

# Variables that mean something to a shell, or that it does not let anyone set: a program gets them from env(1).
_OF_THE_SHELL = frozenset(
    """
    IFS UID EUID PPID OPTIND OPTARG OPTERR SHELLOPTS BASHOPTS BASH DIRSTACK GROUPS FUNCNAME LINENO RANDOM SRANDOM
    SECONDS HISTCMD PIPESTATUS ENV PS4 CDPATH PWD OLDPWD SHLVL _ EPOCHSECONDS EPOCHREALTIME COPROC GLOBIGNORE
    EXECIGNORE POSIXLY_CORRECT MAIL MAILPATH MAILCHECK HISTSIZE HISTFILE FCEDIT ATTY TERMCAP
    """.split()  # noqa: SIM905
)


def _is_plain(name: str) -> bool:
    is_name = name.isascii() and name.isidentifier()
    return is_name and name not in _OF_THE_SHELL and not name.startswith(("BASH_", "COMP_"))


# A shell that is the runner, too, may export these.
_HARMLESS = frozenset([*own_variables("", "", "", 0), *THREAD_VARIABLES])


def odd_variables(environment: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the variables whose names are not names to sh, as those of exported functions; some shells drop them."""
    odd = [name for name in environment if not _NAME.fullmatch(name)]
    return {os.fsdecode(name): os.fsdecode(environment[name]) for name in odd}


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScript:
    """The user's part of one attempt.

    Attributes:
        uid, name, attempt: of the task.
        session, sandbox: absolute paths.
        argv: the launch line.
        shell: that runs the set-up lines.
        environment: the task's own variables.
        inherited: the driver's variables that a shell may drop; see `odd_variables`.
        cwd: directory to run in instead of the sandbox.
        pre_exec, post_exec: lines of shell text.
    """

    uid: str
    name: str
    attempt: int
    session: str
    sandbox: str
    argv: Sequence[str]
    shell: str = "/bin/sh"
    environment: Mapping[str, str] = field(default_factory=dict)
    inherited: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    pre_exec: Sequence[str] = ()
    post_exec: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        task: Task,
        description: TaskDescription,
        session: str,
        sandbox: str,
        attempt: int,
        argv: Sequence[str],
        environment: Mapping[str, str],
    ) -> TaskScript:
        """Make the script of a task's attempt."""
        return cls(
            uid=task["uid"],
            name=task["name"],
            attempt=attempt,
            session=session,
            sandbox=sandbox,
            argv=argv,
            shell=description.shell if isinstance(description.shell, str) else "/bin/sh",
            environment=environment,
            inherited=odd_variables(os.environb),
            cwd=description.cwd,
            pre_exec=description.pre_exec,
            post_exec=description.post_exec,
        )

    @property
    def has_lines(self) -> bool:
        """Whether there are lines of shell text around the command."""
        return bool(self.pre_exec or self.post_exec)

    @property
    def interpreter(self) -> str:
        """The shell that reads the script."""
        return self.shell if self.has_lines else "/bin/sh"

    def start(self) -> list[str]:
        """Return the argv that runs the script; empty where it has no lines, as then the runner reads it."""
        if not self.has_lines:
            return []
        path = f"{self.sandbox}/.asyncflow/task.sh"
        # bash takes its functions from there.
        odd = [f"{name}={value}" for name, value in self.inherited.items()] if self._by_bash else []
        return [*([_ENV, "--", *odd] if odd else []), self.interpreter, path]

    @property
    def _by_bash(self) -> bool:
        return os.path.basename(self.interpreter) == "bash"

    def text(self) -> str:
        """Write the script."""
        shell = self.interpreter if os.path.isabs(self.interpreter) else f"/usr/bin/env {self.interpreter}"
        # It stands in a comment.
        title = " ".join(f"{self.uid} {self.name!r}, attempt {self.attempt}".split())
        own = own_variables(self.uid, self.session, self.sandbox, self.attempt)
        variables = {**own, **{name: value for name, value in self.environment.items() if self._exports(name)}}
        lines = [f"#!{shell}", f"# {title}", f"cd -- {shlex.quote(self.sandbox)} || exit"]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        if self.cwd is not None:
            lines.append(f"cd -- {shlex.quote(self.cwd)} || exit")
        if not self.has_lines:
            return "\n".join([*lines, *self._become(), ""])
        if self.pre_exec:
            lines += ["", "# Set-up lines: the first that fails ends the task.", *_each(self.pre_exec, "exit")]
        lines += ["", "# The command; step.sh notes that it has begun, and how it has ended."]
        lines += [f"{self._step()} {shlex.join(self._command())}", "asyncflow_code=$?"]
        if self.post_exec:
            lines += [
                "",
                "# These run whatever came of the command; if it was DONE, the first that fails is the task's end.",
            ]
            lines += _each(self.post_exec, "case $asyncflow_code in 0) exit ;; esac")
        finished = shlex.quote(f"{self.sandbox}/.asyncflow/finished")
        return "\n".join([*lines, f": >{finished}", 'exit "$asyncflow_code"', ""])

    def _exports(self, name: str) -> bool:
        # A shell that is the runner, too, takes no variable of the user.
        return _is_plain(name) and (self.has_lines or name in _HARMLESS or name.endswith("_VISIBLE_DEVICES"))

    def _become(self) -> list[str]:
        argv = self._command()
        lines = [f'exec "$@" {shlex.join(argv)}']
        if argv[0] not in ("/bin/sh", _ENV):
            # Where there is no such program, the error is that of the shell, and not that of setsid or time.
            lines.insert(0, f"command -v -- {shlex.quote(argv[0])} >/dev/null || set --")
        return lines

    def _step(self) -> str:
        # With -p, bash hands functions on and takes none itself.
        shell = [self.shell, "-p"] if self._by_bash else ["/bin/sh"]
        return shlex.join([*shell, f"{runner_place(self.session)}/step.sh", self.sandbox])

    def _command(self) -> list[str]:
        argv = list(self.argv)
        odd = [f"{name}={value}" for name, value in self.environment.items() if not self._exports(name)]
        if not self._by_bash:
            odd = [*[f"{name}={value}" for name, value in self.inherited.items()], *odd]
        if odd:
            if "=" in argv[0]:
                # To env, that is no program.
                argv = ["/bin/sh", "-c", 'exec "$@"', "sh", *argv]
            argv = [_ENV, "--", *odd, *argv]
        return argv


def _each(lines: Iterable[str], otherwise: str) -> list[str]:
    # With a colon, a line may be a comment.
    return [f"{{ :\n{line}\n}} || {otherwise}" for line in lines]
