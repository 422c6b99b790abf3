"""Staging in Python and staging in sh: two ways that must leave the same sandbox, under every shell that counts."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asyncflow_hpc.backends.run_script import RunScript, write_script
from asyncflow_hpc.backends.staging import Delivery, Dependency, Plan, Transfer
from asyncflow_hpc.backends.staging.apply import deliver, missing, perform, survey
from asyncflow_hpc.backends.task_script import TaskScript
from asyncflow_hpc.errors import StagingError

# What a sandbox may hold: a tree of names, with files, links to files in it or elsewhere, and directories.
NAMES = st.sampled_from(["a", "b", "c d", "-n", ".hid", "..x", "é'\"\n$x", "*", "=", "\\", "d", "e"])
LEAVES = st.sampled_from(["file", "program", "link a", "link nowhere", "link /nowhere", "link OUTSIDE", "link d"])
TREES: Any = st.dictionaries(
    NAMES, st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=3)), max_size=5
)


def outside(path: Path) -> Path:
    """A file beside the session of a path; links lead to it, and nothing may happen to it."""
    return next(above for above in path.parents if above.name == "s").with_name("outside")


def grow(root: Path, tree: dict[str, Any], text: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, what in tree.items():
        path = root / name
        if isinstance(what, dict):
            grow(path, what, f"{text}/{name}")
        elif what.startswith("link "):
            path.symlink_to(what[5:].replace("OUTSIDE", str(outside(path))))
        else:
            path.write_text(f"{text}/{name}")
            path.chmod(0o755 if what == "program" else 0o600)


def seen(root: Path) -> dict[str, str]:
    """What a task would find: each name with what it is, and what it says."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name.split("/")[0] == ".asyncflow" or name in ("task.000009.out", "task.000009.err"):
            continue
        if path.is_dir():
            found[name] = f"directory {os.path.realpath(path)}" if path.is_symlink() else "directory"
        elif path.exists():
            mode = "x" if os.access(path, os.X_OK) and path.stat().st_mode & 0o111 else ""
            where = os.path.realpath(path) if path.is_symlink() else "here"
            found[name] = f"{where} {mode} {path.read_text()}"
        else:
            found[name] = "dangling"
    return found


def in_python(plan: Plan, sandbox: Path) -> bool:
    try:
        found = survey(plan)
        assert found is not None
        perform(found, str(sandbox))
    except StagingError:
        return False
    if missing(plan.promised, str(sandbox)):
        return False
    deliver(plan.deliveries, str(sandbox), "mark")
    return True


