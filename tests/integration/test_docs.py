"""What the documentation says is so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_made_from_the_code_is_up_to_date() -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "describe", "--check"], check=True)


@pytest.mark.parametrize("backend", ["local", "pbs"])
def test_the_script_in_the_readme_runs_where_the_environment_says(backend: str, tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    command = [sys.executable, "-c", found[1]]
    if backend == "pbs":
        command = [sys.executable, "-m", "asyncflow_hpc.testing.emulators", "pbs", "--", *command]
    env = {**os.environ, "ASYNCFLOW_BACKEND": backend}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "the squares are 0 1 4 9 16\n"), done.stderr
    jobs = [*tmp_path.glob("*/task.*/.asyncflow/job.sh")]
    assert len(jobs) == (6 if backend == "pbs" else 0)


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")], ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
