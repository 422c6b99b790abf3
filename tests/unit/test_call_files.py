"""The files of a call: read as they were written, or refused; and what the driver makes of a process's end."""

from __future__ import annotations

import math
import os
import pickle
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncflow_hpc.backends import call_files
from asyncflow_hpc.backends.call_files import (
    CALL,
    RESULT,
    ExitCode,
    MissingFileError,
    Sink,
    open_file,
    read_header,
    refuse_other_versions,
    remove_file,
    versions,
    write_call,
    write_file,
)
from asyncflow_hpc.backends.call_results import Failed, Returned, read_result
from asyncflow_hpc.backends.pickling import dump_arguments, dump_to, dump_value
from asyncflow_hpc.errors import ConfigurationError, SerializationError, SessionError
from asyncflow_hpc.states import FailureCause

ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()


def several(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner) | st.sets(st.integers())


VALUES = st.recursive(ATOMS, several, max_leaves=20)


@pytest.fixture
def sandbox(tmp_path: Path) -> str:
    path = tmp_path / "a sandbox\nwith 'everything' $HOME"
    path.mkdir()
    return str(path)


@contextmanager
def new_sandbox() -> Iterator[str]:
    """Hypothesis needs one for each example."""
    with tempfile.TemporaryDirectory() as path:
        yield path


def leave_call(sandbox: str, *args: Any, search_path: Any = ()) -> None:
    write_call(sandbox, "task", dump_value(math.hypot), dump_arguments("task", args, {}), None, search_path)


def leave_result(sandbox: str, value: Any = None, **header: Any) -> None:
    header = {"name": "task", "nonce": read_header(sandbox, CALL)["nonce"], "kind": "result", **versions(), **header}
    write_file(sandbox, RESULT, header, lambda sink: dump_to(sink, value))


def edit(sandbox: str, file: str, **changes: Any) -> None:
    """Write a file as it is but for its header."""
    opened = open_file(sandbox, file)
    with opened.pickles as stream:
        pickles = stream.read()

    def fill(sink: Sink) -> None:
        sink.write(pickles)

    write_file(sandbox, file, {**opened.header, **changes}, fill)


def path_of(sandbox: str, file: str) -> Path:
    return Path(sandbox, ".asyncflow", file)


def failure(sandbox: str, exit_code: int | None) -> Failed:
    result = read_result(sandbox, exit_code)
    assert isinstance(result, Failed)
    return result


@given(st.text(), VALUES, st.lists(st.text(st.characters(exclude_characters="\0"))))
@example("a\nname\udc80", b"", ["", "a b", "/x/../y\n", "\udcff"])
@settings(max_examples=50, deadline=None)
def test_a_call_arrives_as_it_was_written(name: str, value: Any, search_path: list[str]) -> None:
    with new_sandbox() as sandbox:
        function, arguments = dump_value(math.hypot), dump_arguments(name, (value,), {"key": value})
        write_call(sandbox, name, function, arguments, [(b"variable", b"value")], search_path)
        call = open_file(sandbox, CALL)
        with call.pickles as stream:
            assert pickle.load(stream) is math.hypot
            assert pickle.load(stream) == ((value,), {"key": value})
            assert pickle.load(stream) == [(b"variable", b"value")]
            assert stream.read() == b""
        assert call.header["name"] == name
        assert call.header["search_path"] == [os.path.abspath(entry) for entry in search_path]
        assert read_header(sandbox, CALL) == call.header


@given(VALUES)
@settings(max_examples=50, deadline=None)
def test_a_result_arrives_as_it_was_written(value: Any) -> None:
    with new_sandbox() as sandbox:
        leave_call(sandbox)
        leave_result(sandbox, value)
        assert read_result(sandbox, 0) == Returned(value)


