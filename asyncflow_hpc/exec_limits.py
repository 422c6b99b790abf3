"""What a process can be started with: the limits of execve, as conservative constants that hold on every machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .errors import TooLargeError

__all__ = ["ARGUMENTS", "ENVIRONMENT", "WORD", "check_command", "check_environment", "check_word"]

WORD = 131_071
"""Bytes of one argument or of one `NAME=value`: MAX_ARG_STRLEN of Linux, without the NUL."""

# Linux takes a quarter of the stack limit for both together, 2 MiB of the usual 8 MiB. The other half is left to the
# variables of the driver or the job, to those of a site, and to launchers.
ENVIRONMENT = 512 * 1024
"""Bytes of the environment of a task."""

ARGUMENTS = 1024 * 1024
"""Bytes of the arguments and the environment of a task."""

# The NUL and the pointer of a word count, too.
_OVERHEAD = 9

_ADVICE = "write the data to a file and pass its name"


def check_word(text: str, what: str) -> str:
    """Return a text that has to fit into one argument of a process.

    Args:
        what: it is, for the message.

    Raises:
        TooLargeError: it does not fit.
    """
    if len(text) * 4 > WORD and (size := _bytes(text)) > WORD:
        raise TooLargeError(f"{what} of {size} bytes is too large: a process takes at most {WORD}; {_ADVICE}")
    return text


def check_environment(environment: Mapping[str, str]) -> None:
    """Check variables against what a process takes.

    Raises:
        TooLargeError: one of them, or all together, are too large; names and sizes are shown, never a value.
    """
    for name, value in environment.items():
        if (len(name) + len(value) + 1) * 4 > WORD and (size := _bytes(name) + _bytes(value) + 1) > WORD:
            raise TooLargeError(
                f"{name[:80]!r}, with its value, of {size} bytes is too large: a process takes at most {WORD};"
                f" {_ADVICE}"
            )
    if (total := _total(environment)) > ENVIRONMENT:
        raise TooLargeError(
            f"the variables, of {total} bytes together, are too large: a task takes at most {ENVIRONMENT}; {_ADVICE}"
        )


def check_command(name: str, argv: Sequence[str], environment: Mapping[str, str]) -> None:
    """Check the command of a task against what a process takes.

    Args:
        name: of the task, for the message.
        argv: its command; text for a shell is one word.
        environment: its own variables.

    Raises:
        TooLargeError: it could not be started on any backend.
    """
    for word in argv:
        check_word(word, f"the command of '{name}' cannot be run: an argument, or text for a shell,")
    total = sum(map(_bytes, argv)) + _OVERHEAD * len(argv) + _total(environment)
    if total > ARGUMENTS:
        raise TooLargeError(
            f"the command of '{name}' cannot be run: arguments and environment, of {total} bytes together, are too"
            f" large: a task takes at most {ARGUMENTS}; {_ADVICE}"
        )


def _total(environment: Mapping[str, str]) -> int:
    return sum(_bytes(name) + _bytes(value) + 1 + _OVERHEAD for name, value in environment.items())


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
