"""The example replay_trace: run on small traces as a user runs it, and its checks, which must not be blind."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow_hpc import LocalExecutionBackend

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "replay_trace.py"
TRACES = Path(__file__).resolve().parent / "traces"
HANG = 100  # seconds after which a run counts as hung; no test depends on how fast one is
VERDICT = "every input is what its producer wrote"


def imported() -> Any:
    """Import the example, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("replay_trace", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


example = imported()


def run(*arguments: str | Path, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the example to its end and check its exit code."""
    environment = {key: value for key, value in os.environ.items() if key != "ASYNCFLOW_BACKEND"}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=HANG, cwd=cwd)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert "never retrieved" not in done.stderr
    return done


def words(output: str) -> list[str]:
    """Cut output into lines, with one space between words."""
    return [" ".join(line.split()) for line in output.splitlines()]


@pytest.mark.parametrize("mode", [(), ("--implicit",)], ids=["declared", "implicit"])
def test_hostile_names(root: Path, mode: tuple[str, ...]) -> None:
    done = run(TRACES / "hostile.json", "--work-dir", root, "--keep", *mode)
    lines = words(done.stdout)
    assert lines[0].startswith("hostile: 7 tasks; scale 1: ")
    assert "note: 'grand\\tchild' reads what '-make it' writes, which is no parent: made it wait" in lines
    assert "7/7 tasks done" in lines
    assert "edges 7" in lines
    assert VERDICT in lines
    assert done.stderr == ""
    (home,) = root.iterdir()
    assert f"All files lie under {home}" in done.stdout
    assert not list(home.rglob("pwned"))
    assert {path.name for path in home.iterdir() if path.is_dir()} >= {"inputs", "specs"}


@pytest.mark.parametrize("implicit", [False, True], ids=["declared", "implicit"])
async def test_staged_by_the_run_script(root: Path, implicit: bool) -> None:
    """As on the batch backends, where a POSIX shell stages the files that Python stages here."""
    trace = example.load(TRACES / "hostile.json")
    example.scale_sizes(trace, 1.0, None)
    roots = example.prepare(trace, 0.0, root)
    replayed = await example.replay(trace, root, LocalExecutionBackend(scripted=True), implicit)
    assert example.check(trace, replayed, roots) == []
    assert len(list(replayed.session.glob("*/.asyncflow/run.sh"))) == len(trace.jobs)


def test_backend_that_runs_nothing(root: Path) -> None:
    done = run(TRACES / "hostile.json", "--work-dir", root, "--backend", "noop", code=1)
    assert "task '-make it' left no manifest" in done.stderr
    assert VERDICT not in done.stdout
    assert f"All files lie under {next(root.iterdir())}" in done.stdout


def test_unknown_backend(root: Path) -> None:
    done = run(TRACES / "hostile.json", "--work-dir", root, "--backend", "no-such-machine", code=1)
    assert "no-such-machine" in done.stderr


def test_unusable_work_dir(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    done = run(TRACES / "hostile.json", "--work-dir", tmp_path / "file" / "work", code=1)
    assert str(tmp_path / "file") in done.stderr
    assert "cannot be used" in done.stderr


def minimal() -> dict[str, Any]:
    """Give a good trace of two tasks, `make` and `use`, with the files `seed`, `made` and `used`."""
    make = {"id": "make", "parents": [], "children": ["use"], "inputFiles": ["seed"], "outputFiles": ["made"]}
    use = {"id": "use", "parents": ["make"], "children": [], "inputFiles": ["made"], "outputFiles": ["used"]}
    files = [{"id": file, "sizeInBytes": 100} for file in ("seed", "made", "used")]
    return {
        "name": "minimal",
        "schemaVersion": "1.5",
        "workflow": {"specification": {"tasks": [make, use], "files": files}},
    }


def tasks(document: dict[str, Any]) -> list[Any]:
    """Give the tasks of a trace."""
    found: list[Any] = document["workflow"]["specification"]["tasks"]
    return found


def files(document: dict[str, Any]) -> list[Any]:
    """Give the files of a trace."""
    found: list[Any] = document["workflow"]["specification"]["files"]
    return found


BAD: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "old version": (lambda d: d.update(schemaVersion="1.3"), "schemaVersion '1.3'"),
    "no version": (lambda d: d.pop("schemaVersion"), "schemaVersion should be a text, and is missing"),
    "no workflow": (lambda d: d.pop("workflow"), "trace.workflow should be an object, and is missing"),
    "no tasks": (lambda d: d["workflow"]["specification"].pop("tasks"), "specification.tasks should be a list"),
    "task is no object": (lambda d: tasks(d).append(7), "specification.tasks[2] should be a JSON object"),
    "id is no text": (lambda d: tasks(d)[0].update(id=7), "specification.tasks[0].id should be a text, and is 7"),
    "input is no text": (lambda d: tasks(d)[0].update(inputFiles=[7]), "inputFiles should hold texts, and holds 7"),
    "same task twice": (lambda d: tasks(d).append(copy.deepcopy(tasks(d)[0])), "the id 'make' was used before"),
    "unknown parent": (lambda d: tasks(d)[0]["parents"].append("x"), "task 'make' names 'x' as a neighbour"),
    "unknown child": (lambda d: tasks(d)[0]["children"].append("x"), "task 'make' names 'x' as a neighbour"),
    "cycle": (lambda d: tasks(d)[0]["parents"].append("use"), "these tasks wait for each other: "),
    "cycle by files": (lambda d: tasks(d)[0]["inputFiles"].append("used"), "these tasks wait for each other: "),
    "reads what it writes": (lambda d: tasks(d)[0]["inputFiles"].append("made"), "'make' -> 'make'"),
    "two producers": (lambda d: tasks(d)[1]["outputFiles"].append("made"), "'made' is written by two tasks"),
    "unlisted file": (lambda d: files(d).pop(0), "task 'make' names file 'seed', which specification.files"),
    "other size": (lambda d: files(d).append({"id": "made", "sizeInBytes": 7}), "'made' is listed before"),
    "negative size": (lambda d: files(d)[0].update(sizeInBytes=-1), "no file has a size of -1 bytes"),
    "huge size": (lambda d: files(d)[0].update(sizeInBytes=10**400), "no file has a size of "),
    "truth as size": (lambda d: files(d)[0].update(sizeInBytes=True), "sizeInBytes should be a whole number"),
    "way out": (lambda d: (files(d)[0].update(id="a/../../b"), tasks(d)[0].update(inputFiles=["a/../../b"])), "'..'"),
    "runtime is NaN": (
        lambda d: d["workflow"].update(execution={"tasks": [{"id": "make", "runtimeInSeconds": float("nan")}]}),
        "no task runs for nan seconds",
    ),
}


def test_sizes_are_scaled_and_capped(root: Path, tmp_path: Path) -> None:
    document = minimal()
    for file, size in zip(files(document), (0, 10, 7), strict=True):
        file["sizeInBytes"] = size
    (tmp_path / "trace.json").write_text(json.dumps(document))
    options = ("--scale", "5", "--max-bytes", "40", "--work-dir", root, "--keep")
    done = run(tmp_path / "trace.json", *options)
    assert words(done.stdout)[0] == "minimal: 2 tasks; scale 5: 91 bytes in all"
    (home,) = root.iterdir()
    sizes = {path.name: path.stat().st_size for path in home.rglob("*") if path.name in ("seed", "made", "used")}
    assert sizes == {"seed": 16, "made": 40, "used": 35}


def test_relative_paths_and_runtimes(tmp_path: Path) -> None:
    document = minimal()
    document["workflow"]["execution"] = {"tasks": [{"id": "make", "runtimeInSeconds": 7}]}
    (tmp_path / "trace.json").write_text(json.dumps(document))
    assert VERDICT in run("trace.json", "--work-dir", "work", "--speed", "0.001", cwd=tmp_path).stdout
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_bad_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any, message: str) -> None:
    document = minimal()
    spoil(document)
    assert_refused(tmp_path, json.dumps(document).encode(), message, capsys)


@pytest.mark.parametrize("content", [b"", b"no JSON", b"\xff\xfe\x00", b"[" * 200_000, b'{"a": 1'])
def test_no_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    assert_refused(tmp_path, content, "is not JSON: ", capsys)


@pytest.mark.parametrize("content", [b"7", b"[]", b"null", b'"text"'])
def test_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    assert_refused(tmp_path, content, "trace should be a JSON object", capsys)


def assert_refused(tmp_path: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that a trace is refused with a message on one line, before anything is made."""
    (tmp_path / "trace.json").write_bytes(content)
    assert example.main([str(tmp_path / "trace.json"), "--work-dir", str(tmp_path / "work")]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"{tmp_path / 'trace.json'}: ")
    assert message in output.err
    assert output.err.count("\n") == 1
    assert not (tmp_path / "work").exists()


def test_refused_trace_ends_the_process_with_2(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in run(tmp_path / "nowhere.json", "--work-dir", tmp_path, code=2).stderr
    assert "cannot be read: Is a directory" in run(tmp_path, "--work-dir", tmp_path, code=2).stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--scale=-1", "--scale=nan", "--speed=inf", "--max-bytes=15", "--max-bytes=x"])
def test_bad_option(tmp_path: Path, option: str) -> None:
    done = run(TRACES / "hostile.json", "--work-dir", tmp_path, option, code=2)
    assert option.split("=")[0] in done.stderr


def test_edge_that_only_one_side_names() -> None:
    document = minimal()
    tasks(document)[1]["parents"] = []
    trace = example.understand("one side", document["workflow"])
    assert trace.needs == {"make": [], "use": ["make"]}
    assert trace.notes == []


def test_producer_that_is_no_parent_is_waited_for() -> None:
    document = minimal()
    tasks(document)[0]["children"] = tasks(document)[1]["parents"] = []
    document["workflow"]["specification"]["tasks"].reverse()
    trace = example.understand("no parent", document["workflow"])
    assert list(trace.jobs) == ["make", "use"]
    assert trace.needs["use"] == ["make"]
    assert trace.jobs["use"].parents == []
    assert trace.notes == ["'use' reads what 'make' writes, which is no parent: made it wait"]


names = st.text(st.characters(), max_size=8) | st.text("aA/.~2\0\ud800é", max_size=8) | st.just("long/" + "é" * 300)


@given(st.lists(names, max_size=12, unique=True))
def test_paths_are_distinct_and_stay_inside(ids: list[str]) -> None:
    try:
        paths = example.sandbox_paths(ids)
    except example.TraceError:
        assert any(".." in file.split("/") for file in ids)
        return
    assert list(paths) == ids
    taken = [tuple(path.casefold().split("/")) for path in paths.values()]
    assert len(set(taken)) == len(ids)
    above = {parts[:end] for parts in taken for end in range(1, len(parts))}
    assert not above & set(taken)  # no file where another needs a directory
    for path in paths.values():
        assert not path.startswith("/")
        assert not {"", ".", ".."} & set(path.split("/"))
        assert path.split("/")[0] not in (".asyncflow", ".replay")
        assert max(len(os.fsencode(part)) for part in path.split("/")) <= 255
        assert "\0" not in path


def test_names_that_are_no_trouble_stay_as_they_are() -> None:
    ids = ["a.dat", "out/a.dat", " ", "-rf", "new\nline", "日本", "%s\\", "~", "*"]
    assert example.sandbox_paths(ids) == {file: file for file in ids}
    assert example.sandbox_paths(["/b6/e95/ERR.html"]) == {"/b6/e95/ERR.html": "b6/e95/ERR.html"}


def test_default_scale_keeps_the_whole_trace_small() -> None:
    document = minimal()
    for file, size in zip(files(document), (10**12, 3 * 10**12, 0), strict=True):
        file["sizeInBytes"] = size
    trace = example.understand("large", document["workflow"])
    example.scale_sizes(trace, example.default_scale(trace), None)
    assert 49_000_000 < sum(trace.sizes.values()) <= 50_000_000
    assert trace.sizes["used"] == example.LEAST_BYTES


class Session:
    """The minimal trace run without an engine: processes as the engine would start them, links set by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trace = example.understand("minimal", minimal()["workflow"])
        self.sandboxes: dict[str, Path] = {uid: path / uid for uid in self.trace.jobs}
        self.roots = {"seed": "0" * 64}

    def process(self, uid: str) -> subprocess.CompletedProcess[str]:
        """Run one process, its inputs and the directory being there."""
        sandbox, job = self.sandboxes[uid], self.trace.jobs[uid]
        (sandbox / example.OWN).mkdir(parents=True, exist_ok=True)
        (sandbox / job.own("spec.json")).write_text(json.dumps(example.spec_of(self.trace, job, 0.0)))
        command = [sys.executable, str(SCRIPT), "--task", job.own("spec.json")]
        return subprocess.run(command, capture_output=True, text=True, cwd=sandbox, timeout=HANG)

    def run(self, made: Path | None = None) -> Session:
        """Run both, the second with a link to `made`, which should be what the first makes."""
        seed = self.path.parent / "seed"
        self.roots = {"seed": example.write_random(seed, None, "seed", 100)}
        for uid, file, source in (("make", "seed", seed), ("use", "made", made or self.path / "make" / "made")):
            self.sandboxes[uid].mkdir(parents=True)
            (self.sandboxes[uid] / file).symlink_to(source)
            done = self.process(uid)
            assert done.returncode == 0, done.stderr
        return self

    def manifest(self, uid: str) -> Path:
        """Path of the manifest of a job."""
        own: str = self.trace.jobs[uid].own("manifest.json")
        return self.sandboxes[uid] / own

    def check(self) -> list[str]:
        """Check it as the example does."""
        replayed = example.Replayed(self.path, self.sandboxes)
        wrong: list[str] = example.check(self.trace, replayed, self.roots)
        return wrong


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "session").run()


def test_good_run_passes(session: Session) -> None:
    assert session.check() == []


@pytest.mark.parametrize(("uid", "file", "maker"), [("use", "made", "make"), ("make", "seed", None)])
def test_wrong_checksum_of_an_input_is_seen(session: Session, uid: str, file: str, maker: str | None) -> None:
    manifest = json.loads(session.manifest(uid).read_text())
    manifest["inputs"][file] = "f" * 64
    session.manifest(uid).write_text(json.dumps(manifest))
    assert session.check() == [
        f"task {uid!r} read another {file!r} than {repr(maker) if maker else 'the driver'} wrote"
    ]


def test_input_that_was_another_file_is_seen(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"x" * 100)
    session = Session(tmp_path / "session").run(made=tmp_path / "other")
    assert session.check() == ["task 'use' read another 'made' than 'make' wrote"]


def test_missing_and_foreign_manifests_are_seen(session: Session) -> None:
    session.manifest("use").unlink()
    assert session.check() == ["task 'use' left no manifest"]
    shutil.copy(session.manifest("make"), session.manifest("use"))
    wrong = session.check()
    assert "task 'use' has the manifest of 'make'" in wrong
    assert "task 'use' has other inputs in its manifest than in the trace" in wrong
    assert "task 'use' has a manifest of another run" in wrong


def test_spoilt_outputs_are_seen(session: Session) -> None:
    path = session.sandboxes["use"] / "used"
    content = path.read_bytes()
    path.write_bytes(content[::-1])
    assert session.check() == [f"'used' of task 'use' has changed since it was written: {path}"]
    path.write_bytes(content[1:])
    assert session.check() == [f"'used' of task 'use' has 99 bytes, not 100: {path}"]
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")
    assert session.check() == [f"'used' of task 'use' is no file at {path}"]
    path.unlink()
    assert session.check() == [f"'used' of task 'use' is no file at {path}"]


def test_second_run_in_another_sandbox_is_seen(session: Session) -> None:
    own = session.sandboxes["use"] / example.OWN
    shutil.copytree(own, session.path / "copy" / example.OWN)
    assert session.check() == []  # what was copied did not run again
    session.sandboxes["use"] = session.path / "use.1"
    session.sandboxes["use"].mkdir()
    (session.sandboxes["use"] / "made").symlink_to(session.path / "make" / "made")
    assert session.process("use").returncode == 0
    assert session.check() == ["task 'use' ran 2 times"]


def test_second_run_in_the_same_sandbox_is_seen(session: Session) -> None:
    done = session.process("use")
    assert done.returncode == 1
    assert "File exists: 'used'" in done.stderr
    assert session.check() == ["task 'use' ran 2 times"]


def test_process_without_its_input_fails(tmp_path: Path) -> None:
    done = Session(tmp_path / "session").process("make")
    assert done.returncode == 1
    assert done.stderr == "replay_trace: [Errno 2] No such file or directory: 'seed'\n"


def test_process_does_not_write_through_links(tmp_path: Path) -> None:
    """A directory of another task, linked as a whole, is not this task's to write in."""
    session = Session(tmp_path / "session")
    session.trace.paths["made"] = "shared/made"
    session.sandboxes["make"].mkdir(parents=True)
    (session.sandboxes["make"] / "seed").write_bytes(b"seed")
    (tmp_path / "other").mkdir()
    (session.sandboxes["make"] / "shared").symlink_to(tmp_path / "other")
    done = session.process("make")
    assert done.returncode == 1
    assert "shared leads out of the sandbox" in done.stderr
    assert not list((tmp_path / "other").iterdir())


def test_errors_of_tasks_are_told_without_those_that_follow() -> None:
    from asyncflow_hpc.errors import DependencyFailureError

    trace = example.understand("minimal", minimal()["workflow"])
    follows = DependencyFailureError.__new__(DependencyFailureError)
    replayed = example.Replayed(Path("nowhere"), errors={"make": OSError("broken"), "use": follows})
    assert example.check(trace, replayed, {}) == [
        "task 'make': OSError: broken",
        "not run, for they needed what failed: 1 of 2 tasks",
    ]


def test_no_two_files_are_alike(tmp_path: Path) -> None:
    of = [("a", "x", 16), ("a", "y", 16), ("b", "x", 16), (None, "x", 16), ("a", "x", 17), ("a", "x", (1 << 20) + 1)]
    sums = [example.write_random(tmp_path / str(number), *args) for number, args in enumerate(of)]
    assert len(set(sums)) == len(of)
    for number, (digest, (_, _, size)) in enumerate(zip(sums, of, strict=True)):
        assert (tmp_path / str(number)).stat().st_size == size
        assert example.checksum(tmp_path / str(number)) == digest
    assert example.write_random(tmp_path / "again", "a", "x", 16) == sums[0]
