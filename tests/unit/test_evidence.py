"""Completion records: understood when they are whole and the attempt's own, refused with a reason when not."""

from __future__ import annotations

import json
import logging
import os
import socket
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow_hpc.backends import evidence
from asyncflow_hpc.backends.evidence import (
    STAGES,
    Record,
    RecordError,
    marker_name,
    parse_marker,
    parse_record,
    read_record,
    record_path,
    spool_of,
)

FIELDS: dict[str, Any] = {
    "version": 1, "session": "wf-1", "uid": "task.000001", "attempt": 0, "nonce": "c0ffee", "stage": "run",
    "exit_code": 0, "signal": None, "noted": "", "missing": [], "start": 1700000000, "end": 1700000001, "host": "n01",
    "native_id": "4711", "times": "0m0.010s 0m0.000s 0m0.210s 0m0.030s", "usage": "",
}  # fmt: skip


def written(**changes: Any) -> bytes:
    return json.dumps(FIELDS | changes).encode() + b"\n"


def parsed(**changes: Any) -> Record:
    return parse_record(written(**changes))


def test_a_record_says_how_an_attempt_ended() -> None:
    assert parsed(missing=[0, 2], noted="TERM", usage="2048 1.5 0.25") == Record(
        session="wf-1", uid="task.000001", attempt=0, nonce="c0ffee", stage="run",
        exit_code=0, signal=None, noted="TERM", missing=(0, 2),
        start=1700000000.0, end=1700000001.0, host="n01", native_id="4711", cpu_time=1.75,
        max_rss=2048 * 1024,
    )  # fmt: skip


@pytest.mark.parametrize(("status", "signal", "expected"), [
    (0, None, (0, None)), (3, None, (3, None)), (127, None, (127, None)), (128, None, (128, None)),
    (129, None, (None, 1)), (143, None, (None, 15)), (192, None, (None, 64)), (193, None, (193, None)),
    (255, None, (255, None)), (0, 9, (None, 9)), (143, 12, (None, 12)),
])  # fmt: skip
def test_a_status_is_an_exit_code_or_a_signal(status: int, signal: int | None, expected: tuple[Any, Any]) -> None:
    record = parsed(exit_code=status, signal=signal)
    assert (record.exit_code, record.signal) == expected


@pytest.mark.parametrize(("times", "usage", "cpu_time", "max_rss"), [
    ("0m0.010s 0m0.000s 0m0.210s 0m0.030s", "", 0.24, None),
    ("0m0.010000s 0m0.000000s 1m0.210000s 0m0.030000s ", "", 60.24, None),
    ("0m0,010s 0m0,000s 0m0,210s 2m0,030s", "", 120.24, None),
    ("0m0s 0m0s 0m1s 0m2s", "", 3, None),
    ("0m0.010s 0m0.000s 0m0.210s 0m0.030s", "100 7.5 0.5", 8, 102400),
    ("0m0.010s 0m0.000s 0m0.210s 0m0.030s", "no such command", 0.24, None),
    ("", "100 7,5 0,5\n", 8, 102400),
    ("", "", None, None), ("0m0.010s 0m0.000s", "", None, None), ("0m1e9s 0m0s 0m0s 0m0s", "", None, None),
    ("", "-1 0 0", None, None), ("", "nan nan nan", None, None), ("", "\u0661 \u0661 \u0661", None, None),
])  # fmt: skip
def test_what_it_used_is_taken_from_where_it_can_be_read(
    times: str, usage: str, cpu_time: float | None, max_rss: int | None
) -> None:
    record = parsed(times=times, usage=usage)
    assert record.cpu_time == (None if cpu_time is None else pytest.approx(cpu_time))
    assert record.max_rss == max_rss


@pytest.mark.parametrize("native_id", ["", None])
def test_outside_of_a_scheduler_there_is_no_native_id(native_id: str | None) -> None:
    assert parsed(native_id=native_id).native_id is None


def test_a_field_that_nobody_knows_does_no_harm() -> None:
    assert parsed(color="blue") == parsed()


