"""The rows of `scripts/bench engine`."""

from __future__ import annotations

from dataclasses import replace

from .model import COLUMNS, Experiment, Figure, Probe, Row, Suite, Target

BASE = 1_000  # the size that growth is measured from


def suite(quick: bool) -> Suite:
    sizes = [100, BASE, 10_000, 100_000] if quick else [100, BASE, 10_000, 100_000, 200_000]
    experiments = [_bag(), _chain(quick)]
    rows = _bag_rows() + _chain_rows()
    for kind, words in (("held_finished", "finished, futures kept"), ("held_pending", "pending behind a gate")):
        experiments += [_held(kind, n, quick) for n in sizes]
        rows += _held_rows(kind, words, sizes)
    experiments += [_dropped(quick), _results(quick)]
    rows += _dropped_rows(experiments[-1].n)
    return Suite("engine", experiments, rows)


def _three(name: str, n: int, peer_n: int = 0, **kwargs: int) -> dict[str, Probe]:
    """The same probe for ours, the peer (a smaller n where it is slow) and the bare futures."""
    return {
        "ours": Probe(f"engine_probes:{name}", {"side": "ours", "n": n, **kwargs}),
        "peer": Probe(f"engine_probes:{name}", {"side": "peer", "n": peer_n or n, **kwargs}),
        "limit": Probe(f"engine_limits:{name}", {"n": n, **kwargs}),
    }


def _row(what: str, unit: str, key: str, metric: str, n: int, target: Target | None = None, up: bool = False) -> Row:
    return Row(what, unit, {side: Figure(key, (side,), metric) for side in COLUMNS}, n, up, target)


def _bag() -> Experiment:
    return Experiment("bag", 10_000, _three("bag", 10_000))


def _bag_rows() -> list[Row]:
    target = Target("peer", ">=", 6, "6 x the peer")
    return [
        _row("10,000 no-op tasks gathered", "/s", "bag", "rate", 10_000, target, up=True),
        _row("  CPU per task", "us", "bag", "cpu_us", 10_000),
    ]


def _chain(quick: bool) -> Experiment:
    return Experiment("chain", 1_000, _three("chain", 1_000, peer_n=100 if quick else 0))


def _chain_rows() -> list[Row]:
    target = Target("value", ">", 10_000, "> 10,000/s")
    return [
        _row("chain of 1,000 no-op tasks", "/s", "chain", "rate", 1_000, target, up=True),
        _row("  CPU per task", "us", "chain", "cpu_us", 1_000),
    ]


def _held(kind: str, n: int, quick: bool) -> Experiment:
    # The peer's seconds would be most of a quick run: it gets fewer, and repeats only the size others are divided by.
    variants = _three(kind, n, peer_n=min(n, 20_000) if quick else n)
    variants["peer"] = replace(variants["peer"], repeats=(2 if n == BASE else 1) if quick else 5)
    return Experiment(f"{kind}_{n}", n, variants, times=3 if n == BASE else 1)


def _held_rows(kind: str, words: str, sizes: list[int]) -> list[Row]:
    last = sizes[-1]
    cpu = [_row(f"{n:,} tasks {words}: CPU per task", "us", f"{kind}_{n}", "cpu_us", n) for n in sizes]
    doubles = Target("value", "<=", 2, "<= 2 x")
    small = Target("value", "<", 2048, "< 2 KB")
    figures = {side: _growth(kind, last, side) for side in COLUMNS}
    growth = Row(f"  CPU per task at {last:,} over that at {BASE:,}", "x", figures, last, target=doubles)
    # Of fewer than 10,000 tasks the pages of the heap show more than the task does.
    memory = [
        _row(f"  {n:,} tasks: memory per task", "B", f"{kind}_{n}", "rss_bytes_per_task", n, target)
        for n, target in [(10_000, None), (last, small)]
    ]
    return [*cpu, growth, *memory]


def _growth(kind: str, n: int, side: str) -> Figure:
    base = Figure(f"{kind}_{BASE}", (side,), "cpu_us")
    return Figure(f"{kind}_{n}", (side,), "cpu_us", over=base)


def _dropped(quick: bool) -> Experiment:
    return Experiment("dropped", 100_000, _three("dropped", 100_000, peer_n=10_000 if quick else 0, window=1_000))


def _results(quick: bool) -> Experiment:
    n = 500 if quick else 2_000
    return Experiment("dropped_results", n, _three("dropped_results", n, window=100, size=100_000))


def _dropped_rows(results_n: int) -> list[Row]:
    target = Target("value", "<", 20, "< 20 MB")
    results = f"{results_n:,} results of 100 KB dropped (threads): memory growth"
    return [
        _row("100,000 finished tasks, futures dropped: memory growth", "MB", "dropped", "rss_mb", 100_000, target),
        _row("  CPU per task", "us", "dropped", "cpu_us", 100_000),
        _row(results, "MB", "dropped_results", "rss_mb", results_n),
        _row("  rate", "/s", "dropped_results", "rate", results_n, up=True),
    ]
