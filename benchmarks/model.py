"""What a measurement is: probes run in fresh processes, experiments group them, rows show their medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

Sample = dict[str, float]  # what one run of a probe reports: metric name -> number
COLUMNS = ("ours", "peer", "limit")


@dataclass(frozen=True)
class Probe:
    """One variant of an experiment: a function run in a fresh process with a time limit.

    `target` is "module:function" inside benchmarks, `kwargs` its arguments (JSON values), `seconds` the time limit,
    and `repeats` caps the repetitions of a variant known to be slow (0: no cap).
    """

    target: str
    kwargs: dict[str, Any]
    label: str = ""
    seconds: float = 180.0
    repeats: int = 0


@dataclass(frozen=True)
class Experiment:
    """Variants measured in alternation, so that a change of the machine's load meets all of them alike.

    `times` multiplies the repetitions of a measurement so short that a few of them are mostly noise.
    """

    key: str
    n: int
    variants: dict[str, Probe]
    times: int = 1


@dataclass
class Outcome:
    """The samples of one variant, or why there are none."""

    samples: list[Sample] = field(default_factory=list)
    failure: str = ""
    left_behind: int = 0

    def median(self, metric: str) -> float | None:
        """None too where only some runs succeeded: the figure of something that fails is not to be compared."""
        if self.failure:
            return None
        values = [sample[metric] for sample in self.samples if metric in sample]
        return statistics.median(values) if values else None


Results = dict[str, dict[str, Outcome]]  # experiment key -> variant name -> outcome


@dataclass(frozen=True)
class Figure:
    """Where the number of a cell comes from: the best median of some variants, or its quotient with another figure."""

    experiment: str
    variants: tuple[str, ...]
    metric: str
    over: Figure | None = None


@dataclass(frozen=True)
class Value:
    number: float
    variant: str
    n: int
    count: int


@dataclass(frozen=True)
class Target:
    """What our figure must reach: `of` is "value" (the figure itself), "peer" or "limit" (our ratio to it)."""

    of: str
    op: str
    number: float
    text: str

    def reached(self, value: float) -> bool:
        if self.op == "<":
            return value < self.number
        if self.op == "<=":
            return value <= self.number
        if self.op == ">":
            return value > self.number
        return value >= self.number


@dataclass(frozen=True)
class Row:
    what: str
    unit: str
    figures: dict[str, Figure]  # by column; a column may be missing
    n: int
    higher_is_better: bool = False
    target: Target | None = None
    warning: tuple[float, str] | None = None  # said below the table where the limit is over this number


@dataclass(frozen=True)
class Suite:
    """Experiments and the rows made of them; `surroundings` are there for as long as it runs."""

    name: str
    experiments: list[Experiment]
    rows: list[Row]
    surroundings: Callable[[], AbstractContextManager[None]] = nullcontext


def evaluate(figure: Figure | None, results: Results, higher_is_better: bool) -> Value | None:
    """The value of a figure, or None where a variant is missing or failed."""
    if figure is None:
        return None
    outcomes = results.get(figure.experiment, {})
    found: list[Value] = []
    for name in figure.variants:
        outcome = outcomes.get(name)
        median = None if outcome is None else outcome.median(figure.metric)
        if outcome is not None and median is not None:
            found.append(Value(median, name, int(outcome.samples[0].get("n", 0)), len(outcome.samples)))
    if not found:
        return None
    best = (max if higher_is_better else min)(found, key=lambda value: value.number)
    if figure.over is None:
        return best
    base = evaluate(figure.over, results, higher_is_better)
    if base is None or base.number == 0:
        return None
    return Value(best.number / base.number, best.variant, best.n, best.count)