@pytest.mark.parametrize(("changes", "reason"), [
    ({"version": 3}, "version 3"), ({"version": 0}, "'version'"), ({"version": True}, "'version'"),
    ({"session": None}, "'session'"), ({"uid": 1}, "'uid'"), ({"attempt": -1}, "'attempt'"),
    ({"attempt": 100_000}, "'attempt'"), ({"attempt": 0.0}, "'attempt'"), ({"attempt": False}, "'attempt'"),
    ({"nonce": 1}, "'nonce'"), ({"stage": "lunch"}, "'stage'"), ({"stage": None}, "'stage'"),
    ({"exit_code": -1}, "'exit_code'"), ({"exit_code": 256}, "'exit_code'"), ({"exit_code": None}, "'exit_code'"),
    ({"signal": 0}, "'signal'"), ({"signal": 65}, "'signal'"), ({"signal": "TERM"}, "'signal'"),
    ({"noted": None}, "'noted'"), ({"missing": {}}, "'missing'"), ({"missing": [-1]}, "'missing'"),
    ({"missing": [True]}, "'missing'"), ({"start": "now"}, "'start'"), ({"start": -1}, "'start'"),
    ({"start": float("nan")}, "'start'"), ({"end": float("inf")}, "'end'"), ({"end": 10**400}, "'end'"),
    ({"host": None}, "'host'"), ({"native_id": 4711}, "'native_id'"),
    ({"times": None}, "'times'"), ({"usage": []}, "'usage'"),
])  # fmt: skip
def test_a_value_that_cannot_be_is_named(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        parsed(**changes)


@pytest.mark.parametrize("key", FIELDS)
def test_a_missing_field_is_named(key: str) -> None:
    with pytest.raises(RecordError, match=f"no field '{key}'"):
        parse_record(json.dumps({name: value for name, value in FIELDS.items() if name != key}).encode())


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "torn"), (b"\0" * 300, "torn"), (b'{"version":1,', "torn"), (b"[]", "torn"), (b"}", "not JSON"),
    (b"{}{}", "not JSON"), (b'{"version":1,}', "not JSON"), (b'{"a":"\xff"}', "not JSON"), (b"[{}", "not JSON"),
    (b'{"a":' * 100_000 + b"}", "not JSON"), (b'{"version":' + b"9" * 5000 + b"}", "not JSON|has version"),
    (b"\xef\xbb\xbf{}", "not JSON"), ("{}".encode("utf-16-le"), "torn"), (b"{}", "no field 'version'"),
])  # fmt: skip
def test_what_is_no_record_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        parse_record(data)


def test_a_list_with_an_object_at_its_end_is_no_object() -> None:
    with pytest.raises(RecordError):
        parse_record(b'[1, {"a": 2}')


texts = st.text(max_size=20)
moments = st.integers(0, 10**10)
fields = st.builds(
    lambda start, took, **others: {"version": 1, "start": start, "end": start + took, **others},
    start=moments,
    took=st.integers(0, 10**6),
    session=texts,
    uid=texts,
    attempt=st.integers(0, 99_999),
    nonce=st.text(string.hexdigits),
    stage=st.sampled_from(STAGES),
    exit_code=st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    noted=st.sampled_from(["", "TERM", "USR1"]),
    missing=st.lists(st.integers(0, 100)),
    host=texts,
    native_id=st.none() | texts,
    times=texts,
    usage=texts,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@given(fields)
def test_what_was_written_is_read(found: dict[str, Any]) -> None:
    record = parse_record(json.dumps(found).encode())
    same = ("session", "uid", "attempt", "nonce", "stage", "noted", "start", "end", "host")
    assert {name: getattr(record, name) for name in same} == {name: found[name] for name in same}
    assert record.missing == tuple(found["missing"])
    assert record.native_id == (found["native_id"] or None)
    assert (record.exit_code is None) is not (record.signal is None)
    if record.exit_code is not None:
        assert record.exit_code == found["exit_code"]


@given(fields, st.data())
def test_no_truncation_of_a_record_passes(found: dict[str, Any], data: st.DataObject) -> None:
    whole = json.dumps(found, ensure_ascii=data.draw(st.booleans())).encode()
    length = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(RecordError):
        parse_record(whole[:length])


def test_no_truncation_of_an_ordinary_record_passes() -> None:
    whole = written().rstrip()
    for length in range(len(whole)):
        with pytest.raises(RecordError):
            parse_record(whole[:length])


@given(st.binary() | st.binary().map(lambda data: b"{" + data + b"}"))
def test_bytes_are_refused_in_one_way(data: bytes) -> None:
    with pytest.raises(RecordError):
        parse_record(data)


@given(fields, st.sampled_from(sorted(FIELDS)), values)
def test_no_value_of_a_field_is_refused_in_another_way(found: dict[str, Any], key: str, value: Any) -> None:
    try:
        parse_record(json.dumps(found | {key: value}).encode())
    except RecordError as error:
        assert len(str(error)) < 500


uids = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,10}\.[0-9]{6,9}", fullmatch=True)


@given(uids, st.integers(0, 99_999))
def test_a_marker_tells_whose_it_is(uid: str, attempt: int) -> None:
    assert parse_marker(marker_name(uid, attempt)) == (uid, attempt)


@given(st.text() | st.from_regex(r"task(\.[0-9]{1,7}){0,3}.?", fullmatch=True))
def test_a_marker_has_one_name(name: str) -> None:
    found = parse_marker(name)
    assert found is None or marker_name(*found) == name


