"""Checks that an engine gives back the signal handlers that it found."""

import asyncio
import os
import signal
import sys

from asyncflow_hpc import WorkflowEngine

signal.signal(signal.SIGTERM, lambda *_: print("own handler"))


async def main() -> None:
    before = signal.getsignal(signal.SIGTERM)
    first = await WorkflowEngine.create(backend="noop", work_dir=sys.argv[1])
    second = await WorkflowEngine.create(backend="noop", work_dir=sys.argv[1])
    assert signal.getsignal(signal.SIGTERM) != before
    await first.shutdown()
    assert signal.getsignal(signal.SIGTERM) != before
    await second.shutdown()
    assert signal.getsignal(signal.SIGTERM) == before
    third = await WorkflowEngine.create(backend="noop", work_dir=sys.argv[1])
    os.kill(os.getpid(), signal.SIGTERM)
    while not third.closing:
        await asyncio.sleep(0.01)
    await third.shutdown()


asyncio.run(main())
