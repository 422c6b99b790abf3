"""The four ways of installing the project, each tried in a fresh environment; the checkout has a space in its path."""

import configparser
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_OF_A_CHECKOUT = (".*", "build", "dist", "*.egg-info", "__pycache__", "asyncflow.session.*")

# Each costs a tenth of a second or more, or starts helpers: a script that only imports the engine must not pay for it.
HEAVY = (
    "cloudpickle",
    "concurrent.futures.process",
    "msgspec",
    "multiprocessing",
    "numpy",
    "psij",
    "psutil",
    "pydantic",
    "radical",
    "requests",
    "rich",
    "yaml",
)

PROBE = """
import importlib.metadata, importlib.resources, json
import asyncflow_hpc, asyncflow_hpc.backends.local, asyncflow_hpc.backends.noop, asyncflow_hpc.configs

backends = importlib.metadata.entry_points(group="asyncflow_hpc.backends")
print(json.dumps({
    "engine": asyncflow_hpc.__file__,
    "local": asyncflow_hpc.backends.local.__file__,
    "version": importlib.metadata.version("asyncflow-hpc"),
    "own version": asyncflow_hpc.__version__,
    "backends": {entry.name: entry.load().__module__ for entry in backends},
    "configs": sorted(file.name for file in importlib.resources.files("asyncflow_hpc.configs").iterdir()),
}))
"""


def run(*command: object, cwd: Path) -> str:
    words = [str(word) for word in command]
    completed = subprocess.run(words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=110)
    assert completed.returncode == 0, f"{words} ended with {completed.returncode}:\n{completed.stdout}"
    return completed.stdout


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def mapping(section: str, option: str) -> dict[str, str]:
    lines = setup_cfg()[section][option].split("\n")
    return {key.strip(): value.strip() for key, value in (line.split("=", 1) for line in lines if line.strip())}


def packaged_files(checkout: Path) -> set[str]:
    """The path in a wheel of every file below the mapped directories."""
    found = set()
    for package, directory in mapping("options", "package_dir").items():
        for path in (checkout / directory).rglob("*"):
            if path.is_file() and path.parent.name != "__pycache__":
                found.add(f"{package.replace('.', '/')}/{path.relative_to(checkout / directory).as_posix()}")
    return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, since building writes into the tree."""
    copy = tmp_path_factory.mktemp("packaging") / "a checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_OF_A_CHECKOUT))
    return copy


@pytest.fixture(scope="module")
def distributions(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist, and the wheel that is built from the sdist: a file the sdist lacks is missing from both."""
    target = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, checkout, cwd=target)
    (sdist,) = target.glob("*.tar.gz")
    (wheel,) = target.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


@pytest.fixture(scope="module")
def borrowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to all that is installed here except this project: dependencies and build tools without a network."""
    target = tmp_path_factory.mktemp("borrowed")
    for directory in map(Path, sys.path):
        if directory.name not in ("site-packages", "dist-packages") or not directory.is_dir():
            continue
        for entry in directory.iterdir():
            link = target / entry.name
            if "asyncflow_hpc" not in entry.name and entry.suffix != ".pth" and not link.exists():
                link.symlink_to(entry)
    return target


def make_environment(directory: Path, borrowed: Path) -> Path:
    run(sys.executable, "-m", "venv", "--without-pip", directory, cwd=directory.parent)
    (packages,) = directory.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(f"{borrowed}\n")
    return directory / "bin" / "python"


def install(python: Path, *what: object, cwd: Path) -> None:
    run(python, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", *what, cwd=cwd)


@pytest.fixture(scope="module")
def wheel_python(distributions: dict[str, Path], borrowed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    python = make_environment(directory / "environment", borrowed)
    install(python, distributions["wheel"], cwd=directory)
    return python


def probe(python: Path, cwd: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(run(python, "-I", "-c", PROBE, cwd=cwd))
    return result


def check(found: dict[str, Any], sources: Path) -> None:
    for module in ("engine", "local"):
        assert sources in Path(found[module]).parents
    assert found["version"] == found["own version"] == setup_cfg()["metadata"]["version"]
    declared = mapping("options.entry_points", "asyncflow_hpc.backends")
    assert set(found["backends"]) == set(declared)
    assert {path.name for path in (ROOT / "configs").glob("*.yaml")} <= set(found["configs"])


def test_install_from_the_checkout(checkout: Path, borrowed: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "environment", borrowed)
    install(python, checkout, cwd=tmp_path)
    check(probe(python, tmp_path), tmp_path / "environment")


def test_editable_install(checkout: Path, borrowed: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "environment", borrowed)
    install(python, "--editable", checkout, cwd=tmp_path)
    check(probe(python, tmp_path), checkout)


def test_install_from_the_wheel(wheel_python: Path, tmp_path: Path) -> None:
    check(probe(wheel_python, tmp_path), wheel_python.parents[1])


def test_install_from_the_sdist(distributions: dict[str, Path], borrowed: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "environment", borrowed)
    install(python, distributions["sdist"], cwd=tmp_path)
    check(probe(python, tmp_path), tmp_path / "environment")


def test_every_directory_of_modules_is_a_listed_package(checkout: Path) -> None:
    """A directory without __init__.py counts too: a mapped one is invisible to an editable install."""
    files = packaged_files(checkout)
    directories = {file.rpartition("/")[0] for file in files if file.endswith(".py")}
    listed = setup_cfg()["options"]["packages"].split()
    assert sorted(directory.replace("/", ".") for directory in directories) == sorted(listed)
    assert {f"{directory}/__init__.py" for directory in directories} <= files


def test_the_wheel_holds_every_file_of_the_packages(distributions: dict[str, Path], checkout: Path) -> None:
    names = zipfile.ZipFile(distributions["wheel"]).namelist()
    assert {name for name in names if ".dist-info/" not in name} == packaged_files(checkout)
    assert any(name.endswith("/LICENSE") for name in names)


def test_the_extra_all_holds_every_other_extra() -> None:
    extras = setup_cfg()["options.extras_require"]
    (everything,) = extras["all"].split()
    others = everything.removeprefix("asyncflow-hpc[").removesuffix("]").split(",")
    assert sorted(others) == sorted(set(extras) - {"all"})


def test_importing_the_engine_is_light(wheel_python: Path, tmp_path: Path) -> None:
    report = run(wheel_python, "-I", "-X", "importtime", "-c", "import asyncflow_hpc", cwd=tmp_path)
    imported = {line.rsplit("|", 1)[1].strip() for line in report.splitlines() if line.startswith("import time:")}
    assert "asyncflow_hpc" in imported
    assert [name for name in sorted(imported) if f"{name}.".startswith(tuple(f"{heavy}." for heavy in HEAVY))] == []
