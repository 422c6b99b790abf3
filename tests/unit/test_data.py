"""What a script says of its files, and what is refused before anything runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow_hpc.data import InputFile, OutputFile, check_files, name_in_sandbox
from asyncflow_hpc.errors import StagingConflictError, StagingError, TaskDescriptionError
from asyncflow_hpc.task import TaskDescription


def test_what_an_input_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("real").write_text("")
    Path("current").symlink_to("real")
    here = InputFile("current")
    assert (here.local_file, here.filename, str(here.filepath)) == ("current", "current", f"{tmp_path}/current")
    there = InputFile("sub/x.dat")
    assert (there.other_task_file, there.filename, there.local_file) == ("sub/x.dat", "sub/x.dat", None)
    url = InputFile("https://host/a/b%20c.dat?x=1#y", name="d/./e")
    assert (url.remote_url, url.filename) == ("https://host/a/b%20c.dat?x=1#y", "d/e")
    assert str(url.filepath) == "b c.dat"
    assert InputFile("a:b").other_task_file == "a:b"
    assert InputFile("/not/here").filename == "here"


@pytest.mark.parametrize(
    "make",
    [
        lambda: InputFile(""),
        lambda: InputFile("x", action="steal"),  # type: ignore[arg-type]
        lambda: InputFile("x", sha256="12"),
        lambda: OutputFile(""),
        lambda: OutputFile("dir/"),
        lambda: OutputFile("x", target=""),
        lambda: OutputFile("x", target="a\0b"),
    ],
)
def test_what_is_none(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError):
        make()


def test_a_file_as_text_is_its_name_in_the_sandbox(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    for file, name in (
        (InputFile(tmp_path / "x"), "x"),
        (InputFile(tmp_path / "x", name="a/./y"), "a/y"),
        (InputFile("https://host/a%20b?c"), "a b"),
        (InputFile("out/x"), "out/x"),
        (OutputFile("out//x"), "out/x"),
    ):
        again = pickle.loads(pickle.dumps(file))
        assert str(file) == os.fspath(file) == f"{file}" == f"{again}" == name
    with pytest.raises(TypeError, match="not of InputFile"):
        InputFile(InputFile("x"))


@pytest.mark.parametrize("file", [InputFile("x"), OutputFile("x")])
def test_a_task_description_stages_nothing(file: Any) -> None:
    for values in ({"environment": {"A": file}}, {"cwd": file}, {"ready_file": file}):
        with pytest.raises(TaskDescriptionError):
            TaskDescription.from_dict(values)


def test_an_input_crosses_without_its_future() -> None:
    item = pickle.loads(pickle.dumps(InputFile("a/b", name="c", action="copy", sha256="A" * 64)))
    assert (item.filename, item.action, item.sha256, item.task) == ("c", "copy", "a" * 64, None)


def test_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    targets = [OutputFile("sub/a", target=target).target for target in ("new/", "there", "x/../file", tmp_path / "y")]
    assert targets == [f"{tmp_path}/{name}" for name in ("new/a", "there/a", "file", "y")]


@given(st.text(st.sampled_from("ab./\0 -"), min_size=1, max_size=8))
def test_no_name_leaves_the_sandbox(text: str) -> None:
    name = os.path.normpath(text)
    try:
        name_in_sandbox(name, "it")
    except StagingError:
        assert os.path.isabs(name) or name.split("/")[0] == ".." or name == "." or "\0" in name
    else:
        landed = os.path.normpath(f"/box/{name}")
        assert landed.startswith("/box/") and landed != "/box"


def inputs(*names: str, action: str = "link") -> list[InputFile]:
    return [InputFile(f"/of/{number}", name=name, action=action) for number, name in enumerate(names)]  # type: ignore[arg-type]


def test_files_that_get_into_each_others_way() -> None:
    twice = InputFile("/of/x", name="a")
    check_files("t", [twice, InputFile("/of/x", name="a"), *inputs("b", "c/d", "c/e")], [OutputFile("f/g")])
    for conflict in (inputs("a", "a"), inputs("a", "a/b"), inputs("a/b", "a"), inputs("a/b/c", "a")):
        with pytest.raises(StagingConflictError):
            check_files("t", conflict, [])
    for output in ("a", "a/b"):
        with pytest.raises(StagingConflictError, match="action='copy'"):
            check_files("t", inputs("a"), [OutputFile(output)])
        check_files("t", inputs("a", action="copy"), [OutputFile(output)])
    check_files("t", inputs("a/b"), [OutputFile("a")])
    with pytest.raises(StagingConflictError, match="one target"):
        check_files("t", [], [OutputFile("a", target="/t"), OutputFile("b", target="/t")])
