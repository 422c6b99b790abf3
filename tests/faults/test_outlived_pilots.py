"""What a resume does about pilots that an earlier driver has left, by their processes; no RADICAL-Pilot is needed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from asyncflow_hpc.backends.radical_pilot.outlived import end_outlived, forget_note, leave_note
from asyncflow_hpc.errors import SessionError

OTHERS = "asyncflow-pilots.ffffffffffff"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "asyncflow-pilots.0123456789ab"
    path.mkdir()
    return path


@pytest.fixture
def session(tmp_path: Path, place: Path) -> Path:
    """A session with a note of the pilots of a driver that is gone."""
    path = tmp_path / "session"
    path.mkdir()
    leave_note(path, place, "local")
    change(path, pid=2**22 + 1)
    return path


def note_in(session: Path) -> Path:
    [path] = (session / ".asyncflow").iterdir()
    return path


def change(session: Path, **more: object) -> None:
    path = note_in(session)
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


@pytest.fixture
def orphans(place: Path) -> Iterator[dict[str, psutil.Process]]:
    """Processes whose parent is gone, by what they have of a pilot."""
    environments = {
        "agent": {"RADICAL_BASE": f"{place}/radical.pilot.sandbox"},
        "task": {"RP_PILOT_ID": "pilot.0123456789ab.0003"},
        "another agent": {"RADICAL_BASE": f"{place}x"},
        "another task": {"RP_PILOT_ID": "pilot.0123456789ac.0003"},
        # Somebody who looks at the files.
        "looks": {"PWD": str(place)},
    }
    found = {}
    for name, environment in environments.items():
        # The first process ends at once; the last has none of the environment any more.
        lines = "(exec env -i sleep 600) & echo $!; wait" if name == "agent" else "echo; exec sleep 600"
        command = f"sh -c '{lines}' >\"$1\" & echo $!"
        words = ["sh", "-c", command, "sh", str(place.parent / name)]
        environment = {**os.environ, **environment}
        pid = subprocess.run(words, check=True, env=environment, cwd=place, stdout=subprocess.PIPE)
        found[name] = psutil.Process(int(pid.stdout))
    while not (text := (place.parent / "agent").read_text().strip()):
        pass
    found["child of the agent"] = psutil.Process(int(text))
    yield found
    for process in found.values():
        if process.is_running():
            process.kill()


def alive(orphans: dict[str, psutil.Process]) -> set[str]:
    return {name for name, one in orphans.items() if one.is_running() and one.status() != psutil.STATUS_ZOMBIE}


def test_what_belongs_to_the_pilots_is_ended_and_nothing_else(
    session: Path, place: Path, orphans: dict[str, psutil.Process]
) -> None:
    end_outlived(session)
    assert alive(orphans) == {"another agent", "another task", "looks"}
    assert not place.exists()
    assert list(session.iterdir()) == []


def test_pilots_in_use_are_spared(session: Path, place: Path, orphans: dict[str, psutil.Process]) -> None:
    end_outlived(session, spare=place)
    assert alive(orphans) == set(orphans)
    assert note_in(session).exists()
    forget_note(session, place)
    assert list(session.iterdir()) == []


def test_a_driver_that_lives_keeps_its_pilots(session: Path, place: Path) -> None:
    change(session, pid=os.getpid())
    environment = {**os.environ, "RADICAL_BASE": str(place)}
    with subprocess.Popen(["sleep", "600"], env=environment) as holder:
        try:
            with pytest.raises(SessionError, match=f"pilots that process {os.getpid()} still has"):
                end_outlived(session)
            assert holder.poll() is None
        finally:
            holder.kill()
    end_outlived(session)
    assert not place.exists()


def test_pilots_of_another_machine(session: Path, place: Path) -> None:
    change(session, host="elsewhere")
    with pytest.raises(SessionError, match="may still run on elsewhere"):
        end_outlived(session)
    assert place.exists() and note_in(session).exists()


@pytest.mark.parametrize("text", ["", "[]", '{"place": "/"}', '{"place": "/", "kind": "local", "host": "", "pid": 1}'])
def test_a_note_that_says_nothing_usable(session: Path, text: str) -> None:
    note_in(session).write_text(text)
    with pytest.raises(SessionError, match=r"remove it"):
        end_outlived(session)
