"""The one script that a task runs as: POSIX sh that can be read, copied, and run by hand."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache

from asyncflow_hpc.data import BOOKKEEPING

from .evidence import marker_name, spool_of
from .sandbox import own_variables, write_file
from .staging import Plan
from .staging.shell import functions, stage_in_lines, stage_out_lines

__all__ = ["RunScript", "claimed_by", "forbid", "said", "script_path", "write_script"]

# Characters of what a script says about its failure.
_LONGEST = 4000

# Bytes that the record may have; a file system gives a file no less than that.
_ROOM = 4000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# What ends a task from outside and leaves it some time; SIGKILL leaves none.
_SIGNALS = ("HUP", "INT", "TERM", "USR1", "USR2", "XCPU")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunScript:
    """Everything that the script of one attempt says.

    Attributes:
        uid, name: of the task.
        session, sandbox: absolute paths; the sandbox is there already.
        attempt: 0 for the first.
        nonce: which the completion record repeats.
        argv: the launch line.
        environment: to be exported before `pre_exec`.
        plan: the files.
        cwd: directory to run in instead of the sandbox.
        pre_exec, post_exec: lines of shell text.
        native_id: shell words for what the scheduler calls the job.
        patience: seconds to wait for a file on a shared file system.
        sweep: end what a command has left in the background, where nobody else does.
        durable: force the completion record to the disk: needed where it must outlive the machine.
        timer: GNU time, where the node has it; it tells the peak of memory.
        claim: only the job that comes first runs it; the same job may run it again, as when it was put back into the
            queue, until it has ended by itself. Where `native_id` gives nothing, it is run by hand.
    """

    uid: str
    name: str
    session: str
    sandbox: str
    nonce: str
    argv: Sequence[str]
    attempt: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    cwd: str | None = None
    pre_exec: Sequence[str] = ()
    post_exec: Sequence[str] = ()
    native_id: str = "$$"
    patience: int = 0
    sweep: bool = False
    durable: bool = False
    timer: str | None = None
    claim: bool = False

    def text(self) -> str:
        """Write the script."""
        parts = [self._head(), _body(self.native_id, self.sweep, self.durable, self.claim), *functions(self.plan)]
        parts += [*self._exports(), ""]
        parts += [*self._stage_in(), ""]
        if self.cwd is not None:
            parts.append(f"cd -- {shlex.quote(self.cwd)} || asyncflow_fail {shlex.quote(f'{self.cwd} is not there')}")
        if self.pre_exec:
            parts += [
                "asyncflow_stage=pre_exec",
                *[f'{{ {line}\n}} 2>>"$asyncflow_err" || exit' for line in self.pre_exec],
            ]
        parts += ["asyncflow_stage=run", f"{self._launch()} </dev/null", "asyncflow_code=$?"]
        if self.post_exec:
            parts += self._after()
        parts += ['[ "$asyncflow_code" -eq 0 ] || exit "$asyncflow_code"', "asyncflow_stage=stage_out"]
        if self.pre_exec or self.cwd is not None:
            parts.append(f"cd -- {shlex.quote(self.cwd or self.sandbox)} || asyncflow_fail 'its directory is gone'")
        mark = f"{self.uid}.{self.attempt}.{self.nonce[:8]}"
        parts += [*stage_out_lines(self.plan.promised, self.plan.deliveries, mark), "asyncflow_stage=run", "exit 0", ""]
        return "\n".join(parts)

    def _stage_in(self) -> list[str]:
        lines = stage_in_lines(self.plan, self.patience)
        if not self.claim or not lines:
            return lines
        # An earlier run of the same job has done it, and what that run wrote is there as well.
        return ["if ! [ -e .asyncflow/staged ]; then", *lines, ": >.asyncflow/staged", "fi"]

    def _head(self) -> str:
        own = {
            "version": 1,
            "session": os.path.basename(self.session),
            "uid": self.uid,
            "attempt": self.attempt,
            "nonce": self.nonce,
        }
        # It stands in a comment.
        title = " ".join(f"{self.uid} {self.name!r}, attempt {self.attempt}".split())
        marker = f"{spool_of(self.session)}/{marker_name(self.uid, self.attempt)}"
        return _HEAD.format(
            title=title,
            box=shlex.quote(self.sandbox),
            out=shlex.quote(f"./{self.uid}.out"),
            err=shlex.quote(f"{self.sandbox}/{self.uid}.err"),
            marker=shlex.quote(marker),
            own=shlex.quote(json.dumps(own)[1:-1]),
        )

    def _exports(self) -> list[str]:
        own = own_variables(self.uid, self.session, self.sandbox, self.attempt)
        variables = own | {name: value for name, value in self.environment.items() if _NAME.fullmatch(name)}
        return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]

    def _launch(self) -> str:
        argv = list(self.argv)
        odd = [f"{name}={value}" for name, value in self.environment.items() if not _NAME.fullmatch(name)]
        if odd:
            # No name for sh, but one for a program.
            argv = ["env", "--", *odd, *argv]
        line = " ".join(shlex.quote(word) for word in argv)
        if self.timer is None:
            return _started(line)
        # It must outlive the command, which alone is to be ended by a signal; not every env can see to that.
        signals = ",".join(_SIGNALS)
        timer = f"{shlex.quote(self.timer)} -o {shlex.quote(self._own('usage'))} -f '%M %U %S' --"
        timed = (
            f"(trap '' {' '.join(_SIGNALS)}; {_started(f'{timer} env --default-signal={signals} {_BY_SH} {line}')[1:]}"
        )
        usable = f"[ -x {shlex.quote(self.timer)} ] && env --default-signal=TERM true 2>/dev/null"
        return f"if {usable}; then {timed}; else {_started(line)}; fi"

    def _after(self) -> list[str]:
        # They run whatever came of the command, and their failure is the task's where it had none.
        lines = ["asyncflow_last=0", '[ "$asyncflow_code" -ne 0 ] || asyncflow_stage=post_exec']
        for line in self.post_exec:
            lines.append(f'{{ {line}\n}} 2>>"$asyncflow_err" || asyncflow_last=$?')
            lines.append('[ "$asyncflow_code" -ne 0 ] || [ "$asyncflow_last" -eq 0 ] || exit "$asyncflow_last"')
        return lines

    def _own(self, name: str) -> str:
        return f"{self.sandbox}/{BOOKKEEPING}/{name}"


# sh says why a program cannot be started as it does elsewhere.
_BY_SH = "/bin/sh -c 'exec \"$@\"' sh"


def _started(line: str) -> str:
    # What a shell says of a child that a signal ended goes to the script's own error output, not to the task's.
    return f'(exec 2>>"$asyncflow_err"; exec {line})'


_HEAD = """\
#!/bin/sh
# {title}
# shellcheck disable=SC2329
# Stages its files, runs, and leaves its completion record in .asyncflow/exit.json.
umask 077
asyncflow_box={box}
cd -- "$asyncflow_box" || exit 125
asyncflow_out={out}
asyncflow_err={err}
asyncflow_marker={marker}
asyncflow_own={own}
"""

_BEGIN = """\
{claim}asyncflow_record=$asyncflow_box/.asyncflow/exit.json
# Room for the record, should the disk be full at the end: else nothing is run.
if ! printf '%{room}s\\n' '' >"$asyncflow_record.part"; then
  rm -f -- "$asyncflow_record.part"{unclaim}
  exit 125
