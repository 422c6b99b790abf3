"""The journal: lines that say whether they are whole, and a writer that never leaves half a line."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow_hpc.earlier import past_of
from asyncflow_hpc.errors import JournalError, SessionError
from asyncflow_hpc.events import SCHEMA, Event, SessionClosed, SessionOpened, TaskEnded, TaskReady, TaskSubmitted
from asyncflow_hpc.journal import Journal, Line, journal_path, line_of, parse_lines, read_events

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
TIMES = st.floats(0, 1e11)
UIDS = st.integers(1, 10**7).map(lambda number: f"task.{number:06d}")

EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(SessionOpened, time=TIMES, schema=st.just(SCHEMA), uid=TEXT, secret=TEXT, script=st.tuples(TEXT, TEXT)),
    st.builds(TaskReady, time=TIMES, uid=UIDS, name=TEXT, kind=TEXT, backend=TEXT, key=TEXT, workflow=st.none() | TEXT),
    st.builds(TaskSubmitted, time=TIMES, uid=UIDS, attempt=st.integers(0, 9), native_id=TEXT),
    st.builds(TaskEnded, time=TIMES, uid=UIDS, state=TEXT, text=TEXT, kept=st.none() | st.binary(max_size=50)),
    st.builds(SessionClosed, time=TIMES, detached=st.booleans()),
)
LISTS = st.lists(EVENTS, min_size=1, max_size=5)


def opened(**more: object) -> SessionOpened:
    return SessionOpened(**{"time": 1.0, "schema": SCHEMA, "uid": "s", "secret": "x", **more})  # type: ignore[arg-type]


def submitted(number: int = 1) -> TaskSubmitted:
    return TaskSubmitted(time=2.0, uid=f"task.{number:06d}", native_id="17")


@given(LISTS)
def test_what_is_written_is_read(events: list[Event]) -> None:
    data = b"".join(map(line_of, events))
    assert list(parse_lines(data)) == events
    assert data.count(b"\n") == len(events)
    assert all(json.loads(line)["event"] for line in data.splitlines())


@given(st.text(st.characters(), max_size=20), UIDS)
def test_what_no_utf_8_stands_for_is_written_out(text: str, uid: str) -> None:
    events = [opened(script=("run.py", text)), TaskEnded(time=3.0, uid=uid, state="FAILED", text=text)]
    (begun, ended) = parse_lines(b"".join(map(line_of, events)))
    printable = text.encode(errors="backslashreplace").decode()
    assert isinstance(begun, SessionOpened) and begun.script == ("run.py", printable)
    assert isinstance(ended, TaskEnded) and (ended.uid, ended.text) == (uid, printable)


@given(LISTS, st.data())
def test_a_torn_end_costs_one_line(events: list[Event], data: st.DataObject) -> None:
    whole = b"".join(map(line_of, events))
    cut = data.draw(st.integers(0, len(whole) - 1))
    found = list(parse_lines(whole[:cut]))
    kept = [item for item in found if not isinstance(item, Line)]
    assert kept == events[: whole[:cut].count(b"\n")]
    torn = [item for item in found if isinstance(item, Line)]
    assert len(torn) == (not whole[:cut].endswith(b"\n") and cut > 0)


@given(LISTS, st.data())
def test_a_damaged_line_is_told_and_costs_no_other(events: list[Event], data: st.DataObject) -> None:
    lines = list(map(line_of, events))
    number = data.draw(st.integers(0, len(lines) - 1))
    place = data.draw(st.integers(0, len(lines[number]) - 2))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value not in (lines[number][place], 10)))
    lines[number] = lines[number][:place] + bytes([byte]) + lines[number][place + 1 :]
    found = list(parse_lines(b"".join(lines)))
    assert len(found) == len(events)
    for index, (item, event) in enumerate(zip(found, events, strict=True)):
        if index == number:
            assert isinstance(item, Line)
            assert item.number == number + 1
        else:
            assert item == event


@given(st.binary(max_size=300))
def test_any_bytes_can_be_read(data: bytes) -> None:
    assert all(isinstance(item, Line) for item in parse_lines(data))


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(JournalError, match=f"line 1 has format {SCHEMA + 1}"):
        list(parse_lines(line_of(opened(schema=SCHEMA + 1))))


def test_damage_in_a_session(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [line_of(opened()), b"not a line\n", line_of(submitted()), b'{"torn']
    journal_path(tmp_path).write_bytes(b"".join(lines))
    with pytest.raises(JournalError, match=r"line 2 of .*is damaged: its checksum"):
        list(read_events(tmp_path))
    assert list(read_events(tmp_path, damaged="skip")) == [opened(), submitted()]
    assert "last line" in caplog.text


def test_no_journal(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="there is no journal"):
        list(read_events(tmp_path))
    journal_path(tmp_path).mkdir()
    with pytest.raises(JournalError, match="cannot be read"):
        list(read_events(tmp_path))


async def test_lines_reach_the_file_in_the_same_turn(tmp_path: Path) -> None:
    journal = Journal(journal_path(tmp_path))
    journal.append(opened())
    journal.append(submitted())
    assert not list(read_events(tmp_path))
    await asyncio.sleep(0)
    assert list(read_events(tmp_path)) == [opened(), submitted()]
    journal.append(submitted(2))
    journal.close()
    assert list(read_events(tmp_path))[-1] == submitted(2)


async def test_a_torn_end_is_cut_off_before_more_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = journal_path(tmp_path)
    path.write_bytes(line_of(opened()) + b'{"event":"subm')
    journal = Journal(path)
    journal.append(submitted())
    await journal.commit()
    journal.close()
    assert list(read_events(tmp_path)) == [opened(), submitted()]
    assert "torn last line" in caplog.text


@contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_leaves_whole_lines_and_what_waited_comes_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    journal = Journal(journal_path(tmp_path))
    journal.append(opened())
    await journal.commit()
    with no_room_beyond(journal_path(tmp_path).stat().st_size + 10):
        journal.append(submitted(1))
        with pytest.raises(JournalError, match="cannot be written"):
            await journal.commit()
        journal.append(submitted(2))
        with pytest.raises(JournalError, match="make room"):
            await journal.commit()
        assert list(read_events(tmp_path)) == [opened()]
    await journal.commit()
    assert list(read_events(tmp_path)) == [opened(), submitted(1), submitted(2)]
    assert journal.failure is None
    journal.close()


async def test_room_for_the_ends_is_set_apart_while_it_is_written(tmp_path: Path) -> None:
    path = journal_path(tmp_path)
    journal = Journal(path)
    journal.append(opened())
    for number in range(100):
        journal.append(TaskReady(time=1.0, uid=f"task.{number:06d}", name="t", kind="function", backend="local"))
    journal.flush()
    written = path.stat().st_size
    assert written == len(path.read_bytes())
    assert path.stat().st_blocks * 512 >= written + 100 * 500
    journal.close()
    assert path.stat().st_size == written
    assert path.stat().st_blocks * 512 < written + 100 * 500


async def test_a_session_that_was_taken_over_is_not_submitted_from(tmp_path: Path) -> None:
    journal = Journal(journal_path(tmp_path), still_ours=lambda: False)
    journal.append(opened())
    with pytest.raises(SessionError, match="taken over"):
        await journal.commit()
    journal.close()


async def test_a_journal_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    journal_path(tmp_path).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JournalError, match="cannot be written"):
        Journal(journal_path(tmp_path))


def test_an_attempt_that_its_backend_has_begun_by_itself() -> None:
    """As after the end of a pilot: the journal has its end only, and what is told of the one before does not count."""
    ready = TaskReady(time=2.0, uid="task.000001", name="t", kind="executable", backend="b", key="k")
    ended = [
        TaskEnded(time=3.0, uid="task.000001", state="DONE", attempt=1, native_id="18"),
        TaskEnded(time=4.0, uid="task.000001", state="FAILED", attempt=0),
    ]
    past = past_of([opened(), ready, submitted(), *ended])
    assert past is not None
    earlier = past.tasks["k"]
    assert (earlier.attempt, earlier.state, earlier.native_id, earlier.unfinished) == (1, "DONE", "18", False)
