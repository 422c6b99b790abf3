"""The process in which an emulated batch system lives; `Emulation` starts it, and it ends with the process that did.

Run as `python -m asyncflow_hpc.testing.emulators.daemon`, with what it is to be as JSON on its standard input, which it
watches for its end.
"""

from __future__ import annotations

import asyncio
import json
import marshal
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .answers import Answer, Flavour, Request, Wait
from .batch import BatchSystem
from .control import CONTROL, control
from .faults import Faults
from .lsf import LSF_SIGNALS, Lsf
from .model import Queue, Settings
from .pbs import Pbs
from .running import Processes
from .torque import Torque

__all__ = ["Daemon", "main"]

# Seconds after which a command that waits tries again.
_AGAIN = 0.2

_BACKLOG = 1024

_FLAVOURS: Mapping[str, Callable[[BatchSystem, Processes, Faults], Flavour]] = {
    "pbs": Pbs,
    "pbs_classic": Torque,
    "lsf": Lsf,
}


class Daemon:
    """Answers commands."""

    def __init__(self, kind: str, place: Path, settings: Settings) -> None:
        self.faults = Faults()
        self.processes = Processes(
            place,
            lambda job, code: self.batch.over(job, code),
            lambda job, why: self.batch.end(job, why),
            by_session=kind != "lsf",
        )
        # SIGINT, SIGTERM, SIGKILL of LSF, which first says SIGUSR2 when the time is over.
        special: dict[str, Any] = {"signals": LSF_SIGNALS, "warning": signal.SIGUSR2, "dead_dependents_end": False}
        self.batch = BatchSystem(settings, self.processes, **(special if kind == "lsf" else {}))
        self.flavour = _FLAVOURS[kind](self.batch, self.processes, self.faults)
        self.processes.environment = self.flavour.environment

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one command."""
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            program, words, directory, umask, environment = await _received(reader)
            request = Request(
                program,
                [os.fsdecode(word) for word in words],
                os.fsdecode(directory),
                umask,
                {os.fsdecode(name): os.fsdecode(value) for name, value in environment.items()},
            )
            try:
                answer = await self._answer(request, reader, writer)
            except Exception:
                # Whoever has called waits for an answer.
                answer = Answer(70, "", f"{program}: the emulator has an error\n{traceback.format_exc()}")
            if answer is not None:
                _send(writer, ("end", answer.code, _bytes(answer.out), _bytes(answer.err)))
                await writer.drain()
        writer.close()

    async def _answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Answer | None:
        """Answer a command; None if whoever called it has gone."""
        program = request.program
        if program == CONTROL:
            return control(self.batch, self.flavour, self.faults, request)
        self.faults.note(program, self.processes.now())
        if self.faults.hanging.get(program) is False:
            await reader.read()
            return None
        if self.flavour.reads_input(program, request.arguments):
            _send(writer, ("input",))
            request = Request(
                program,
                request.arguments,
                request.directory,
                request.umask,
                request.environment,
                await _received(reader),
            )
        said = ""
        while True:
            try:
                answer = self._now(request)
                break
            except Wait as waiting:
                if str(waiting) != said:
                    said = str(waiting)
                    _send(writer, ("say", said.encode()))
                with suppress(asyncio.TimeoutError, TimeoutError):
                    await asyncio.wait_for(reader.read(), _AGAIN)
                    return None
        if self.faults.hanging.get(program):
            await reader.read()
            return None
        return answer

    def _now(self, request: Request) -> Answer:
        if self.faults.down:
            return self.flavour.down(request.program)
        return self.faults.instead(request.program) or self.flavour.commands[request.program](request)


async def _received(reader: asyncio.StreamReader) -> Any:
    size = int.from_bytes(await reader.readexactly(8), "big")
    return marshal.loads(await reader.readexactly(size))


def _send(writer: asyncio.StreamWriter, message: Any) -> None:
    data = marshal.dumps(message)
    writer.write(len(data).to_bytes(8, "big") + data)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else os.fsencode(text)


async def _run(kind: str, place: Path, settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, ended.set)
    daemon = Daemon(kind, place, settings)
    server = await asyncio.start_unix_server(daemon.serve, str(place / "socket"), backlog=_BACKLOG)
    # The other end closes when the process that started this one is gone, however it went.
    loop.add_reader(0, lambda: None if os.read(0, 1024) else ended.set())
    print("ready", flush=True)
    await ended.wait()
    server.close()
    daemon.processes.close()


def main() -> None:
    """Be the batch system until the standard input ends."""
    given = json.loads(sys.stdin.buffer.readline())
    place = Path(given["place"])
    queues = [Queue(**queue) for queue in given["settings"].pop("queues")]
    try:
        asyncio.run(_run(given["kind"], place, Settings(queues=queues, **given["settings"])))
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
