"""The contract suite as the author of a backend gets it: from an empty directory, against a backend of theirs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import asyncflow_hpc.testing.contract
from asyncflow_hpc.testing import FEATURES, BackendUnderTest
from tests.unit.test_architecture import LONGEST, ROOT, imports, is_backend, module_name

SUITE = "asyncflow_hpc.testing.contract"
PLUGIN = "asyncflow_hpc.testing.plugin"
SHIPPED = sorted(Path(asyncflow_hpc.testing.contract.__path__[0]).glob("test_*.py"))
MODULES = sorted((ROOT / "asyncflow_hpc" / "testing").rglob("*.py"))
PAGE = (ROOT / "docs" / "contract.md").read_text()

TOY = """
import pytest

from asyncflow_hpc import LocalExecutionBackend
from asyncflow_hpc.backend import BackendCapabilities
from asyncflow_hpc.states import TaskState
from asyncflow_hpc.testing import BackendUnderTest

pytest_plugins = ["asyncflow_hpc.testing.plugin"]


class Toy(LocalExecutionBackend):
    capabilities = BackendCapabilities(staging=True, cancel_running=True)

    def __init__(self):
        super().__init__(cores=2, name="toy")


class Liar(Toy):
    def ended(self, attempt, state):
        super().ended(attempt, TaskState.DONE)


def pytest_asyncflow_backends():
    skips = {"walltime": "a toy has no clock", "test_cwd": "toys stay where they are"}
    return {"toy": BackendUnderTest(Toy, skips, cores=2), "liar": BackendUnderTest(Liar)}


@pytest.fixture
def backend():
    raise NotImplementedError("a fixture of the author's own tests")
"""


def run_suite(directory: Path, *arguments: str) -> tuple[int, str]:
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--pyargs", SUITE, "-q", *arguments]
    done = subprocess.run(
        words, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=110
    )
    return done.returncode, done.stdout


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A directory that holds nothing but a conftest.py with two backends."""
    (tmp_path / "conftest.py").write_text(TOY)
    return tmp_path


def test_a_toy_passes_and_what_it_skips_is_printed(toy: Path) -> None:
    # What takes longest tells nothing about the plugin.
    code, output = run_suite(toy, "--asyncflow-backend", "toy", "-k", "not thousand and not many and not grandchildren")
    assert code == 0, output
    _, _, told = output.partition("contract: what each backend skips")
    lines = told.splitlines()
    assert re.fullmatch(r"toy: \d\d+ passed, \d+ skipped", lines[1]), output
    assert "    walltime (5 tests): a toy has no clock" in lines
    assert "    test_cwd (1 test): toys stay where they are" in lines
    assert "    ranks (4 tests): capabilities.ranks is False" in lines
    assert "    services (11 tests): capabilities.services is False" in lines
    assert "liar" not in output
    assert [path.name for path in toy.iterdir() if path.name != "__pycache__"] == ["conftest.py"]


def test_a_backend_that_calls_everything_done_fails(toy: Path) -> None:
    code, output = run_suite(toy, "--asyncflow-backend", "liar", "-k", "test_failure or test_meaning")
    assert code == 1
    assert re.search(r"^liar: 8 passed, 5 failed$", output, re.MULTILINE), output


def test_a_registered_backend_by_name(tmp_path: Path) -> None:
    code, output = run_suite(tmp_path, "-p", PLUGIN, "--asyncflow-backend", "local", "-k", "test_meaning or gpu")
    assert code == 0
    assert re.search(r"^local: 8 passed, 2 skipped$\n    gpus \(2 tests\)", output, re.MULTILINE), output


@pytest.mark.parametrize(("arguments", "words"), [
    (["-p", PLUGIN, "--asyncflow-backend", "nop"], "no backend is called 'nop'; did you mean 'noop'?"),
    (["-p", PLUGIN], "no backend to run the contract suite over: give --asyncflow-backend NAME"),
    ([], "the contract suite needs its plugin"),
])  # fmt: skip
def test_usage_errors_are_told_once(tmp_path: Path, arguments: list[str], words: str) -> None:
    code, output = run_suite(tmp_path, *arguments)
    assert (code, output.count("ERROR: ")) == (4, 1) and words in output, output


def test_a_skip_of_a_test_that_is_gone_is_refused(toy: Path) -> None:
    text = (toy / "conftest.py").read_text()
    (toy / "conftest.py").write_text(text.replace("test_cwd", "test_that_is_gone"))
    code, output = run_suite(toy)
    assert code == 4 and "skips of backend 'toy': the suite has no test_that_is_gone" in output, output


@pytest.mark.parametrize("skips", [{"rank": "a slip"}, {"ranks": ""}])
def test_skips_are_checked(skips: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="skips"):
        BackendUnderTest(lambda: None, skips)


def test_our_own_run_takes_in_every_module() -> None:
    own = {path.name for path in (ROOT / "tests" / "contract").glob("test_*.py")}
    assert own == {path.name for path in SHIPPED}


def test_names_of_tests_are_unique_and_their_needs_are_features() -> None:
    names = [name for path in SHIPPED for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.M)]
    assert len(names) > 80 and len(set(names)) == len(names)
    needs = {
        feature
        for path in SHIPPED
        for words in re.findall(r"mark\.needs\(([^)]*)\)", path.read_text())
        for feature in re.findall(r'"(\w+)"', words)
    }
    assert needs <= set(FEATURES)


@pytest.mark.parametrize("feature", FEATURES)
def test_the_page_has_every_feature(feature: str) -> None:
    assert f"| `{feature}` | {FEATURES[feature]} |" in PAGE


def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    assert "from my_package import MyBackend" in found[1]
    text = found[1].replace("from my_package import MyBackend", "from asyncflow_hpc import LocalExecutionBackend")
    (tmp_path / "conftest.py").write_text(text.replace("MyBackend", "LocalExecutionBackend"))
    code, output = run_suite(tmp_path, "-k", "test_meaning or walltime or cwd")
    assert code == 0 and "mine: 10 passed, 6 skipped" in output, output


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_the_suite_knows_no_backend_and_is_short(path: Path) -> None:
    assert [name for name in imports(path) if is_backend(name)] == []
    assert len(path.read_text().splitlines()) < LONGEST


def test_functions_that_cross_import_no_pytest() -> None:
    program = f"import sys, {SUITE}.crossing; print({{'pytest', 'psutil'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "set()\n"
