"""What the command of an executable task means."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from .errors import CommandError

__all__ = ["argv_of", "checked_command", "direct_words", "exact"]

# Words in which sh changes nothing: no expansion, no operator, no comment, no assignment.
_PLAIN = r"[A-Za-z0-9_@%+:,./-]+"
_WORD = r"(?:[A-Za-z0-9_@%+=:,./-]|'[^'\0]*'|\"[^\"$`\\\0]*\")+"
_SIMPLE = re.compile(rf"[ \t]*({_PLAIN})((?:[ \t]+{_WORD})*)[ \t\n]*")

# Reserved words and built-ins of the POSIX shell, and `echo` and its like, which differ between sh and /bin.
_OF_THE_SHELL = frozenset(
    """
    if then else elif fi do done case esac while until for in function select time coproc
    break : continue . eval exec exit export readonly return set shift times trap unset
    alias bg cd command fc fg getopts hash jobs kill newgrp pwd read type ulimit umask unalias wait
    echo printf test local source let declare typeset builtin enable history
    bind caller chdir compgen complete compopt dirs disown help logout mapfile popd pushd readarray shopt suspend
    """.split()  # noqa: SIM905
)


def checked_command(name: str, command: object) -> str | list[str]:
    """Check what the body of an executable task returned.

    Args:
        name: of the task, for the message.
        command: POSIX shell text, or an argv.

    Raises:
        CommandError: no command, or an empty one.
    """
    if isinstance(command, str) and command.strip() and "\0" not in command:
        return exact(command)
    if (
        isinstance(command, (list, tuple))
        and command
        and all(isinstance(word, str) and "\0" not in word for word in command)
        and command[0]
    ):
        return [exact(word) for word in command]
    raise CommandError(
        f"Executable task '{name}' must return a non-empty command string"
        f" (or a list of strings, an argv); it returned {command!r}"
    )


def exact(text: str) -> str:
    """Return a text as what it is, and not as an object of a class made from `str`, which may do anything."""
    return str.__str__(text)


def direct_words(command: str) -> list[str] | None:
    """Split a command that sh would run without changing a word.

    Returns:
        Its words, or None where only a shell can tell what it means.
    """
    found = _SIMPLE.fullmatch(command)
    if found is None or found[1] in _OF_THE_SHELL:
        return None
    return shlex.split(command) if "'" in command or '"' in command else command.split()


def argv_of(command: str | Sequence[str], shell: bool | str = False) -> list[str]:
    """Make the argv that runs a command.

    Args:
        command: shell text, or an argv, which never sees a shell.
        shell: the shell that reads text, where it is not sh.
    """
    if not isinstance(command, str):
        return list(command)
    if isinstance(shell, str):
        return [shell, "-c", command]
    return direct_words(command) or ["/bin/sh", "-c", command]
