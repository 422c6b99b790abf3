"""The rooms of DESIGN.md, section 2, and the arrows between them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = sorted((ROOT / "asyncflow_hpc").glob("*.py"))
BACKENDS = sorted((ROOT / "backends").rglob("*.py"))

# What a backend may know of the engine.
CONTRACT = {
    "backend",
    "command",
    "data",
    "earlier",
    "errors",
    "limits",
    "masking",
    "session",
    "site_model",
    "sites",
    "states",
    "task",
    "units",
}

# No asyncio, no threads, no processes, no files.
PURE = {"graph", "states", "units", "command", "errors", "retries"}
PURE_IMPORTS = {
    "__future__",
    "collections",
    "dataclasses",
    "datetime",
    "difflib",
    "enum",
    "math",
    "re",
    "shlex",
    "typing",
}

HEAVY = [
    "cloudpickle",
    "flufl",
    "msgspec",
    "numpy",
    "psij",
    "psutil",
    "pydantic",
    "radical",
    "requests",
    "rich",
    "typeguard",
    "yaml",
]

LONGEST = 400


def module_name(path: Path) -> str:
    """The name under which a file is installed."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts if parts[0] == "asyncflow_hpc" else ("asyncflow_hpc", *parts))
    return name.removesuffix(".__init__")


def imports_in(source: str, package: str) -> Iterator[str]:
    """Full names of all modules, and of what is taken from them, that a module of a package imports anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            above = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                name = str(node.args[0].value)
                yield f"{package}{name}" if name.startswith(".") else name


def imports(path: Path) -> Iterator[str]:
    name = module_name(path)
    return imports_in(path.read_text(), name if path.name == "__init__.py" else name.rpartition(".")[0])


def within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def is_backend(name: str) -> bool:
    return within(name, "asyncflow_hpc.backends") or within(name, "backends")


def test_the_files_are_found() -> None:
    assert {"engine.py", "graph.py", "registry.py"} <= {path.name for path in ENGINE}
    assert {"noop.py", "slots.py"} <= {path.name for path in BACKENDS}


@pytest.mark.parametrize("statement", [
    "import asyncflow_hpc.backends.local", "from asyncflow_hpc import backends",
    "from asyncflow_hpc.backends import noop",
    "from .backends.local import LocalExecutionBackend", "from . import backends", "import backends.noop",
    "def f():\n    from .backends import noop", "if TYPE_CHECKING:\n    from .backends import noop",
    "import_module('.backends.noop', __name__)", "importlib.import_module('asyncflow_hpc.backends.noop')",
])  # fmt: skip
def test_every_way_of_importing_a_backend_is_seen(statement: str) -> None:
    assert any(is_backend(name) for name in imports_in(statement, "asyncflow_hpc"))


def test_imports_of_other_things_are_not_mistaken() -> None:
    source = "import os.path\nfrom .registry import load_backend\nfrom . import backend\nload_backend('backends')"
    names = list(imports_in(source, "asyncflow_hpc"))
    assert names == ["os.path", "asyncflow_hpc.registry.load_backend", "asyncflow_hpc.backend"]
    assert not any(is_backend(name) for name in names)


@pytest.mark.parametrize("path", ENGINE, ids=module_name)
def test_the_engine_imports_no_backend(path: Path) -> None:
    assert [name for name in imports(path) if is_backend(name)] == []


@pytest.mark.parametrize("path", BACKENDS, ids=module_name)
def test_a_backend_imports_only_the_contract_of_the_engine(path: Path) -> None:
    for name in imports(path):
        assert not within(name, "backends"), f"{name}: relative imports inside backends"
        if within(name, "asyncflow_hpc") and not within(name, "asyncflow_hpc.backends"):
            assert name.partition(".")[2].partition(".")[0] in CONTRACT, name


@pytest.mark.parametrize("path", BACKENDS, ids=module_name)
def test_relative_imports_stay_inside_backends(path: Path) -> None:
    """mypy reads the folder as a package of its own, above which there is nothing."""
    depth = len(path.relative_to(ROOT).parts) - 1
    levels = [node.level for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    assert max(levels, default=0) <= depth


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_touch_nothing(name: str) -> None:
    for imported in imports(ROOT / "asyncflow_hpc" / f"{name}.py"):
        top = imported.partition(".")[0]
        if top == "asyncflow_hpc":
            assert imported.split(".")[1] in PURE, imported
        else:
            assert top in PURE_IMPORTS, imported


@pytest.mark.parametrize("path", [*ENGINE, *BACKENDS], ids=module_name)
def test_a_module_is_short_enough_to_be_read(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines < LONGEST


@pytest.mark.parametrize("path", [*ENGINE, *BACKENDS], ids=module_name)
def test_what_a_module_exports_is_there(path: Path) -> None:
    module = import_module(module_name(path))
    assert [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)] == []


def modules_after(program: str, tmp_path: Path) -> set[str]:
    """What a fresh interpreter has imported at the end of a program."""
    words = [sys.executable, "-c", f"{program}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"]
    done = subprocess.run(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("program", ["import asyncflow_hpc", "from asyncflow_hpc import InputFile, OutputFile"])
def test_importing_the_package_imports_nothing_heavy(program: str, tmp_path: Path) -> None:
    there = modules_after(program, tmp_path) - modules_after("", tmp_path)
    assert "asyncflow_hpc" in there
    assert sorted(name for name in there if name.partition(".")[0] in HEAVY) == []
    assert not any(within(name, "asyncflow_hpc.backends") for name in there)


def test_the_engine_alone_imports_no_backend(tmp_path: Path) -> None:
    there = modules_after("from asyncflow_hpc import WorkflowEngine", tmp_path)
    assert "asyncflow_hpc.engine" in there
    assert sorted(name for name in there if is_backend(name) or within(name, "cloudpickle")) == []
