"""Killing the driver of a workflow and resuming it, until it has come to its end."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from asyncflow_hpc.events import Event, TaskEnded, TaskReady
from asyncflow_hpc.journal import read_events

SCRIPT = Path(__file__).parent / "scripts" / "mixed_workflow.py"

RESULTS = '[[3, 9], [4, 16], "7\\n", "7\\n7\\n", [9, 81, 10, 100]]\n'
TASKS = {"a", "b", "add", "show", "pair1", "pair2"}


@dataclass
class Driver:
    """Drivers of one session, one after the other."""

    backend: str
    place: Path
    said: list[str] = field(default_factory=list)

    def run(self, where: str = "") -> subprocess.CompletedProcess[str]:
        """Run the script to its end, or to the line of its journal at which it dies."""
        done = subprocess.run(
            [sys.executable, str(SCRIPT), self.backend, str(self.place), *([where] if where else [])],
            capture_output=True,
            text=True,
            timeout=200,
        )
        self.said.append(done.stderr)
        return done

    def log(self) -> Counter[str]:
        """How often each line was written by tasks."""
        path = self.place / "log"
        return Counter(path.read_text().splitlines() if path.exists() else ())

    def events(self) -> list[Event]:
        """What the journal says."""
        return list(read_events(self.place / "session"))

    def in_flight(self) -> set[str]:
        """Uids of tasks that were handed to their backend and have not ended, as far as the journal knows."""
        flying: set[str] = set()
        for event in self.events():
            if isinstance(event, TaskReady):
                flying.add(event.uid)
            elif isinstance(event, TaskEnded):
                flying.discard(event.uid)
        return flying