fi
exec >>"$asyncflow_out" 2>>.asyncflow/script.log
asyncflow_stage=stage_in asyncflow_code=0 asyncflow_noted='' asyncflow_missing=''
asyncflow_start=$(date +%s)
if [ -r /proc/sys/kernel/hostname ]; then
  read -r asyncflow_host </proc/sys/kernel/hostname
else
  asyncflow_host=$(uname -n)
fi
printf '%s\\n' "$asyncflow_host" >.asyncflow/host
{signals}
"""

# Of symbolic links with one name, one alone can be made, on every file system.
_CLAIM = """\
asyncflow_native={native}
if [ -n "$asyncflow_native" ] && ! ln -s -- "$asyncflow_native" .asyncflow/claim 2>/dev/null; then
  asyncflow_first=$(readlink .asyncflow/claim)
  if [ "$asyncflow_first" != "$asyncflow_native" ]; then
    printf 'nothing is run: this task belongs to job %s, not to %s\\n' "$asyncflow_first" "$asyncflow_native" >&2
    exit 75
  elif [ -e .asyncflow/ended ]; then
    echo 'nothing is run: this task has ended in an earlier run of its job' >&2
    exit 75
  fi
  rm -f .asyncflow/exit.json .asyncflow/usage
  for asyncflow_file in "$asyncflow_out" "$asyncflow_err"; do
    : >"$asyncflow_file"
  done
fi
"""

# It was not ended from outside, so its record is final, and its driver has it or will.
_ENDED = """\
  if [ "$asyncflow_signal" = null ] && [ "$1" -le 128 ] && { [ "$1" -eq 0 ] || [ -z "$asyncflow_noted" ]; }; then
    { :; } >"$asyncflow_box/.asyncflow/ended"
  fi