@pytest.mark.parametrize("name", [
    "", ".x", "tmp", "task", "task.1", "task.1.x", "task.00001", "task.000001.", "task.000001.0", "task.000001.01",
    "task.000001.100000", "task.000001.1.1", ".task.000001", "1.000001", "task.000001\n",
    "task.00000\u0661", "a/task.000001",
])  # fmt: skip
def test_other_names_are_no_markers(name: str) -> None:
    assert parse_marker(name) is None


@pytest.mark.parametrize(("uid", "attempt"), [
    ("task.000001", -1), ("task.000001", 100_000), ("../task.000001", 0), ("task.1", 0), ("task.000001.2", 0), ("", 0),
])  # fmt: skip
def test_what_cannot_have_a_marker_is_refused(uid: str, attempt: int) -> None:
    with pytest.raises(ValueError, match="cannot have a marker"):
        marker_name(uid, attempt)


def test_where_the_files_lie() -> None:
    assert record_path("/s/task.000001.2") == Path("/s/task.000001.2/.asyncflow/exit.json")
    assert spool_of("/s") == Path("/s/.spool")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    record = tmp_path / "exit.json"
    record.write_bytes(written())
    record.chmod(0o600)
    return record


def read(path: Path, **changes: Any) -> Record | None:
    expected: dict[str, Any] = {"session": "wf-1", "uid": "task.000001", "attempt": 0, "nonce": "c0ffee"}
    return read_record(path, **(expected | changes))


def refused(caplog: pytest.LogCaptureFixture, path: Path, reason: str, **changes: Any) -> None:
    assert read(path, **changes) is None
    (entry,) = caplog.records
    assert entry.levelno == logging.WARNING
    assert str(path) in entry.getMessage()
    assert reason in entry.getMessage()


def test_an_attempts_own_record_is_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(path) == parsed()
    assert read(path, nonce=None) == parsed()
    assert caplog.records == []


def test_none_is_no_reason_to_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path / "sandbox" / "exit.json") is None
    assert caplog.records == []


@pytest.mark.parametrize(("changes", "reason"), [
    ({"session": "wf-2"}, "session 'wf-1', not of 'wf-2'"), ({"uid": "task.000002"}, "task 'task.000001'"),
    ({"attempt": 1}, "attempt 0, not of 1"), ({"nonce": ""}, "nonce"), ({"nonce": "C0FFEE"}, "nonce"),
])  # fmt: skip
def test_anothers_record_is_refused(
    path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], reason: str
) -> None:
    refused(caplog, path, reason, **changes)


def test_a_newer_attempt_is_refused_too(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(written(attempt=2))
    refused(caplog, path, "attempt 2, not of 1", attempt=1)


def test_a_nonce_is_never_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    refused(caplog, path, "nonce", nonce="5ec4e7")
    assert "c0ffee" not in caplog.text
    assert "5ec4e7" not in caplog.text


@pytest.mark.parametrize(("data", "reason"), [
    (written()[:-3], "torn"), (b"", "torn"), (written(version=3), "version 3"),
    (written(host="x" * 70_000), "larger"), (written() + b" " * 70_000, "larger"),
])  # fmt: skip
def test_a_broken_record_is_refused(path: Path, caplog: pytest.LogCaptureFixture, data: bytes, reason: str) -> None:
    path.write_bytes(data)
    refused(caplog, path, reason)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_record_that_others_can_write_is_refused(path: Path, caplog: pytest.LogCaptureFixture, mode: int) -> None:
    path.chmod(mode)
    refused(caplog, path, f"mode 0{mode:o}")


def test_a_record_of_another_user_is_refused(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = path.stat().st_uid
    monkeypatch.setattr(evidence.os, "geteuid", lambda: owner + 1)
    refused(caplog, path, f"belongs to user {owner}")


@pytest.mark.parametrize("kind", ["link", "broken link", "fifo", "directory", "socket", "below a file"])
def test_what_is_no_file_is_refused_and_blocks_nobody(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    other = path.with_name("other")
    if kind == "link":
        other.symlink_to(path)
    elif kind == "broken link":
        other.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(other, 0o600)
    elif kind == "directory":
        other.mkdir(0o700)
    elif kind == "socket":
        # The name of a socket has 107 bytes at most.
        monkeypatch.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(other.name)
    else:
        other = path / "exit.json"
    refused(caplog, other, "not a regular file")


def test_what_may_pass_is_no_refusal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(*_: object) -> int:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(evidence.os, "open", stale)
    with pytest.raises(OSError, match="Stale"):
        read(path)


def test_no_descriptor_is_left(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    path.chmod(0o666)
    read(path)
    read(path.parent)
    path.chmod(0o600)
    read(path)
    assert len(os.listdir("/proc/self/fd")) == before
