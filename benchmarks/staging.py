"""The rows of `scripts/bench staging`."""

from __future__ import annotations

from .model import Experiment, Figure, Probe, Row, Suite, Target


def suite(quick: bool) -> Suite:
    files, edges, commands = (200, 20_000, 200) if quick else (1_000, 100_000, 1_000)
    experiments = [
        _way("fan_in", files, ours="fan_in", limit="bare_links"),
        _way("fan_in_implicit", files, ours="fan_in_implicit", limit="bare_links"),
        _way("copies", files, ours="copies", limit="bare_copies"),
        _way("chain", files, ours="chain", limit="bare_chain"),
        _way("script", files, ours="fan_in_script", limit="bare_links"),
        Experiment("plan", edges, {"ours": Probe("staging_probes:plan", {"n": edges})}),
        Experiment("true", commands, {"ours": Probe("staging_probes:scripted_commands", {"n": commands})}),
    ]
    return Suite("staging", experiments, _rows(files, edges, commands))


def _way(key: str, n: int, ours: str, limit: str) -> Experiment:
    variants = {
        "ours": Probe(f"staging_probes:{ours}", {"n": n}),
        "limit": Probe(f"staging_probes:{limit}", {"n": n}, "bare calls"),
    }
    # Milliseconds: a few of them are mostly noise.
    return Experiment(key, n, variants, times=3)


def _rows(files: int, edges: int, commands: int) -> list[Row]:
    under = Target("limit", "<", 3, "< 3 x bare calls")
    texts = {
        "fan_in": f"fan-in of {files:,} declared files, in Python",
        "fan_in_implicit": f"fan-in of {files:,} undeclared files of one task, in Python",
        "copies": f"fan-in of {files:,} copied files of 4 KB, in Python",
        "chain": f"chain of {files:,} sandboxes, a declared file each, in Python",
        "script": f"fan-in of {files:,} declared files, by the run script",
    }
    rows = []
    for key, text in texts.items():
        columns = {column: Figure(key, (column,), "seconds") for column in ("ours", "limit")}
        rows.append(Row(text, "s", columns, files, target=under))
    planned = {"ours": Figure("plan", ("ours",), "seconds")}
    rate = {"ours": Figure("true", ("ours",), "rate")}
    return [
        *rows,
        Row(f"plan and check of {edges:,} edges", "s", planned, edges, target=Target("value", "<", 1, "< 1 s")),
        Row(
            f"{commands:,} x /bin/true through the script",
            "/s",
            rate,
            commands,
            True,
            Target("value", ">=", 250, ">= 250/s"),
        ),
    ]
