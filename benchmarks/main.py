"""The command line of scripts/bench."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from . import engine, journal, local, machine, radical_pilot, report, slurm, staging
from .harness import run_suite

SUITES = {
    "engine": engine.suite,
    "journal": journal.suite,
    "local": local.suite,
    "radical_pilot": radical_pilot.suite,
    "slurm": slurm.suite,
    "staging": staging.suite,
}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write the files asked for; 1 if one of our own measurements failed, else 0."""
    options = _options(arguments)
    repeat = options.repeat or (3 if options.quick else 5)
    signal.signal(signal.SIGTERM, _stop)
    found = machine.describe()
    kind = "quick, " if options.quick else ""
    found["settings"] = f"{kind}medians of {repeat}"
    suite = SUITES[options.suite](options.quick)
    started, progress = time.monotonic(), Progress()
    try:
        with suite.surroundings():
            results = run_suite(suite, repeat, progress.say)
    except KeyboardInterrupt:
        progress.clear()
        print("interrupted: what was running has been ended, its files removed", file=sys.stderr)
        return 130
    found["load_after"] = machine.load()
    found["seconds"] = round(time.monotonic() - started, 1)
    progress.clear()
    table = [report.cells(row, suite, results) for row in suite.rows]
    lines = report.grid(table, f"radical.asyncflow {found['packages']['radical.asyncflow']}")
    head, remarks = report.heading(found), report.notes(suite, results, found)
    print("\n".join([*head, "", report.as_text(lines), *(["", *remarks] if remarks else [])]))
    if options.json:
        options.json.write_text(json.dumps(report.as_json(suite, results, table, found), indent=1) + "\n", "utf-8")
    if options.markdown:
        report.write_markdown(options.markdown, suite.name, head, lines, remarks)
    failed = [name for outcomes in results.values() for name, outcome in outcomes.items() if outcome.failure]
    return int(any(name.startswith("ours") for name in failed))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Speed and memory beside radical.asyncflow and beside the physical limit."
    )
    parser.add_argument("suite", choices=sorted(SUITES), help="what to measure")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, medians of 3; about a minute")
    parser.add_argument("--repeat", type=_positive, metavar="N", help="medians of N repetitions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, raw samples included")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="put the table between its markers in a Markdown file"
    )
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _stop(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # the way out that ends the measured processes and removes their files


class Progress:
    """On stderr: one line that rewrites itself on a terminal, a line for each experiment elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = ""

    def say(self, experiment: str, detail: str) -> None:
        if self._terminal:
            print(f"\r\033[K{experiment}: {detail}", end="", file=sys.stderr, flush=True)
        elif experiment != self._last:
            print(experiment, file=sys.stderr, flush=True)
        self._last = experiment

    def clear(self) -> None:
        if self._terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
