#!/usr/bin/env python3
"""An ensemble of classifiers on scikit-learn's handwritten digits: train, cross-validate, tabulate, merge, vote.

What it shows of asyncflow_hpc: function tasks (training, folds, the vote), executable tasks that make and merge files
with awk and sort, a block that groups the work of one member, and dependencies made by passing futures, one of them
inside a list. The numbers and the result files are the same on every run and every backend.

    python examples/digits_ensemble.py [--backend NAME] [--work-dir DIR] [--members N] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import shlex
import shutil
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from asyncflow_hpc import WorkflowEngine

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

# One thread a task: the numerical libraries would otherwise start one a core in every worker at once.
ONE_CORE: dict[str, Any] = {
    "cores_per_rank": 1,
    "environment": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
}

# awk programs are kept out of f-strings, where each of their braces would have to be doubled.
COUNT_PAIRS = 'NR > 1 { n[$2 "," $3]++ } END { for (pair in n) print member "," pair "," n[pair] }'
SUM_ERRORS = 'NR > 1 && $2 != $3 { n[$2 "," $3] += $4 } END { for (pair in n) print pair "," n[pair] }'


# --- The members -----------------------------------------------------------------------------------------------------


def member_specs(count: int, quick: bool) -> list[dict[str, Any]]:
    """Describe `count` members: four kinds of model in turn, each round with other parameters and another seed."""
    epochs, trees = (40, 40) if quick else (160, 300)
    specs = []
    for index in range(count):
        level = index // 4 + 1
        choices: list[tuple[str, dict[str, Any]]] = [
            ("network", {"hidden": [64 * level], "epochs": epochs}),
            ("forest", {"trees": trees, "leaf": level}),
            ("linear", {"C": round(1 / level, 4)}),
            ("deep network", {"hidden": [64, 32 * level], "epochs": epochs}),
        ]
        kind, parameters = choices[index % 4]
        specs.append({"name": f"member-{index + 1:02d}", "kind": kind, "parameters": parameters, "seed": 1000 + index})
    return specs


def new_model(spec: dict[str, Any]) -> Any:
    """Make the untrained model of `spec`."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    parameters, seed = spec["parameters"], spec["seed"]
    if spec["kind"] == "forest":
        leaf, trees = parameters["leaf"], parameters["trees"]
        return RandomForestClassifier(n_estimators=trees, min_samples_leaf=leaf, n_jobs=1, random_state=seed)
    if spec["kind"] == "linear":
        return LogisticRegression(C=parameters["C"], max_iter=500, random_state=seed)
    return MLPClassifier(hidden_layer_sizes=parameters["hidden"], max_iter=parameters["epochs"], random_state=seed)


