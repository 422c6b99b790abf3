"""Turns results into the table: on the terminal, in Markdown, and as JSON."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .model import COLUMNS, Results, Row, Suite, Value, evaluate

MISSING = "-"
BUSY = 0.25  # load average for each core, above which absolute figures are not to be trusted


def cells(row: Row, suite: Suite, results: Results) -> dict[str, Any]:
    """One row of the table: texts of the columns, and the numbers behind them."""
    values = {column: evaluate(row.figures.get(column), results, row.higher_is_better) for column in COLUMNS}
    ours, peer, limit = (values[column] for column in COLUMNS)
    ratios = {"peer": _ratio(row, ours, peer, results), "limit": _ratio(row, ours, limit, results)}
    return {
        "what": row.what,
        "unit": row.unit,
        "numbers": {column: None if value is None else value.number for column, value in values.items()},
        "texts": {column: _text(row, column, value, suite, results) for column, value in values.items()},
        "ratios": ratios,
        "target": "" if row.target is None else row.target.text,
        "reached": _reached(row, ours, ratios),
    }


def _ratio(row: Row, ours: Value | None, other: Value | None, results: Results) -> float | None:
    # A growth of memory may be nil or, where pages were given back, below it: a ratio to that says nothing.
    if ours is None or other is None or other.number <= 0 or ours.number < 0:
        return None
    if row.unit in ("s", "MB") and ours.n != other.n:
        return None  # the total of fewer tasks, not a cost per task
    figure = row.figures["ours"]
    if figure.over is not None:
        return ours.number / other.number
    # Neighbours in time are compared: on a shared machine the load changes between repetitions more than within one.
    outcomes = results[figure.experiment]
    mine, others = ([sample[figure.metric] for sample in outcomes[value.variant].samples] for value in (ours, other))
    pairs = [a / b for a, b in zip(mine, others, strict=False) if b > 0]
    return statistics.median(pairs) if pairs else None


def _reached(row: Row, ours: Value | None, ratios: dict[str, float | None]) -> str:
    if row.target is None:
        return ""
    value = (None if ours is None else ours.number) if row.target.of == "value" else ratios[row.target.of]
    if value is None:
        return "no figure"
    return "yes" if row.target.reached(value) else "no"


def _text(row: Row, column: str, value: Value | None, suite: Suite, results: Results) -> str:
    figure = row.figures.get(column)
    if figure is None:
        return MISSING
    if value is None:
        tried = [results.get(figure.experiment, {}).get(name) for name in figure.variants]
        return "failed" if any(outcome is not None and outcome.failure for outcome in tried) else MISSING
    probe = next(e for e in suite.experiments if e.key == figure.experiment).variants[value.variant]
    notes = [probe.label] if probe.label else []
    if value.n and value.n != row.n:
        notes.append(f"n={value.n:,}")
    if value.count < min(3, max(len(outcome.samples) for outcome in results[figure.experiment].values())):
        notes.append("1 run" if value.count == 1 else f"{value.count} runs")
    text = number(value.number, row.unit)
    return f"{text} ({', '.join(notes)})" if notes else text


def number(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value:.3f} s"
    if unit == "x":
        return f"{value:.2f} x"
    digits = 0 if abs(value) >= 100 else 1
    text = f"{value:,.{digits}f}"
    return f"{text}{unit}" if unit == "/s" else f"{text} {unit}"


def heading(machine: dict[str, Any]) -> list[str]:
    packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items())
    before, after = (", ".join(f"{x:.2f}" for x in machine[key]) for key in ("load_before", "load_after"))
    commit = f", commit {machine['commit']}" if machine["commit"] else ""
    return [
        f"{machine['host']}: {machine['usable_cores']} of {machine['cores']} cores, {machine['processor']}, "
        f"{machine['memory_gb']} GB, {machine['system']}, files on {machine['file_system']}",
        f"{machine['python']}, {packages}{commit}",
        f"{machine['date']}, load average {before} before, {after} after, {machine['settings']}",
    ]


def notes(suite: Suite, results: Results, machine: dict[str, Any]) -> list[str]:
    """A busy machine, failures, left-over processes: what a reader must know before believing a table."""
    where: dict[str, list[str]] = {}  # the same remark for many measurements is made once
    for experiment in suite.experiments:
        for name, outcome in results.get(experiment.key, {}).items():
            if outcome.failure:
                where.setdefault(f"{name} failed: {outcome.failure}", []).append(experiment.key)
            if outcome.left_behind:
                where.setdefault(f"{name} left {outcome.left_behind} processes behind", []).append(experiment.key)
    remarks = [f"{remark} (in {', '.join(keys)})" for remark, keys in where.items()]
    for row in suite.rows:
        limit = evaluate(row.figures.get("limit"), results, row.higher_is_better)
        if row.warning is not None and limit is not None and limit.number > row.warning[0]:
            remarks.insert(0, row.warning[1])
    if machine["load_before"][0] > BUSY * machine["usable_cores"]:
        remarks.insert(0, "the machine was busy before the first measurement: measure again on an idle one")
    return remarks


def grid(table: list[dict[str, Any]], peer_name: str) -> list[list[str]]:
    """The table as texts, headings first."""
    lines = [["what", "ours", peer_name, "limit", "ours/peer", "ours/limit", "reach", "reached"]]
    for row in table:
        ratios = [MISSING if ratio is None else f"{ratio:.3g}" for ratio in row["ratios"].values()]
        lines.append([row["what"], *row["texts"].values(), *ratios, row["target"], row["reached"]])
    return lines


def as_text(lines: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rendered = []
    for line in lines:
        padded = [text.rjust(widths[i]) if 1 <= i <= 5 else text.ljust(widths[i]) for i, text in enumerate(line)]
        rendered.append("  ".join(padded).rstrip())
    rendered.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(rendered)


def as_markdown(lines: list[list[str]]) -> str:
    def render(line: list[str]) -> str:
        # Markdown drops leading spaces: the rows that belong to the one above keep theirs as a dash.
        first = "- " + line[0].strip() if line[0].startswith(" ") else line[0]
        return "| " + " | ".join([first, *line[1:]]) + " |"

    rule = "|---|" + "---:|" * 5 + "---|---|"
    return "\n".join([render(lines[0]), rule, *map(render, lines[1:])])


def write_markdown(path: Path, suite: str, head: list[str], lines: list[list[str]], remarks: list[str]) -> None:
    """Put the table between the suite's two markers in the file, which keeps the rest; append it if it has none."""
    begin, end = f"<!-- bench:{suite}:begin -->", f"<!-- bench:{suite}:end -->"
    parts = ["\n".join(f"{line}  " for line in head).rstrip(), as_markdown(lines)]
    if remarks:
        parts.append("\n".join(f"- {remark}" for remark in remarks))
    section = f"{begin}\n" + "\n\n".join(parts) + f"\n{end}"
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    before, found, rest = old.partition(begin)
    if found and end in rest:
        new = before + section + rest.partition(end)[2]
    else:
        new = (old.rstrip() + "\n\n" if old.strip() else "") + f"## {suite}\n\n{section}\n"
    path.write_text(new, encoding="utf-8")


def as_json(suite: Suite, results: Results, table: list[dict[str, Any]], machine: dict[str, Any]) -> dict[str, Any]:
    """Everything, raw samples included."""
    experiments = {
        experiment.key: {
            "n": experiment.n,
            "variants": {
                name: {"probe": asdict(probe), **asdict(results[experiment.key][name])}
                for name, probe in experiment.variants.items()
            },
        }
        for experiment in suite.experiments
    }
    return {"suite": suite.name, "machine": machine, "rows": table, "experiments": experiments}
