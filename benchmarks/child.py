"""Runs one probe: the main function of the fresh process that a measurement gets.

Called as `child.main(target, kwargs as JSON, path of the result)`. The result goes to a file, since a library under
measurement may print.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json


def main(target: str, kwargs: str, result: str) -> None:
    module, _, name = target.partition(":")
    probe = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    arguments = json.loads(kwargs)
    sample = asyncio.run(probe(**arguments)) if inspect.iscoroutinefunction(probe) else probe(**arguments)
    with open(result, "w", encoding="utf-8") as file:
        json.dump(sample, file)
