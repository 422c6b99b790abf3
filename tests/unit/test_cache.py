"""The index of cached results: what is believed, and what `collect` leaves."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow_hpc.cache import Cache, Entry, _main, collect
from asyncflow_hpc.errors import ConfigurationError
from asyncflow_hpc.task import TaskDescription


def key(number: int) -> str:
    return f"{number:032x}"


def entry(root: Path, number: int = 1, **more: Any) -> Entry:
    session = root / "session"
    session.mkdir(0o700, exist_ok=True)
    fields: dict[str, Any] = {
        "schema": 1, "key": key(number), "python": platform.python_version(), "session": str(session),
        "uid": "task.000001", "attempt": 0, "sandbox": None, "files": "", "links": (), "value": None,
        "stdout": "out\n", "stderr": "", "started": 1.0, "ended": 2.0,
    }  # fmt: skip
    return Entry(**{**fields, **more})


def task(number: int = 1) -> Any:
    return {"uid": "task.000009", "name": "t", "key": key(number), "function": None, "description": TaskDescription()}


def test_what_is_entered_is_found(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    cache.write(entry(tmp_path))
    asked = task()
    assert cache.find(asked) == entry(tmp_path)
    assert asked["stdout"] == "out\n"
    assert asked["exit_code"] == 0
    assert cache.find(task(2)) is None


@given(st.integers(0, 10**4), st.integers(1, 255), st.booleans())
def test_no_damage_is_believed(where: int, change: int, torn: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        cache = Cache(root / "cache")
        cache.write(entry(root))
        path = root / "cache" / key(1)
        data = bytearray(path.read_bytes())
        # The newline at the end says nothing.
        where %= len(data) - 1
        if torn:
            del data[where:]
        else:
            data[where] ^= change
        path.write_bytes(data)
        assert cache.find(task()) is None
        assert not path.exists()


@pytest.mark.parametrize("more", [
    {"schema": 2}, {"python": "2.7"}, {"session": "/nowhere"}, {"sandbox": "/nowhere"}, {"value": b"of a function"},
])  # fmt: skip
def test_what_does_not_fit_is_removed(tmp_path: Path, more: dict[str, Any]) -> None:
    cache = Cache(tmp_path / "cache")
    cache.write(entry(tmp_path, **more))
    assert cache.find(task()) is None
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_entry_under_the_name_of_another(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    cache.write(entry(tmp_path))
    (tmp_path / "cache" / key(1)).rename(tmp_path / "cache" / key(2))
    assert cache.find(task(2)) is None


@pytest.mark.parametrize(("prepare", "text"), [
    (lambda path: path.mkdir() or path.chmod(0o777), "can be written by others"),
    (lambda path: path.write_text(""), "cannot be made"),
])  # fmt: skip
def test_a_directory_that_is_refused(tmp_path: Path, prepare: Any, text: str) -> None:
    prepare(tmp_path / "cache")
    with pytest.raises(ConfigurationError, match=text):
        Cache(tmp_path / "cache")


@given(
    st.dictionaries(st.integers(0, 9), st.integers(0, 1000), max_size=6),
    st.none() | st.integers(1, 1000),
    st.none() | st.integers(1, 4000),
)
def test_what_was_used_last_stays(ages: dict[int, int], max_age: int | None, max_size: int | None) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        cache, now = Cache(root / "cache"), time.time()
        for number, age in ages.items():
            cache.write(entry(root, number))
            # Half a second before, so that the time this test takes makes no difference.
            os.utime(root / "cache" / key(number), (now, now - age * 1000 + 500))
        done = collect(root / "cache", max_age=None if max_age is None else max_age * 1000, max_size=max_size)
        left = {int(path.name, 16): path.stat().st_size for path in (root / "cache").iterdir()}
        assert (done.kept, done.removed, done.size) == (len(left), len(ages) - len(left), sum(left.values()))
        assert max_size is None or done.size <= max_size
        assert all(max_age is None or ages[number] <= max_age for number in left)
        removed = [
            ages[number] for number in ages if number not in left and (max_age is None or ages[number] <= max_age)
        ]
        assert not removed or min(removed) >= max((ages[number] for number in left), default=0)
        assert not removed or max_size is not None


def test_entries_of_sessions_that_are_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = Cache(tmp_path / "cache")
    cache.write(entry(tmp_path))
    cache.write(entry(tmp_path, 2, session="/nowhere"))
    (tmp_path / "cache" / "notes").write_text("not ours")
    assert _main([str(tmp_path / "cache"), "--max-age", "30d", "--max-size", "10GB"]) == 0
    assert capsys.readouterr().out.startswith("1 entries removed, 1 kept")
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {key(1), "notes"}
    with pytest.raises(SystemExit):
        _main([str(tmp_path / "cache"), "--max-age", "soon"])


def test_its_format(tmp_path: Path) -> None:
    Cache(tmp_path / "cache").write(entry(tmp_path))
    first = (tmp_path / "cache" / key(1)).read_bytes().splitlines()[0]
    assert msgspec.json.decode(first)["uid"] == "task.000001"