def in_shell(plan: Plan, sandbox: Path, shell: list[str], **more: Any) -> bool:
    session = str(sandbox.parent)
    task = TaskScript(uid="task.000009", name="t", attempt=0, session=session, sandbox=str(sandbox), argv=["true"])
    script = RunScript(task=task, nonce="ab", plan=plan, **more)
    ended = subprocess.run([*shell, write_script(script)], capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    assert ended.stderr == b"", ended.stderr
    said = (sandbox / "task.000009.err").read_text()
    assert said == "" or ended.returncode != 0, said
    return ended.returncode == 0


def both_ways(build: Any, shell: list[str]) -> dict[str, str] | None:
    """Stage the same plan over equal trees in both ways; compare, and return what is there in the end."""
    results = []
    with tempfile.TemporaryDirectory(prefix="a place with 'quotes' ") as place:
        for way in (in_python, in_shell):
            # The same paths for both, one after the other.
            root = Path(place, "s")
            outside(root / "x").write_text("outside")
            plan, sandbox = build(root)
            sandbox.mkdir(parents=True)
            done = way(plan, sandbox, shell) if way is in_shell else way(plan, sandbox)  # type: ignore[call-arg]
            results.append((done, seen(sandbox) if done else None, seen(root / "final") if done else None))
            assert outside(root / "x").read_text() == "outside"
            shutil.rmtree(root)
    assert results[0] == results[1]
    return results[0][1]


OWN = frozenset({".asyncflow"})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees=st.lists(TREES, min_size=1, max_size=3), declared=st.lists(NAMES, max_size=2))
@example(trees=[{"d": {"a": "file"}}, {"d": "file"}, {"d": {"b": "file"}}], declared=[])
@example(trees=[{"a": "link /nowhere"}, {"a": "link /nowhere"}], declared=[])
@example(trees=[{"a": "file", "b": "link a"}, {"b": "file"}], declared=["a"])
@example(trees=[{"d": {"a": "file"}}, {"d": {"a": "file", "b": "file"}}], declared=["d"])
def test_dependencies(shell: list[str], trees: list[Any], declared: list[str]) -> None:
    def build(root: Path) -> tuple[Plan, Path]:
        for number, tree in enumerate(trees):
            grow(root / f"task.00000{number}", tree, f"task {number}")
        (root / "inputs").mkdir()
        transfers = []
        for name in dict.fromkeys(declared):
            (root / "inputs" / name).write_text(f"declared {name}")
            transfers.append(Transfer((str(root / "inputs" / name),), f"{name}/in", "copy", name))
        names = [f"task.00000{number}" for number in range(len(trees))]
        dependencies = tuple(Dependency(str(root / name), name, "link", OWN) for name in names)
        return Plan(tuple(transfers), dependencies), root / "task.000009"

    both_ways(build, shell)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES, action=st.sampled_from(["link", "copy", "move"]), nested=st.booleans(), targets=st.booleans())
@example(tree={"a": "link OUTSIDE"}, action="move", nested=False, targets=False)
@example(tree={"a": "link OUTSIDE", "b": "link a"}, action="copy", nested=True, targets=True)
def test_declared(shell: list[str], tree: Any, action: Any, nested: bool, targets: bool) -> None:
    def build(root: Path) -> tuple[Plan, Path]:
        grow(root / "task.000001", tree, "task")
        transfers, deliveries = [], []
        for number, (name, what) in enumerate(tree.items()):
            if action == "move" and what in ("link a", "link d"):
                # When what it points at has moved, nobody can say whether it is still there.
                continue
            place = str(root / "task.000001" / name)
            into = f"sub {number}/{name}" if nested else name
            transfers.append(Transfer((place,), into, action, name))
            if targets:
                deliveries.append(Delivery(into, f"{root}/final/{number}/{name}"))
        promised = tuple(delivery.name for delivery in deliveries)
        return Plan(tuple(transfers), (), promised, tuple(deliveries)), root / "task.000009"

    both_ways(build, shell)


def test_many_files_of_odd_names(shell: list[str]) -> None:
    def build(root: Path) -> tuple[Plan, Path]:
        tree = {f"{number} 'x'\n": "file" for number in range(450)}
        grow(root / "task.000001", tree, "task")
        transfers = tuple(Transfer((str(root / "task.000001" / name),), f"in/{name}", "link", name) for name in tree)
        dependency = Dependency(str(root / "task.000001"), "task.000001", "link", OWN)
        return Plan(transfers, (dependency,)), root / "task.000009"

    found = both_ways(build, shell)
    assert found is not None and len(found) == 450 + 450 + 2


def test_one_file_by_two_ways_is_no_conflict(shell: list[str]) -> None:
    def build(root: Path) -> tuple[Plan, Path]:
        grow(root / "task.000001", {"a": "file", "b": "file"}, "task")
        for name in ("task.000002", "task.000003"):
            grow(root / name, {"a": f"link {root}/task.000001/a", "b": "file"}, name)
        names = ("task.000002", "task.000003")
        both = Transfer(tuple(f"{root}/{name}/a" for name in names), "again", "link", "a", otherwise="/nowhere")
        return Plan((both,), tuple(Dependency(f"{root}/{n}", n, "link", OWN) for n in names)), root / "task.000009"

    found = both_ways(build, shell)
    assert found is not None
    assert {name for name in found if name[0] != "t"} == {"a", "again"}
