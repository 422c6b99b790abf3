"""The list of what each backend skips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

__all__ = ["LACKED", "RAN_ON", "lines"]

# Properties of a test; they reach the process that prints the list also where pytest-xdist runs tests in others.
RAN_ON = "asyncflow backend"
LACKED = "asyncflow lacks"


def lines(reports: Iterable[Any]) -> list[str]:
    """Write the list.

    Args:
        reports: of all tests of a run.
    """
    counts: dict[str, Counter[str]] = {}
    skips: dict[str, Counter[tuple[str, str]]] = {}
    for report in reports:
        told = dict(getattr(report, "user_properties", ()))
        name = told.get(RAN_ON)
        # That a fixture was made is no test.
        if name is None or (report.passed and report.when != "call"):
            continue
        counts.setdefault(name, Counter())[report.outcome] += 1
        if report.skipped:
            what = told.get(LACKED) or report.nodeid.rpartition("::")[2].partition("[")[0]
            skips.setdefault(name, Counter())[what, _reason(report)] += 1
    return [line for name in counts for line in _lines_of(name, counts[name], skips.get(name, Counter()))]


def _lines_of(name: str, counts: Counter[str], skips: Counter[tuple[str, str]]) -> list[str]:
    ended = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped") if counts[outcome])
    return [
        f"{name}: {ended}",
        *(f"    {what} ({count} test{'s' if count > 1 else ''}): {reason}" for (what, reason), count in skips.items()),
    ]


def _reason(report: Any) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(getattr(report, "wasxfail", report.longrepr))
