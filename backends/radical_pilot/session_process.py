"""The process that holds the session of RADICAL-Pilot, apart from the driver.

RADICAL-Pilot sets environment variables, signal handlers and threads of the process that it is imported in, and leaves
its agents running when that process dies. Here that process is its own: it does what lines on its standard input ask
for, tells what happens in lines on its standard output, and closes the session when its input ends, so also when the
driver was killed. Each line is a JSON object.

Requests: `{"do": "pilots", "pilots": [...]}`, `{"do": "tasks", "tasks": [...]}`,
`{"do": "cancel_pilots", "uids": [...]}`; descriptions are RADICAL-Pilot's own,
and each has a uid.
Events: `{"event": "open" | "closed"}`, `{"event": "pilot", "uid", "state", "nodes"}`,
`{"event": "task", "uid", "state", "exit_code", "text"}`, `{"event": "failed", "text", "uids"}`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import IO, Any
from urllib.parse import urlsplit

from ..local.processes import kill_marked
from .environment import JOB, OPTIONS

__all__ = ["main"]

log = logging.getLogger(__name__)

# Seconds that a command of Slurm may take.
_TIMEOUT = 10.0

# Seconds in which a session should have closed; it hangs where its files were removed, say.
_CLOSING = 60.0

# Of the states of a task, those that somebody waits for.
_TOLD = frozenset({"AGENT_EXECUTING", "DONE", "FAILED", "CANCELED"})


class SessionProcess:
    """One session, with its pilots and tasks.

    Args:
        events: where to tell them.
    """

    def __init__(self, events: IO[str]) -> None:
        self._events = events
        self._lock = threading.Lock()
        self._sandboxes: set[str] = set()

    def tell(self, event: str, **more: Any) -> None:
        """Tell an event; when nobody listens any more, the input ends as well."""
        with self._lock:
            try:
                self._events.write(json.dumps({"event": event, **more}) + "\n")
                self._events.flush()
            except (OSError, ValueError):
                log.debug("nobody listens: %s", event)

    def serve(self, requests: Iterable[str]) -> None:
        """Open a session, do what is asked for, and close it when the input ends."""
        import radical.pilot as rp

        self._rp = rp
        self._session = rp.Session()
        try:
            self._pilot_manager = rp.PilotManager(session=self._session)
            self._pilot_manager.register_callback(self._pilot_changed)
            self._task_manager: Any = None
            self.tell("open")
            for line in requests:
                self._do(json.loads(line))
        finally:
            uid = self._session.uid
            # The driver, which would end this process otherwise, may be dead.
            patience = threading.Timer(_CLOSING, _end_all, (uid,))
            patience.daemon = True
            patience.start()
            self._end_jobs()
            self._session.close(download=False)
            # Tasks have process sessions of their own, and the agents of this machine do not end them.
            kill_marked("RP_SESSION_ID", uid)
            patience.cancel()
            self.tell("closed")

    def _end_jobs(self) -> None:
        # RADICAL-Pilot asks the agents to end, and waits for them.
        for sandbox in self._sandboxes if os.path.exists(OPTIONS) else ():
            with (
                suppress(OSError, subprocess.SubprocessError),
                open(f"{sandbox}/{JOB}", encoding="utf-8") as file,
            ):
                subprocess.run(["scancel", file.read().strip()], timeout=_TIMEOUT, check=False)

    def _do(self, request: dict[str, Any]) -> None:
        actions: dict[str, Callable[[dict[str, Any]], None]] = {
            "pilots": self._submit_pilots,
            "tasks": self._submit_tasks,
            "cancel_pilots": lambda asked: self._pilot_manager.cancel_pilots(asked["uids"]),
        }
        try:
            actions[request["do"]](request)
        except Exception as error:
            log.exception("%s failed", request["do"])
            things = request.get("pilots") or request.get("tasks") or ()
            self.tell("failed", text=f"{type(error).__name__}: {error}", uids=[thing["uid"] for thing in things])

    def _submit_pilots(self, request: dict[str, Any]) -> None:
        described = [self._rp.PilotDescription(pilot) for pilot in request["pilots"]]
        pilots = self._pilot_manager.submit_pilots(described)
        if self._task_manager is None:
            # It takes seconds, in which the pilots start.
            self._task_manager = self._rp.TaskManager(session=self._session)
            self._task_manager.register_callback(self._task_changed)
        self._task_manager.add_pilots(pilots)

    def _submit_tasks(self, request: dict[str, Any]) -> None:
        described = []
        for task in request["tasks"]:
            try:
                description = self._rp.TaskDescription(task)
                description.verify()
            except Exception as error:
                self.tell("failed", text=f"{type(error).__name__}: {error}", uids=[task["uid"]])
            else:
                described.append(description)
        self._task_manager.submit_tasks(described)

    def _pilot_changed(self, pilots: Any, *_: Any) -> None:
        for pilot in pilots if isinstance(pilots, list) else [pilots]:
            details = pilot.resource_details or {}
            nodes = [node["name"] for node in details.get("node_list") or ()]
            sandbox = urlsplit(str(pilot.pilot_sandbox)).path
            self._sandboxes.add(sandbox)
            self.tell("pilot", uid=pilot.uid, state=pilot.state, nodes=nodes, sandbox=sandbox)

    def _task_changed(self, tasks: Any, state: Any = None, *_: Any) -> None:
        for task in tasks if isinstance(tasks, list) else [tasks]:
            if task.state in _TOLD:
                text = task.exception_detail or task.exception or ""
                self.tell("task", uid=task.uid, state=task.state, exit_code=task.exit_code, text=str(text))


def _end_all(uid: str) -> None:
    log.error("the session does not close; what it has started is killed")
    kill_marked("RP_SESSION_ID", uid)
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Serve until the input ends."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What RADICAL-Pilot or its libraries print is no event.
    os.dup2(2, 1)
    # Interrupts from the terminal are for the driver, which closes our input when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    process = SessionProcess(events)
    try:
        process.serve(iter(sys.stdin.readline, ""))
    except Exception as error:
        log.exception("the session failed")
        process.tell("failed", text=f"{type(error).__name__}: {error}", uids=[])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
