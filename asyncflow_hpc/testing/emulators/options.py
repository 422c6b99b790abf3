"""Options on command lines and in the scripts of jobs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

__all__ = ["IllegalOption", "directives", "parsed"]


class IllegalOption(Exception):
    """An option is not known, or has no value.

    Attributes:
        letter: the option.
        missing: it needs a value.
    """

    def __init__(self, letter: str, missing: bool = False) -> None:
        super().__init__(letter)
        self.letter = letter
        self.missing = missing


def parsed(words: Sequence[str], with_value: str, flags: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Take options of one letter from the beginning of a command line, as getopt does.

    Returns:
        Options with their values, in order, and the other words.

    Raises:
        IllegalOption: the first that is not known.
    """
    found: list[tuple[str, str]] = []
    left = list(words)
    while left and left[0].startswith("-") and left[0] != "-":
        word = left.pop(0)
        if word == "--":
            return found, ["--", *left]
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter in with_value:
                if not letters and not left:
                    raise IllegalOption(letter, missing=True)
                found.append((letter, letters or left.pop(0)))
                letters = ""
            elif letter in flags:
                found.append((letter, ""))
            else:
                raise IllegalOption(letter)
    return found, left


def directives(script: bytes, prefix: str) -> Iterator[list[str]]:
    """Find the options in a script: on comment lines before its first command."""
    for line in script.decode(errors="surrogateescape").splitlines():
        if line.startswith(prefix):
            try:
                yield shlex.split(line[len(prefix) :], comments=True)
            except ValueError:
                yield line[len(prefix) :].split()
        elif line.strip() and not line.startswith(("#", ":")):
            return
