"""The rows of `scripts/bench journal`."""

from __future__ import annotations

from .model import Experiment, Figure, Probe, Row, Suite, Target


def suite(quick: bool) -> Suite:
    calls, commands, finished = (2_000, 500, 10_000) if quick else (20_000, 3_000, 100_000)
    experiments = [
        _both("calls", calls),
        _both("executables", commands),
        Experiment("resume", finished, {"ours": Probe("journal_probes:resume", {"n": finished})}),
    ]
    reach = Target("limit", ">", 0.9, "> 90 % of not recorded")
    rows = []
    for key, n, text in (("calls", calls, "calls of a trivial function"), ("executables", commands, "x /bin/true")):
        rate, cost = (
            {column: Figure(key, (column,), metric) for column in ("ours", "limit")} for metric in ("rate", "cpu_us")
        )
        rows.append(Row(f"{n:,} {text}, recorded", "/s", rate, n, True, reach))
        rows.append(Row("  driver's CPU per task", "us", cost, n))
    seconds = {"ours": Figure("resume", ("ours",), "seconds")}
    rows.append(
        Row(f"resume of {finished:,} finished calls", "s", seconds, finished, target=Target("value", "<", 10, "< 10 s"))
    )
    return Suite("journal", experiments, rows)


def _both(key: str, n: int) -> Experiment:
    variants = {
        "ours": Probe(f"journal_probes:{key}", {"n": n, "recorded": True}),
        "limit": Probe(f"journal_probes:{key}", {"n": n, "recorded": False}, "not recorded"),
    }
    return Experiment(key, n, variants, times=3)