"""

_FINISH = """
asyncflow_fail() {{
  printf '%s\\n' "$*" >"$asyncflow_box/.asyncflow/error"
  exit 1
}}

# asyncflow_usage: what GNU time has written: a line about a signal, and the peak of memory and the CPU times
asyncflow_usage() {{
  asyncflow_signal=null asyncflow_used=
  if [ -f "$asyncflow_box/.asyncflow/usage" ]; then
    while read -r asyncflow_line; do
      case $asyncflow_line in
        'Command terminated by signal '*) asyncflow_signal=${{asyncflow_line##* }} ;;
        'Command '*) ;;
        *) asyncflow_used=$asyncflow_line ;;
      esac
    done <"$asyncflow_box/.asyncflow/usage"
  fi
}}

# asyncflow_finish CODE: leave the completion record, whole or not at all, and then tell that it is there
asyncflow_finish() {{
  trap '' HUP INT TERM USR1 USR2 XCPU{sweep}
  asyncflow_usage
  {{ times; }} >"$asyncflow_box/.asyncflow/times"
  {{ read -r asyncflow_times && read -r asyncflow_children; }} <"$asyncflow_box/.asyncflow/times"
  [ "$asyncflow_stage" != stage_out ] || [ -z "$asyncflow_missing" ] || set -- 0
{ended}  {{
    printf '{{%s, "stage": "%s", "exit_code": %d, "signal": %s, "noted": "%s", "missing": [%s], ' \\
      "$asyncflow_own" "$asyncflow_stage" "$1" "$asyncflow_signal" "$asyncflow_noted" "$asyncflow_missing" &&
    printf '"start": %d, "end": %d, "host": "%s", "native_id": "%s", "times": "%s %s", "usage": "%s"}}\\n' \\
      "$asyncflow_start" "$(date +%s)" "$asyncflow_host" "{native}" \\
      "$asyncflow_times" "$asyncflow_children" "$asyncflow_used"
  }} 1<>"$asyncflow_record.part"{sync} &&
    mv -f -- "$asyncflow_record.part" "$asyncflow_record" && : >"$asyncflow_marker"
}}
trap 'asyncflow_finish $?' EXIT
"""


@lru_cache
def _body(native: str, sweep: bool, durable: bool, claim: bool) -> str:
    """Write what is the same in the scripts of many attempts; about half of their text."""
    begin = _BEGIN.format(
        claim=_CLAIM.format(native=native) if claim else "",
        unclaim=" .asyncflow/claim" if claim else "",
        room=_ROOM,
        signals="\n".join(f"trap 'asyncflow_noted={name}' {name}" for name in _SIGNALS),
    )
    finish = _FINISH.format(
        native=native,
        sweep="\n  kill -TERM 0" if sweep else "",
        sync=' && sync -- "$asyncflow_record.part"' if durable else "",
        ended=_ENDED if claim else "",
    )
    return begin + finish


def script_path(sandbox: str) -> str:
    """Say where the script of an attempt lies."""
    return f"{sandbox}/{BOOKKEEPING}/run.sh"


def claimed_by(sandbox: str) -> str | None:
    """Say which job runs an attempt that only one may run, by its native id; None where none has begun."""
    try:
        return os.readlink(f"{sandbox}/{BOOKKEEPING}/claim")
    except OSError:
        return None


def forbid(sandbox: str) -> bool:
    """See to it that no job begins to run an attempt any more, should one that seems lost turn up.

    Returns:
        False where one has begun already, or nobody can say.
    """
    try:
        os.symlink("none", f"{sandbox}/{BOOKKEEPING}/claim")
    except OSError:
        return False
    return True


def said(sandbox: str) -> str:
    """Return what the script of an attempt said when staging failed."""
    try:
        with open(f"{sandbox}/{BOOKKEEPING}/error", encoding="utf-8", errors="replace") as stream:
            return stream.read(_LONGEST).strip()
    except OSError:
        return "its files could not be staged"


def write_script(script: RunScript) -> str:
    """Write the script into its sandbox, which is there already.

    Returns:
        Its path.

    Raises:
        OSError: it cannot be written.
    """
    path = script_path(script.sandbox)
    for directory in (os.path.dirname(path), spool_of(script.session)):
        # To make it in vain costs more than to look.
        if not os.path.isdir(directory):
            with suppress(FileExistsError):
                os.mkdir(directory, 0o700)
    write_file(path, os.fsencode(script.text()), 0o700)
    for ending in ("out", "err"):
        # The script appends to them, with whatever mask the node has.
        write_file(f"{script.sandbox}/{script.uid}.{ending}", b"")
    return path
