"""Classes of a script: a result is what a plain call of the function gives, whatever way it has come."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "scripts" / "own_classes.py"


def run(*words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# What they bring along has no key that stays the same, so that they may run again.
AGAIN = {"described", "descriptors", "functions", "generic model", "model made", "models", "wrappers"}


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return run()


@pytest.mark.parametrize("modes", [["direct", "resume"], ["scripted", "resume"], ["cache", "cache"]], ids="-".join)
def test_results_are_of_the_classes_of_the_script(plain: dict[str, Any], modes: list[str], tmp_path: Path) -> None:
    for mode in modes:
        found = run(mode, str(tmp_path))
        assert {name: seen for name, seen in found.items() if seen != plain[name]} == {}, mode
        assert found.keys() == plain.keys()
    runs = Counter((tmp_path / "log").read_text().splitlines())
    assert {name for name, times in runs.items() if times > 1} <= AGAIN, "the second time nothing else was run"