@pytest.mark.parametrize("file", [CALL, RESULT])
def test_every_truncation_is_refused(sandbox: str, file: str) -> None:
    leave_call(sandbox, 3, 4)
    leave_result(sandbox, [1, 2, 3])
    path = path_of(sandbox, file)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(SessionError, match="damaged"):
            open_file(sandbox, file)
        assert failure(sandbox, 0).cause is FailureCause.BACKEND
    path.write_bytes(data)
    assert read_result(sandbox, 0) == Returned([1, 2, 3])


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_every_change_is_refused(data: st.DataObject) -> None:
    with new_sandbox() as sandbox:
        leave_call(sandbox, 3, 4)
        path = path_of(sandbox, CALL)
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        with pytest.raises((SessionError, ConfigurationError)):
            open_file(sandbox, CALL)


@pytest.mark.parametrize("extra", [b"\n", b"\0" * 4096])
def test_what_was_appended_is_refused(sandbox: str, extra: bytes) -> None:
    leave_call(sandbox)
    with path_of(sandbox, CALL).open("ab") as stream:
        stream.write(extra)
    with pytest.raises(SessionError, match="damaged"):
        open_file(sandbox, CALL)


def test_files_are_for_their_owner_only(sandbox: str) -> None:
    before = os.umask(0o777)
    try:
        leave_call(sandbox)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path_of(sandbox, CALL).stat().st_mode) == 0o600
    assert os.listdir(Path(sandbox, ".asyncflow")) == [CALL]


def by_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def as_directory(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


def by_linked_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (by_link, "symbolic link"),
        (as_fifo, "no regular file"),
        (as_directory, "no regular file"),
        (by_linked_directory, "not the directory"),
        (lambda path: path.chmod(0o620), "written by others"),
        (lambda path: path.parent.chmod(0o702), "written by others"),
        (lambda path: path.unlink(), "does not exist"),
    ],
)
@pytest.mark.parametrize("file", [CALL, RESULT])
def test_a_file_that_anybody_could_have_put_there_is_refused(
    sandbox: str, file: str, spoil: Callable[[Path], None], message: str
) -> None:
    leave_call(sandbox)
    leave_result(sandbox, 1)
    assert read_result(sandbox, 0) == Returned(1)
    spoil(path_of(sandbox, file))
    with pytest.raises(SessionError, match=message):
        open_file(sandbox, file)
    found = failure(sandbox, 0)
    assert found.missing == (message == "does not exist")
    assert found.cause is (FailureCause.EXIT_CODE if found.missing else FailureCause.BACKEND)
    assert message in str(found.error)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("whose", [".asyncflow", f".asyncflow/{CALL}", f".asyncflow/{RESULT}"])
def test_files_of_another_user_are_refused(sandbox: str, whose: str) -> None:
    leave_call(sandbox)
    leave_result(sandbox, 1)
    os.chown(Path(sandbox, whose), 65534, -1)
    found = failure(sandbox, 0)
    assert found.cause is FailureCause.BACKEND
    assert "belongs to user 65534" in str(found.error)


def test_a_sandbox_that_is_not_there(sandbox: str) -> None:
    with pytest.raises(SessionError, match="cannot be used"):
        leave_call(sandbox + "/missing")
    with pytest.raises(MissingFileError, match="sandbox of a task"):
        remove_file(sandbox, RESULT)
    assert failure(sandbox, 0).missing


def test_a_file_is_whole_or_as_it_was(sandbox: str) -> None:
    leave_call(sandbox)
    leave_result(sandbox, "old")

    def fill(sink: Sink) -> None:
        sink.write(b"half")
        raise KeyError("stop")

    with pytest.raises(KeyError):
        write_file(sandbox, RESULT, {}, fill)
    assert read_result(sandbox, 0) == Returned("old")
    assert sorted(os.listdir(Path(sandbox, ".asyncflow"))) == [CALL, RESULT]


def test_removing(sandbox: str) -> None:
    leave_call(sandbox)
    remove_file(sandbox, RESULT)
    leave_result(sandbox)
    remove_file(sandbox, RESULT)
    assert failure(sandbox, 0).missing
    path_of(sandbox, RESULT).mkdir()
    with pytest.raises(SessionError, match="cannot be removed"):
        remove_file(sandbox, RESULT)


