"""The driver's end of the process that holds a session of RADICAL-Pilot."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["Connection"]

LOG = "session.log"

# Seconds that killed processes may take to be gone, and between two looks.
_DYING, _PAUSE = 2.0, 0.01


class Connection:
    """Starts the process, sends it requests, and passes its events on.

    Args:
        place: for its files; its working directory.
        environment: that it starts with.
        on_event: called with each event in a thread of its own; `{"event": "lost"}` is the last.
    """

    def __init__(self, place: Path, environment: Mapping[str, str], on_event: Callable[[dict[str, Any]], None]) -> None:
        self._on_event = on_event
        # A pipe may be full, and then only a thread of its own has to wait.
        self._requests: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        with open(place / LOG, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.session_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=place,
                env=dict(environment),
                # Apart from the terminal, and so that all that it starts can be ended with it.
                start_new_session=True,
            )
        self._threads = [
            threading.Thread(target=work, name=f"asyncflow-pilots-{work.__name__}", daemon=True)
            for work in (self._read, self._write)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, do: str, **more: Any) -> None:
        """Ask for something; what comes of it is told as an event."""
        self._requests.put(json.dumps({"do": do, **more}) + "\n")

    def _write(self) -> None:
        assert self._process.stdin is not None
        # After the process has ended, its end is told as an event.
        with suppress(OSError, ValueError):
            while (line := self._requests.get()) is not None:
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()
        with suppress(OSError):
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout:
            for line in self._process.stdout:
                self._on_event(json.loads(line))
        self._on_event({"event": "lost"})

    def hang_up(self) -> None:
        """Let the process close the session and end, without waiting for it."""
        self._requests.put(None)

    def close(self, patience: float) -> None:
        """End the process and all that it has started.

        Args:
            patience: seconds that it may take to close the session.
        """
        self.hang_up()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        with suppress(ProcessLookupError):
            # Its group lives as long as anything in it.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        until = time.monotonic() + _DYING
        with suppress(ProcessLookupError):
            while time.monotonic() < until:
                os.killpg(self._process.pid, 0)
                time.sleep(_PAUSE)
        for thread in self._threads:
            thread.join(patience)
