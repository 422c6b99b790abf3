"""The rows of `scripts/bench radical_pilot`."""

from __future__ import annotations

from .model import Experiment, Figure, Probe, Row, Suite, Target

CHAIN = 10
WAITING = 100


def suite(quick: bool) -> Suite:
    n, rounds = (200, 3) if quick else (1_000, 2)
    arguments = {"n": n, "chain": CHAIN, "rounds": rounds, "waiting": WAITING}
    # One pilot for all of it: another pilot would be another machine.
    probe = Probe("radical_pilot_probes:pilot", arguments, seconds=1200, repeats=1)
    return Suite("radical_pilot", [Experiment("pilot", n, {"ours": probe})], _rows(n))


def _rows(n: int) -> list[Row]:
    def row(what: str, unit: str, metric: str, target: Target | None = None, higher: bool = False) -> Row:
        return Row(what, unit, {"ours": Figure("pilot", ("ours",), metric)}, n, higher, target)

    return [
        row(f"{n:,} x /bin/true through the engine, in a pilot", "/s", "rate", higher=True),
        row("  by RADICAL-Pilot's own TaskManager, same pilot", "/s", "plain_rate", higher=True),
        row("  our share of its rate", "x", "share", Target("value", ">=", 0.95, ">= 0.95"), True),
        row(f"chain of {CHAIN} through the engine, a task", "ms", "chain_ms"),
        row("  by RADICAL-Pilot's own TaskManager", "ms", "plain_chain_ms"),
        row("  ours over its", "ms", "over_ms", Target("value", "<=", 20, "<= 20 ms")),
        row("longest time in which the loop did not turn", "ms", "blocked_ms"),
        row("  that is not for want of a CPU", "ms", "held_ms", Target("value", "<=", 50, "<= 50 ms")),
        row(
            f"pilot cancelled with {WAITING} tasks running and waiting: all settled",
            "s",
            "cancelled_seconds",
            Target("value", "<=", 5, "<= 5 s"),
        ),
    ]