def test_a_result_of_another_call_does_not_count(sandbox: str) -> None:
    leave_call(sandbox)
    leave_result(sandbox, "old")
    leave_call(sandbox)
    found = failure(sandbox, 0)
    assert (found.cause, found.missing) == (FailureCause.EXIT_CODE, True)
    assert "another call" in str(found.error)


@pytest.mark.parametrize("changes", [{"python": [2, 7]}, {"cloudpickle": "999.1"}, {"cloudpickle": None}])
def test_other_versions_are_refused(sandbox: str, changes: dict[str, Any]) -> None:
    leave_call(sandbox)
    leave_result(sandbox)
    edit(sandbox, RESULT, **changes, executable="/opt/other/python", host="node7")
    with pytest.raises(ConfigurationError, match=r"/opt/other/python on node7.*same|equal"):
        refuse_other_versions(read_header(sandbox, RESULT), "it")
    found = failure(sandbox, 0)
    assert isinstance(found.error, ConfigurationError)
    assert found.cause is FailureCause.BACKEND


def test_versions_that_differ_a_little_are_fine(sandbox: str) -> None:
    leave_call(sandbox)
    leave_result(sandbox, 1)
    edit(sandbox, RESULT, cloudpickle=versions()["cloudpickle"].partition(".")[0] + ".999")
    assert read_result(sandbox, 0) == Returned(1)


def test_another_format_is_named(sandbox: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_files, "FORMAT", 7)
    leave_call(sandbox)
    monkeypatch.undo()
    with pytest.raises(ConfigurationError, match="has format 7"):
        open_file(sandbox, CALL)


@pytest.mark.parametrize(
    ("exit_code", "error", "cause", "text"),
    [
        (0, str, FailureCause.EXIT_CODE, "os._exit"),
        (None, str, FailureCause.BACKEND, "not known"),
        (1, str, FailureCause.EXIT_CODE, "exit code 1"),
        (127, str, FailureCause.EXIT_CODE, "exit code 127"),
        (137, str, FailureCause.SIGNAL, "signal 9"),
        (-9, str, FailureCause.SIGNAL, "signal 9"),
        (ExitCode.NO_CALL, SessionError, FailureCause.BACKEND, "missing, damaged"),
        (ExitCode.VERSIONS, ConfigurationError, FailureCause.BACKEND, "other versions"),
        (ExitCode.NO_FUNCTION, SerializationError, FailureCause.BACKEND, "unpickled"),
        (ExitCode.UNPICKLABLE, SerializationError, FailureCause.BACKEND, "pickled"),
        (ExitCode.NO_RESULT, SessionError, FailureCause.BACKEND, "written"),
    ],
)
def test_an_end_without_a_result(sandbox: str, exit_code: Any, error: type, cause: FailureCause, text: str) -> None:
    leave_call(sandbox)
    found = failure(sandbox, exit_code)
    assert (type(found.error), found.cause, found.exit_code) == (error, cause, exit_code)
    assert text in str(found.error)


@pytest.mark.parametrize(
    ("exit_code", "cause"),
    [
        (None, FailureCause.BACKEND),
        (120, FailureCause.EXIT_CODE),
        (-11, FailureCause.SIGNAL),
        (ExitCode.NO_RESULT, FailureCause.EXIT_CODE),
    ],
)
def test_a_value_counts_only_with_exit_code_0(sandbox: str, exit_code: int | None, cause: FailureCause) -> None:
    leave_call(sandbox)
    leave_result(sandbox, 1)
    found = failure(sandbox, exit_code)
    assert found.cause is cause
    assert "returned, but" in str(found.error)


class OnlyThere:
    def __reduce__(self) -> Any:
        return _fails, ()


def _fails() -> None:
    raise SystemExit("not here")


def test_what_cannot_be_unpickled_here(sandbox: str) -> None:
    leave_call(sandbox)
    leave_result(sandbox, OnlyThere())
    found = failure(sandbox, 0)
    assert isinstance(found.error, SerializationError)
    leave_result(sandbox, OnlyThere(), kind="raised", pickled=True, traceback="Traceback of it", text="OnlyThere")
    found = failure(sandbox, 1)
    assert (found.error, found.cause) == ("Traceback of it", FailureCause.EXIT_CODE)
