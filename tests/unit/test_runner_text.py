"""The runner and the functions that stage files are read into one shell, and must not overwrite each other's names."""

from __future__ import annotations

import re

from asyncflow_hpc.backends.runner import STAGE
from asyncflow_hpc.backends.runner_text import RUNNER

# The functions report promised files that are missing to the runner in it.
HANDED_OVER = {"asyncflow_missing"}


def assigned(text: str) -> set[str]:
    read = {name for words in re.findall(r"\bread -r ((?:asyncflow_\w+ ?)+)", text) for name in words.split()}
    return read | set(re.findall(r"\b(asyncflow_\w+)=", text)) | set(re.findall(r"\bfor (asyncflow_\w+) in", text))


def test_no_name_is_assigned_in_both() -> None:
    mine, theirs = assigned(RUNNER), assigned(STAGE)
    assert {"asyncflow_shell", "asyncflow_clock", "asyncflow_name"} <= mine
    assert {"asyncflow_kind", "asyncflow_missing"} <= theirs
    assert mine & theirs == HANDED_OVER


def test_no_function_is_defined_in_both() -> None:
    mine, theirs = (set(re.findall(r"^(\w+)\(\)", text, re.MULTILINE)) for text in (RUNNER, STAGE))
    assert mine and theirs and not mine & theirs
