"""The rows of `scripts/bench local`."""

from __future__ import annotations

from typing import Any

from .model import COLUMNS, Experiment, Figure, Probe, Row, Suite, Target

IN_FLIGHT = 8
PEER_WINDOW = 200  # it starts all it is given at once: more was slower for it, and needs a raised limit of open files
SLOW_SANDBOX_US = 150
SLOW_SANDBOX = (
    "the file system was slow to make files, which slows our local tasks, as each has a sandbox, and nothing else here "
    "(ext4 is so for some minutes after many files were deleted): wait, or set TMPDIR to another file system"
)


def suite(quick: bool) -> Suite:
    true_n, peer_true_n = (1_000, 400) if quick else (5_000, 5_000)
    call_n = 2_000 if quick else 10_000
    experiments = [_chain(), _cold_start(), _executables(true_n, peer_true_n), _calls("sync", call_n)]
    experiments += [_calls("async", call_n), _forked_calls(call_n // 5)]
    rows = _chain_rows() + _executable_rows(true_n) + _call_rows("sync", call_n) + _call_rows("async", call_n)
    rows += _forked_call_rows(call_n // 5)
    return Suite("local", experiments, rows)


def _sides(probe: str, limit: str, **kwargs: Any) -> dict[str, Probe]:
    return {
        "ours": Probe(f"local_probes:{probe}", {"side": "ours", **kwargs}),
        "peer": Probe(f"local_probes:{probe}", {"side": "peer", **kwargs}),
        "limit": Probe(f"local_limits:{limit}", kwargs, "bare pool"),
    }


def _chain() -> Experiment:
    return Experiment("chain", 10, _sides("chain", "sleep_chain", n=10, seconds=0.05))


def _cold_start() -> Experiment:
    return Experiment("cold_start", 1, _sides("cold_start", "cold_pool"))


def _chain_rows() -> list[Row]:
    target = Target("value", "<", 0.6, "< 0.6 s")
    chain, cold = ({side: Figure(key, (side,), "seconds") for side in COLUMNS} for key in ("chain", "cold_start"))
    return [
        Row("chain of 10 functions of 50 ms, warm workers", "s", chain, 10, target=target),
        Row("cold start: import to first function's result", "s", cold, 1),
    ]


def _executables(n: int, peer_n: int) -> Experiment:
    probe, bare = "local_probes:executables", {"n": n, "in_flight": IN_FLIGHT}
    variants = {
        "ours_8": Probe(probe, {"side": "ours", "n": n, "window": n, "cores": IN_FLIGHT}),
        "ours": Probe(probe, {"side": "ours", "n": n, "window": n}),
        "peer": Probe(probe, {"side": "peer", "n": peer_n, "window": PEER_WINDOW}, f"windows of {PEER_WINDOW}"),
        "spawn": Probe("local_limits:spawn_loop", bare, "posix_spawn loop"),
        "spawn_in_sandboxes": Probe("local_limits:spawn_in_sandboxes", bare, "loop with sandboxes"),
        "sandboxes": Probe("local_limits:sandboxes", {"n": n}, "bare"),
        "xargs": Probe("local_limits:xargs", bare, f"xargs -P{IN_FLIGHT}"),
    }
    return Experiment("true", n, variants)


def _executable_rows(n: int) -> list[Row]:
    def figures(ours: str, limit: str, metric: str = "rate") -> dict[str, Figure]:
        names = {"ours": ours, "peer": "peer", "limit": limit}
        return {column: Figure("true", (name,), metric) for column, name in names.items()}

    share = Target("limit", ">=", 0.6, "60 % of the loop")
    over = Target("limit", ">", 1, "> xargs (stretch)")
    sandbox = {"limit": Figure("true", ("sandboxes",), "cpu_us")}
    wide, default = f"{n:,} x /bin/true, cores={IN_FLIGHT}", f"{n:,} x /bin/true, default cores"
    return [
        Row(wide, "/s", figures("ours_8", "spawn"), n, True, share),
        Row(wide, "/s", figures("ours_8", "xargs"), n, True, over),
        Row(wide, "/s", figures("ours_8", "spawn_in_sandboxes"), n, True),
        Row("  driver's CPU per task", "us", figures("ours_8", "spawn", "cpu_us"), n),
        Row("  children's CPU per task", "us", figures("ours_8", "spawn", "children_cpu_us"), n),
        Row(default, "/s", figures("ours", "spawn"), n, True),
        Row("  driver's CPU per task", "us", figures("ours", "spawn", "cpu_us"), n),
        Row("  a sandbox: one directory, two empty files", "us", sandbox, n, warning=(SLOW_SANDBOX_US, SLOW_SANDBOX)),
    ]


def _calls(kind: str, n: int) -> Experiment:
    probe, asynchronous = "local_probes:calls", kind == "async"
    variants = {"ours": Probe(probe, {"side": "ours", "n": n, "asynchronous": asynchronous})}
    if asynchronous:  # the peer takes no others; its cost per call grows with n, so it gets the same n, but fewer runs
        variants["peer"] = Probe(probe, {"side": "peer", "n": n, "asynchronous": True}, repeats=2)
    variants["pebble"] = Probe("local_limits:pebble_calls", {"n": n}, "pebble")
    variants["executor"] = Probe("local_limits:executor_calls", {"n": n}, "ProcessPoolExecutor")
    return Experiment(f"calls_{kind}", n, variants)


def _call_rows(kind: str, n: int) -> list[Row]:
    key = f"calls_{kind}"

    def figures(metric: str) -> dict[str, Figure]:
        sides = {"ours": ("ours",), "peer": ("peer",), "limit": ("pebble", "executor")}
        return {
            column: Figure(key, variants, metric)
            for column, variants in sides.items()
            if column != "peer" or kind == "async"
        }

    half = Target("limit", ">=", 0.5, "half the best pool")
    return [
        Row(f"{n:,} calls of a trivial {kind} function in processes", "/s", figures("rate"), n, True, half),
        Row("  driver's CPU per task", "us", figures("cpu_us"), n),
        Row("  workers' CPU per task", "us", figures("children_cpu_us"), n),
    ]


def _forked_calls(n: int) -> Experiment:
    probe = "local_probes:forked_calls"
    variants = {
        "ours": Probe(probe, {"n": n, "functions": "process"}),
        "shared": Probe(probe, {"n": n, "functions": "shared"}),
        "limit": Probe("local_limits:fork_loop", {"n": n}, "os.fork loop"),
    }
    return Experiment("calls_forked", n, variants)


def _forked_call_rows(n: int) -> list[Row]:
    def figures(ours: str, metric: str) -> dict[str, Figure]:
        return {"ours": Figure("calls_forked", (ours,), metric), "limit": Figure("calls_forked", ("limit",), metric)}

    return [
        Row(f"{n:,} calls of a function that needs a process of its own", "/s", figures("ours", "rate"), n, True),
        Row("  children's CPU per task", "us", figures("ours", "children_cpu_us"), n),
        Row('  the same with functions="shared"', "/s", figures("shared", "rate"), n, True),
    ]
