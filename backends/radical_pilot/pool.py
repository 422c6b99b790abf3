"""PilotPool: one session of RADICAL-Pilot with its pilots, which several backends may share."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from asyncflow_hpc.errors import ConfigurationError, SubmitError
from asyncflow_hpc.states import FailureCause

from ..local.machine import total_memory, usable_cores
from .connection import LOG, Connection
from .dispatching import Listener, TaskEvent
from .environment import make_place, prepare_place, starter_text
from .masters import Lanes
from .pilots import Pilot, agent_of, cause_of_end, end_pilot, is_alive, monotonic, said_by, scheduler_says
from .raptor import STUB, raptor_settings, room_left
from .settings import PilotSettings, settings_for
from .states import PILOT_STATES

__all__ = ["OnPilotEnd", "PilotPool"]

log = logging.getLogger(__name__)

OnPilotEnd = Literal["fail", "resubmit"]

# Seconds: between two looks at the pilots, and that closing the session may take.
_LOOK, _CLOSING = 1.0, 5.0


class PilotPool:
    """Pilots, and the session of RADICAL-Pilot that they belong to; for one backend, or for several one after another.

    Args:
        resources: what each pilot is: keys of RADICAL-Pilot's PilotDescription, and those of `settings_for`.
        raptor_config: what RAPTOR is in each of them, for functions: see `raptor_settings`; there is none where None.
        pilots: how many at once.
        on_pilot_end: "fail" the tasks of a pilot that ended, or "resubmit" them to another one.
        max_pilots: so many are started in all; with "resubmit" two more than `pilots` where None.
        directory: for the files of RADICAL-Pilot, on all nodes the same; below the current one where None.
    """

    def __init__(
        self,
        resources: Mapping[str, Any] | None = None,
        raptor_config: Mapping[str, Any] | None = None,
        *,
        pilots: int = 1,
        on_pilot_end: OnPilotEnd = "fail",
        max_pilots: int | None = None,
        directory: str | os.PathLike[str] | None = None,
    ) -> None:
        for what, value in (("pilots", pilots), ("max_pilots", 1 if max_pilots is None else max_pilots)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"{what} must be a whole number above zero, not {value!r}")
        if on_pilot_end not in ("fail", "resubmit"):
            raise ConfigurationError(f"on_pilot_end must be 'fail' or 'resubmit', not {on_pilot_end!r}")
        raptor = raptor_settings(raptor_config)
        settings = settings_for(resources, usable_cores(), total_memory("radical_pilot", None))
        self.settings: PilotSettings = replace(settings, room=room_left(settings.room, raptor))
        self.on_pilot_end = on_pilot_end
        self._count = pilots
        self._most = max_pilots or pilots + (2 if on_pilot_end == "resubmit" else 0)
        self._directory = directory
        self._pilots: dict[str, Pilot] = {}
        self._dispatch = Lanes(self.settings.room, raptor)
        self._last_end: tuple[str, FailureCause] = ("none was started", FailureCause.BACKEND)
        self._starters: dict[str, str] = {}
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._opened: Future[ConfigurationError | None] = Future()
        self._connection: Connection | None = None
        self._failed = False
        self.place = Path()

    async def __aenter__(self) -> PilotPool:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Start the session and its pilots, and wait until one is active.

        Raises:
            ConfigurationError: it cannot be started; says what the bootstrapper said.
        """
        began = await self.begin()
        try:
            failure = await asyncio.shield(asyncio.wrap_future(self._opened))
        except asyncio.CancelledError:
            # Others may still wait for it.
            if began:
                await self.close()
            raise
        if failure is not None:
            await self.close()
            raise failure

    async def begin(self) -> bool:
        """Start the session and its pilots, without waiting for one; tells whether they were not started before.

        Raises:
            ConfigurationError: they were shut down, or could not be started.
        """
        return await asyncio.get_running_loop().run_in_executor(None, self._begin)

    def _begin(self) -> bool:
        with self._lock:
            if self._closing.is_set():
                failure = self._opened.result() if self._opened.done() else None
                raise failure or ConfigurationError("the pilots were shut down")
            if self._connection is not None:
                return False
            self.place = make_place(self._directory, local=self.settings.kind == "local")
            environment = prepare_place(self.place, self.settings)
            log.info("starting RADICAL-Pilot in %s", self.place)
            self._connection = Connection(self.place, environment, self._take_event)
        threading.Thread(target=self._watch, name="asyncflow-pilot-watch", daemon=True).start()
        return True

    @property
    def was_opened(self) -> bool:
        """Whether a pilot has been active, or none will be."""
        return self._opened.done()

    @property
    def nodelist(self) -> list[str]:
        """The nodes of all pilots that are active."""
        with self._lock:
            return [node for pilot in self._living() if pilot.state == "PMGR_ACTIVE" for node in pilot.nodes]

    @property
    def idle(self) -> bool:
        """Whether no task waits for a pilot or is in one."""
        return self._dispatch.idle

    @property
    def gone(self) -> bool:
        """Whether it was closed, and all of its pilots are surely ended."""
        return self._closing.is_set() and all(pilot.gone for pilot in self._pilots.values())

    @property
    def states(self) -> dict[str, str]:
        """The state of each pilot, in RADICAL-Pilot's word."""
        with self._lock:
            return {pilot.uid: pilot.state for pilot in self._pilots.values()}

    @property
    def calls_functions(self) -> bool:
        """Whether functions can go to a master of RAPTOR."""
        return self._dispatch.has_masters

    def starter(self, environment: Mapping[str, str]) -> str:
        """Return the path of a script that starts a run script with an environment."""
        return self.kept(*starter_text(environment))

    def kept(self, name: str, text: str) -> str:
        """Write a script where tasks find it, unless it is there; returns its path."""
        if name not in self._starters:
            path = self.place / name
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o700)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(os.fsencode(text))
            self._starters[name] = str(path)
        return self._starters[name]

    def end_of(self, uid: str) -> tuple[str, FailureCause] | None:
        """Say how a pilot has ended, and why its tasks cannot go on; None if it has not, as far as is known."""
        pilot = self._pilots.get(uid)
        return pilot.end if pilot is not None else None

    def submit(self, tasks: Sequence[Mapping[str, Any]], cores: Sequence[int], listener: Listener) -> None:
        """Give tasks to the pilots that have most room.

        Args:
            tasks: RADICAL-Pilot's descriptions, each with a uid that was never used before.
            cores: of each of them.
            listener: is told of them, from another thread.

        Raises:
            SubmitError: there is no pilot any more.
        """
        with self._lock:
            if self._closing.is_set() or self._connection is None:
                raise SubmitError("the pilots were shut down")
            if not self._living() and (self.on_pilot_end == "fail" or len(self._pilots) >= self._most):
                raise SubmitError(f"no pilot is left to run it: {self._last_end[0]}; see on_pilot_end='resubmit'")
            for task, size in zip(tasks, cores, strict=True):
                self._dispatch.put(task, size, listener)
            self._fill()

    def _fill(self) -> None:
        if not len(self._dispatch) or self._connection is None:
            return
        living = self._living()
        if len(living) < self._count and len(self._pilots) < self._most and self.on_pilot_end == "resubmit":
            living += self._start_pilots(1)
        if living:
            described = self._dispatch.give(living)
            if described:
                self._connection.send("tasks", tasks=described)
            return
        text, cause = self._last_end
        for uid, listener in self._dispatch.take_waiting().items():
            listener(TaskEvent(uid, "", f"no pilot is left to run it: {text}", cause=cause))

    def _living(self) -> list[Pilot]:
        return [pilot for pilot in self._pilots.values() if pilot.end is None]

    def cancel(self, uid: str) -> None:
        """Forget a task that never begins.

        One that a pilot was given already finds its claim taken, and ends at once: told to cancel it between scheduling
        and starting it, RADICAL-Pilot would lose its cores for good.
        """
        with self._lock:
            self._dispatch.drop(uid)

    def release(self, uid: str) -> None:
        """Count the room of a task as free: its record says that it has ended, and RADICAL-Pilot will."""
        with self._lock:
            if self._dispatch.holder(uid, ended=True) is not None:
                self._fill()

    def cancel_pilots(self) -> None:
        """End all pilots; their tasks are told."""
        with self._lock:
            pilots = self._living()
        for pilot in pilots:
            pilot.asked = FailureCause.CANCELLED
            self._end(pilot, "it was cancelled")

    def _start_pilots(self, number: int) -> list[Pilot]:
        assert self._connection is not None
        made = [Pilot(f"pilot.{self.place.name[-12:]}.{len(self._pilots) + index:04}") for index in range(number)]
        self._pilots.update({pilot.uid: pilot for pilot in made})
        self._connection.send("pilots", pilots=[{**self.settings.description, "uid": pilot.uid} for pilot in made])
        if parts := self._dispatch.begin(made, self.kept("raptor_workers.py", STUB)):
            self._connection.send("tasks", tasks=parts)
        return made

    def _take_event(self, event: dict[str, Any]) -> None:
        log.debug("RADICAL-Pilot: %s", event)
        kind = event["event"]
        if kind == "open":
            with self._lock:
                if self._connection is not None:
                    log.info("the session of RADICAL-Pilot is open; starting %d pilot(s)", self._count)
                    self._start_pilots(self._count)
        elif kind == "pilot":
            self._take_pilot(event)
        elif kind == "task":
            self._take_task(event)
        elif kind == "failed":
            self._take_failure(event)
        elif kind == "lost":
            self._lost()

    def _take_pilot(self, event: dict[str, Any]) -> None:
        pilot = self._pilots.get(event["uid"])
        if pilot is None or pilot.end is not None:
            return
        pilot.state, pilot.sandbox = event["state"], event["sandbox"]
        meaning = PILOT_STATES.get(pilot.state)
        if meaning is None:
            log.warning("pilot %s is in a state that nobody knows: %s", pilot.uid, pilot.state)
            return
        log.info("pilot %s is %s", pilot.uid, meaning.text)
        if meaning.is_final:
            self._end(pilot, f"RADICAL-Pilot says {pilot.state} of {pilot.uid}")
        elif pilot.state == "PMGR_ACTIVE":
            pilot.nodes, pilot.active = event["nodes"], monotonic()
            if self.settings.kind == "local":
                pilot.agent = agent_of(pilot)
            if not self._opened.done():
                self._opened.set_result(None)

    def _take_task(self, event: dict[str, Any]) -> None:
        uid, state = event["uid"], event["state"]
        with self._lock:
            told = self._dispatch.part_told(uid, state, event["text"])
            found = self._dispatch.holder(uid, ended=state != "AGENT_EXECUTING")
            self._fill()
        for listener, of_part in told:
            listener(of_part)
        if found is not None:
            listener, pilot = found
            listener(TaskEvent(uid, state, event["text"], event["exit_code"], pilot=pilot))

    def _take_failure(self, event: dict[str, Any]) -> None:
        log.debug("RADICAL-Pilot failed: %s", event["text"])
        for uid in event["uids"]:
            if uid in self._pilots:
                self._end(self._pilots[uid], event["text"])
            with self._lock:
                told = self._dispatch.part_told(uid, "FAILED", event["text"])
                found = self._dispatch.holder(uid, ended=True)
            for listener, of_part in told:
                listener(of_part)
            if found is not None:
                found[0](TaskEvent(uid, "", event["text"], cause=FailureCause.SUBMIT))
        if not event["uids"]:
            self._fail_opening(event["text"])

    def _lost(self) -> None:
        if self._closing.is_set():
            return
        self._failed = True
        for pilot in self._living():
            self._end(pilot, "the process that holds the session of RADICAL-Pilot has ended", FailureCause.BACKEND)
        self._fail_opening(said_by(Pilot(""), self.place, LOG))

    def _fail_opening(self, text: str) -> None:
        if not self._opened.done():
            self._failed = True
            self._opened.set_result(
                ConfigurationError(f"RADICAL-Pilot cannot be started: {text}\n(its files are kept in {self.place})")
            )

    def _end(self, pilot: Pilot, text: str, told: FailureCause | None = None) -> None:
        """Deal with the end of a pilot: end what still runs in it, and tell its tasks."""
        with self._lock:
            if pilot.end is not None:
                return
            cause = told if told is FailureCause.BACKEND else cause_of_end(pilot, self.settings, told, monotonic())
            self._last_end = pilot.end = (text, cause)
        words = said_by(pilot, self.place, LOG) if pilot.active is None else ""
        if not self._closing.is_set():
            log.warning("pilot %s has ended (%s): %s", pilot.uid, cause, text)
        end_pilot(pilot, self.settings)
        if self._connection is not None:
            self._connection.send("cancel_pilots", uids=[pilot.uid])
        with self._lock:
            theirs = self._dispatch.take_from(pilot)
            self._fill()
        for uid, listener in theirs.items():
            listener(TaskEvent(uid, "", f"its pilot has ended: {text}", cause=cause))
        if not self._living():
            self._fail_opening(f"{text}\n{words}")

    def _watch(self) -> None:
        """Look at the pilots now and then; in a thread of its own."""
        while not self._closing.wait(_LOOK if self.settings.kind == "local" else 2 * _LOOK):
            with self._lock:
                pilots = [pilot for pilot in self._living() if pilot.sandbox]
            if self.settings.kind == "local":
                for pilot in pilots:
                    self._look_at(pilot)
            elif self.settings.kind == "slurm" and (submitted := [pilot for pilot in pilots if pilot.job]):
                for uid, (text, cause) in scheduler_says(submitted).items():
                    self._end(self._pilots[uid], text, cause)

    def _look_at(self, pilot: Pilot) -> None:
        if pilot.active is None:
            return
        if monotonic() - pilot.active >= self.settings.runtime:
            self._end(pilot, f"its runtime of {self.settings.runtime:g} s is over", FailureCause.WALLTIME)
        elif gone := [process.pid for process in pilot.agent if not is_alive(process)]:
            self._end(pilot, f"processes of its agent are gone: {gone}", FailureCause.NODE_FAILURE)

    async def close(self) -> None:
        """End all pilots and the session; leaves no process, and files only where something failed."""
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        with self._lock:
            self._closing.set()
            if self._connection is None:
                return
            connection, self._connection = self._connection, None
            if not self._opened.done():
                self._opened.set_result(ConfigurationError("the pilots were shut down before one was active"))
        if self.settings.kind == "slurm":
            for pilot in self._living():
                end_pilot(pilot, self.settings)
        connection.close(_CLOSING)
        for pilot in self._pilots.values():
            if pilot.end is None or not pilot.gone:
                end_pilot(pilot, self.settings)
        if not self._failed:
            shutil.rmtree(self.place, ignore_errors=True)
        log.info("the session of RADICAL-Pilot is closed")

    def abandon(self) -> None:
        """Let the session close without waiting for it."""
        if self._connection is not None:
            self._closing.set()
            self._connection.hang_up()
