"""A worker of RAPTOR that forks a process for each call from a warm one; used in RADICAL-Pilot's own process.

Its own worker starts two processes of multiprocessing for a call from one that has threads, loses a call whose process
dies, cannot stop one, and sends results through msgpack. Here all that RAPTOR carries is where the call lies, and how
its process ended: the call, its result and its completion record are files in its sandbox.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from .raptor import CORES, SERVER

__all__ = ["Calls"]

_STATE_PUBSUB = "state_pubsub"

# Servers that are kept, one for each environment that a driver has had.
_KEPT = 4

# Seconds between two looks at who has started this.
_LOOK = 1.0

# What a server that could not be started ends a call with, as a shell would.
_NOT_STARTED = 127


class Calls:
    """What makes a worker of RAPTOR run calls, each where a driver has left it; goes before its class `Worker`.

    Args:
        raptor_id: of its master.
    """

    _uid: str
    _log: Any
    _prof: Any
    _reg: Any
    _req_addr_get: str
    _res_addr_put: str

    def __init__(self, raptor_id: str) -> None:
        # Importing it writes files, and sets signal handlers.
        import radical.utils as ru

        self._ended = threading.Event()
        threading.Thread(target=self._watch, args=(os.getppid(),), daemon=True).start()
        super().__init__(manager=True, rank=0, raptor_id=raptor_id)  # type: ignore[call-arg]
        self._free = threading.Semaphore(int(os.environ.get(CORES, "1")))
        self._servers: dict[str, _Server] = {}
        addresses = self._reg[f"bridges.{_STATE_PUBSUB}"]
        self._states = ru.zmq.Publisher(_STATE_PUBSUB, url=addresses["addr_pub"], log=self._log, prof=self._prof)
        self._states_lock, self._results_lock = threading.Lock(), threading.Lock()
        self._results = ru.zmq.Putter("result", self._res_addr_put)
        self._incoming = ru.zmq.Getter("request", self._req_addr_get, cb=self._take)

    def _watch(self, parent: int) -> None:
        # RADICAL-Pilot takes its end for ours, and would never tell of ours.
        while os.getppid() == parent:
            time.sleep(_LOOK)
        os._exit(1)

    def start(self) -> None:
        """Do nothing: it works from the beginning."""

    def stop(self) -> None:
        """Let the process end; what it has forked ends with it."""
        self._ended.set()

    def join(self) -> None:
        """Wait for the end."""
        self._ended.wait()

    def _take(self, tasks: Any) -> None:
        """Start calls, each when a core is free; until then the others are another worker's to take."""
        for task in tasks if isinstance(tasks, list) else [tasks]:
            self._free.acquire()
            sandbox, starter, script = task["description"]["args"]
            task["worker"] = self._uid
            self._server(starter, script).run(task, sandbox)

    def _server(self, starter: str, script: str) -> _Server:
        key = f"{starter} {script}"
        server = self._servers.pop(key, None)
        if server is None or server.ended:
            idle = [other for other, known in self._servers.items() if not known.running]
            for other in idle[: max(0, len(self._servers) - _KEPT + 1)]:
                self._servers.pop(other).close()
            server = _Server(self, starter, script, self._uid)
        self._servers[key] = server
        return server

    def begun(self, task: dict[str, Any]) -> None:
        """Tell that a call runs."""
        update = {"uid": task["uid"], "type": "task", "state": "AGENT_EXECUTING"}
        with self._states_lock:
            self._states.put(_STATE_PUBSUB, {"cmd": "update", "arg": [update], "fwd": True})

    def call_ended(self, task: dict[str, Any], code: int, text: str | None) -> None:
        """Tell that a call has ended."""
        task.update(stdout="", stderr="", exit_code=code, return_value=None, exception=text, exception_detail=text)
        with self._results_lock:
            self._results.put(task)
        self._free.release()


def _true_node(environment: Mapping[str, str]) -> dict[str, str]:
    # RADICAL-Pilot gives its own processes the environment of its agent, which is on the first node.
    node = environment.get("SLURM_STEP_NODELIST")
    return {"SLURMD_NODENAME": node} if node else {}


class _Server:
    """A process that forks, seen from here."""

    def __init__(self, worker: Calls, starter: str, script: str, name: str) -> None:
        self.running: dict[str, dict[str, Any]] = {}
        self.ended = False
        self._worker = worker
        self._ready = False
        self._lock = threading.Lock()
        environment = {**os.environ, SERVER: name, **_true_node(os.environ)}
        words = ["/bin/sh", starter, script]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._wait, daemon=True).start()

    def run(self, task: dict[str, Any], sandbox: str) -> None:
        """Have a call run."""
        line = json.dumps({"uid": task["uid"], "sandbox": sandbox}).encode() + b"\n"
        with self._lock:
            self.running[task["uid"]] = task
            if not self.ended:
                assert self._process.stdin is not None
                with suppress(OSError):
                    self._process.stdin.write(line)
                    self._process.stdin.flush()
                return
        self._fail_all()

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "ready":
                self._ready = True
            elif event["event"] == "begun":
                self._worker.begun(self.running[event["uid"]])
            else:
                with self._lock:
                    task = self.running.pop(event["uid"])
                self._worker.call_ended(task, event["code"], event.get("text"))

    def _wait(self) -> None:
        self._process.wait()
        with self._lock:
            self.ended = True
        if self._ready and self.running:
            # Only the end of this process ends what it has forked.
            os._exit(1)
        self._fail_all()

    def _fail_all(self) -> None:
        with self._lock:
            tasks = list(self.running.values())
            self.running.clear()
        for task in tasks:
            text = "Python could not be started there with this package: see the standard error of the RAPTOR worker"
            self._worker.call_ended(task, _NOT_STARTED, text)