def fitted(spec: dict[str, Any], x: Any, y: Any) -> Any:
    """Fit the model of `spec` to a bootstrap sample of (x, y): members that saw other samples make other errors."""
    import warnings

    import numpy as np

    chosen = np.random.RandomState(spec["seed"]).randint(0, len(y), size=len(y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the number of epochs is fixed, so "not converged yet" is no news
        return new_model(spec).fit(x[chosen], y[chosen])


# --- Function tasks: they run in other processes, so they import what they need themselves ---------------------------


def prepare_data() -> dict[str, Any]:
    """Split the digits into train.npz and test.npz in the sandbox; only their paths and sizes cross back."""
    import os

    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    train, test = train_test_split(np.arange(len(y)), test_size=0.3, random_state=2024, stratify=y)
    answer: dict[str, Any] = {"train_samples": len(train), "test_samples": len(test)}
    for part, samples in (("train", np.sort(train)), ("test", np.sort(test))):
        np.savez(f"{part}.npz", x=x[samples] / 16.0, y=y[samples], sample=samples)
        answer[part] = os.path.abspath(f"{part}.npz")
    return answer


def score_fold(spec: dict[str, Any], data: dict[str, Any], fold: int, folds: int) -> float:
    """Train on all folds but one, and return the accuracy on that one."""
    import numpy as np
    from sklearn.model_selection import StratifiedKFold

    with np.load(data["train"]) as train:
        x, y = train["x"], train["y"]
    splits = StratifiedKFold(n_splits=folds, shuffle=True, random_state=7).split(x, y)
    inside, outside = list(splits)[fold]
    return float(fitted(spec, x[inside], y[inside]).score(x[outside], y[outside]))


def train_member(spec: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Train on the whole training part; leave the answers to the test part in predictions.csv."""
    import os

    import numpy as np

    with np.load(data["train"]) as train, np.load(data["test"]) as test:
        model = fitted(spec, train["x"], train["y"])
        rows = np.column_stack([test["sample"], test["y"], model.predict(test["x"])])
    np.savetxt("predictions.csv", rows, fmt="%d", delimiter=",", header="sample,true,predicted", comments="")
    return {"accuracy": float(np.mean(rows[:, 1] == rows[:, 2])), "predictions": os.path.abspath("predictions.csv")}


def vote(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Let the members vote on every test sample, each with its cross-validated accuracy as its weight."""
    import os

    import numpy as np

    tables = [np.loadtxt(report["predictions"], dtype=int, delimiter=",", skiprows=1) for report in reports]
    sample, true = tables[0][:, 0], tables[0][:, 1]
    weight = np.zeros((len(sample), 10))
    for report, table in zip(reports, tables, strict=True):
        weight[np.arange(len(sample)), table[:, 2]] += report["cv_accuracy"]
    chosen = weight.argmax(axis=1)
    rows = np.column_stack([sample, true, chosen])
    np.savetxt("votes.csv", rows, fmt="%d", delimiter=",", header="sample,true,vote", comments="")
    return {"accuracy": float(np.mean(chosen == true)), "votes": os.path.abspath("votes.csv")}


# --- Executable tasks: POSIX shell, awk and coreutils; the result is what they print ---------------------------------


async def tabulate(name: str, trained: dict[str, Any]) -> str:
    """Count (true, predicted) pairs of one member into confusion.csv; print its absolute path.

    Two commands and `set -e` in place of a pipe: a pipe would hide that its first half failed.
    """
    program, predictions = shlex.quote(COUNT_PAIRS), shlex.quote(trained["predictions"])
    return f"""set -e
        export LC_ALL=C
        awk -F, -v member={shlex.quote(name)} {program} {predictions} > pairs.csv
        sort -t, -k2,2n -k3,3n pairs.csv > confusion.csv
        printf '%s\\n' "$PWD/confusion.csv"
        """


async def merge(reports: list[dict[str, Any]]) -> str:
    """Merge the confusion tables of all members into one, with a header; print its absolute path."""
    files = " ".join(shlex.quote(report["confusion"]) for report in reports)
    return f"""set -e
        export LC_ALL=C
        cat {files} > all.csv
        sort -t, -k1,1 -k2,2n -k3,3n all.csv > sorted.csv
        echo member,true,predicted,count > confusion.csv
        cat sorted.csv >> confusion.csv
        printf '%s\\n' "$PWD/confusion.csv"
        """


async def sum_errors(merged: str) -> list[str]:
    """Print how often each digit was taken for which other. A list is an argv: no shell, so nothing to quote."""
    return ["awk", "-F,", SUM_ERRORS, merged.strip()]


# --- The workflow ----------------------------------------------------------------------------------------------------


def stages(members: int, folds: int) -> dict[str, int]:
    """Name the stages of the workflow, with the number of tasks in each."""
    return {
        "prepare data": 1,
        "cross-validate": members * folds,
        "train": members,
        "tabulate": members,
        "merge": 1,
        "sum errors": 1,
        "vote": 1,
    }


async def workflow(flow: WorkflowEngine, specs: list[dict[str, Any]], folds: int, board: Board) -> dict[str, Any]:
    """Build the graph of tasks and return what its ends yield. Nothing waits here but the last line."""
    prepare, score, train = (flow.function_task(body) for body in (prepare_data, score_fold, train_member))
    table, merge_all, errors = (flow.executable_task(body) for body in (tabulate, merge, sum_errors))
    elect = flow.function_task(vote)

    @flow.block
    async def member(spec: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Train and validate one member. A block runs here, in the script, and calls tasks like any other code."""
        if not isinstance(data, dict):  # as from the backend noop, which runs nothing
            raise RuntimeError(f"backend '{flow.backend.name}' did not run 'prepare_data': it returned {data!r}")
        scores = [score(spec, data, fold, folds, task_description=ONE_CORE) for fold in range(folds)]
        trained = train(spec, data, task_description=ONE_CORE)
        confusion = table(spec["name"], trained)
        board.watch("cross-validate", *scores)
        board.watch("train", trained)
        board.watch("tabulate", confusion)
        path, report, *accuracies = await asyncio.gather(confusion, trained, *scores)
        return {**spec, **report, "cv_accuracy": sum(accuracies) / folds, "confusion": path.strip()}

    data = prepare(task_description=ONE_CORE)
    members = [member(spec, data) for spec in specs]  # a future as an argument: the block starts when it is done
    merged = merge_all(members)  # futures in a list count as well
    confused = errors(merged)
    elected = elect(members, task_description=ONE_CORE)
    for stage, future in {"prepare data": data, "merge": merged, "sum errors": confused, "vote": elected}.items():
        board.watch(stage, future)

    # Should a member fail, this raises its own error and not that of its dependents, which fail after it.
    *reports, split, path, sums, final = await asyncio.gather(*members, data, merged, confused, elected)
    return {"members": reports, "data": split, "confusion": path.strip(), "errors": sums, "vote": final}


def save_results(outcome: dict[str, Any], directory: Path, folds: int) -> dict[str, Any]:
    """Write result.json and copy the merged files to `directory`; return what result.json holds.

    No time, host or path goes into these files: two runs give the same bytes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(outcome["confusion"], directory / "confusion.csv")
    shutil.copyfile(outcome["vote"]["votes"], directory / "votes.csv")
    members = [
        {
            **{key: report[key] for key in ("name", "kind", "parameters", "seed")},
            "cv_accuracy": round(report["cv_accuracy"], 4),
            "test_accuracy": round(report["accuracy"], 4),
        }
        for report in outcome["members"]
    ]
    pairs = [tuple(map(int, line.split(","))) for line in outcome["errors"].splitlines()]
    pairs.sort(key=lambda pair: (-pair[2], pair[0], pair[1]))
    result = {
        "data": {
            "name": "scikit-learn digits",
            **{key: outcome["data"][key] for key in ("train_samples", "test_samples")},
        },
        "folds": folds,
        "members": members,
        "vote": {"test_accuracy": round(outcome["vote"]["accuracy"], 4)},
        "most_confused": [{"true": true, "taken_for": other, "times": n} for true, other, n in pairs[:3]],
    }
    (directory / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


# --- What the user sees ----------------------------------------------------------------------------------------------


class Board:
    """Counts of tasks per stage: a live table on a terminal, elsewhere one plain line for each finished stage."""

    def __init__(self, console: Console, stages: dict[str, int]) -> None:
        self._console = console
        self._totals = stages
        self._watched: dict[str, list[asyncio.Future[Any]]] = {stage: [] for stage in stages}
        self._finished: set[str] = set()
        self._start = time.monotonic()
        self._live: Live | None = None
        self._refresher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Board:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            from rich.live import Live

            self._live = Live(self._table(), console=self._console, auto_refresh=False)
            self._live.start()
            self._refresher = asyncio.create_task(self._refresh())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        """Show the last state; name the stages that were not finished, should the work have ended early."""
        if self._refresher is not None:
            self._refresher.cancel()
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            self._live.stop()
            return
        for stage in self._totals:
            self._line(stage)

    def watch(self, stage: str, *futures: asyncio.Future[Any]) -> None:
        """Count these futures in `stage`."""
        self._watched[stage] += futures
        for future in futures:
            future.add_done_callback(lambda _: self._one_ended(stage))

    def counts(self, stage: str) -> Counter[str]:
        """Count the tasks of a stage as waiting, running, done, failed and cancelled."""
        counts = Counter(map(_condition, self._watched[stage]))
        counts["waiting"] += self._totals[stage] - len(self._watched[stage])  # those not called yet wait too
        return counts

    def _one_ended(self, stage: str) -> None:
        """Print the line of a stage when its last task has ended."""
        counts = self.counts(stage)
        if self._live is None and not counts["waiting"] and not counts["running"]:
            self._line(stage)

    def _line(self, stage: str) -> None:
        """Print the line of a stage, unless it was printed before."""
        if stage in self._finished:
            return
        self._finished.add(stage)
        counts = self.counts(stage)
        words = ", ".join(f"{n} {word}" for word, n in sorted(counts.items()) if n)
        # A line is printed when a stage or the run has ended, so what waits still will not run.
        words = words.replace("waiting", "not run")
        print(f"{time.monotonic() - self._start:7.1f} s  {stage:<15} {words}", flush=True)

    async def _refresh(self) -> None:
        """Redraw a few times a second: from the loop and not from a thread, so that a backend may fork safely."""
        while self._live is not None:
            self._live.update(self._table(), refresh=True)
            await asyncio.sleep(0.15)

    def _table(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table(box=None, header_style="dim")
        table.add_column(f"{time.monotonic() - self._start:.1f} s", style="bold", min_width=15)
        for column in ("waiting", "running", "done", "failed"):
            table.add_column(column, justify="right", style="red" if column == "failed" else "")
        table.add_column("", width=24)
        for stage, total in self._totals.items():
            counts = self.counts(stage)
            numbers = [str(counts[word] or "") for word in ("waiting", "running", "done", "failed")]
            table.add_row(stage, *numbers, ProgressBar(total=total, completed=counts["done"], width=24))
        return table


def _condition(future: asyncio.Future[Any]) -> str:
    """Tell what a future's task is doing in one word."""
    if future.cancelled():
        return "cancelled"
    if future.done():
        return "failed" if future.exception() else "done"
    return "running" if getattr(future, "state", "") == "RUNNING" else "waiting"


def show_value(value: Any) -> str:
    """Write a parameter as text; the sizes of layers as 64-32."""
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def show_results(console: Console, result: dict[str, Any], directory: Path) -> None:
    """Print the table of accuracies and where the files are."""
    from rich.table import Table

    table = Table(title="Accuracy on handwritten digits", title_justify="left")
    for column in ("member", "model", "parameters"):
        table.add_column(column)
    for column in ("cross-validated", "test"):
        table.add_column(column, justify="right")
    for row in result["members"]:
        parameters = ", ".join(f"{key}={show_value(value)}" for key, value in row["parameters"].items())
        accuracies = (f"{row[key]:.4f}" for key in ("cv_accuracy", "test_accuracy"))
        table.add_row(row["name"], row["kind"], parameters, *accuracies)
    table.add_section()
    table.add_row("vote", "all members", "", "", f"{result['vote']['test_accuracy']:.4f}", style="bold")
    console.print(table)
    confused = ", ".join(f"{row['true']} for {row['taken_for']} ({row['times']}x)" for row in result["most_confused"])
    print(f"Most often mistaken: {confused or 'nothing'}")
    # Plain print from here on: a path is never wrapped or coloured, so that it can be copied.
    print("Results:")
    for name in ("result.json", "confusion.csv", "votes.csv"):
        print(f"  {directory / name}")


def show_error(error: BaseException) -> None:
    """Print an error and what led to it: no traceback of this script, which is not at fault."""
    print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
    # Behind a task that could not run is the one that failed; behind a function's error, where in the function it was.
    cause = getattr(error, "root_cause", None) or error.__cause__
    if cause is not None:
        print(textwrap.indent(f"because of {type(cause).__name__}: {cause}", "  "), file=sys.stderr)


# --- The command -----------------------------------------------------------------------------------------------------


def positive(text: str) -> int:
    """Read a number of members from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train an ensemble on scikit-learn's handwritten digits.")
    parser.add_argument("--backend", help="name of an execution backend (default: $ASYNCFLOW_BACKEND, else local)")
    parser.add_argument("--work-dir", type=Path, help="where the session's directory is made (default: the engine's)")
    parser.add_argument("--members", type=positive, help="number of members (default: 8, with --quick 4)")
    parser.add_argument("--quick", action="store_true", help="fewer members, fewer folds, shorter training")
    return parser.parse_args(arguments)


async def run(options: argparse.Namespace, console: Console) -> None:
    """Run the workflow, save its results and show them."""
    specs = member_specs(options.members or (4 if options.quick else 8), options.quick)
    folds = 2 if options.quick else 5
    async with await WorkflowEngine.create(backend=options.backend, work_dir=options.work_dir) as flow:
        print(f"Session {flow.session_dir}: {len(specs)} members, {folds} folds each", flush=True)
        async with Board(console, stages(len(specs), folds)) as board:
            outcome = await workflow(flow, specs, folds, board)
        directory = flow.session_dir / "results"
        result = save_results(outcome, directory, folds)
    show_results(console, result, directory)


def main(arguments: list[str] | None = None) -> int:
    """Run the example and return its exit code: 0, 1 after a failure, 2 if it cannot start, 130 on Ctrl-C."""
    options = parse(arguments)
    missing = [name for name in ("sklearn", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"This example needs {' and '.join(missing)}, not installed in this Python. Run scripts/quickstart, or:\n"
              "  pip install '.[examples]'  (in the clone)", file=sys.stderr)  # fmt: skip
        return 2
    from rich.console import Console

    try:
        asyncio.run(run(options, Console(force_terminal=sys.stdout.isatty())))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nInterrupted: the session was shut down, its tasks were cancelled.", file=sys.stderr)
        return 130
    except Exception as error:  # a function task raises its own type, which may be any
        show_error(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
