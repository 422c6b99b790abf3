#!/usr/bin/env python3
"""Replay a trace of a real workflow: its tasks, dependencies and files, and check every file on its way.

A trace (WfFormat 1.5, see https://wfcommons.org) says which task ran after which, and which files each read and wrote.
Here every task becomes a process of its own that reads all its inputs and writes all its outputs, with random content
and scaled in size. At the end every input must be what its producer wrote, byte for byte.

What it shows of asyncflow_hpc: files of any name handed from task to task, declared (`OutputFile`, `InputFile`) or,
with --implicit, by themselves; hundreds of dependencies between executable tasks; a check that trusts nobody.

    python examples/replay_trace.py TRACE [--scale S] [--max-bytes N] [--speed X] [--backend NAME] [--work-dir DIR]
                                    [--implicit] [--keep]
"""

from __future__ import annotations

import argparse
import asyncio
import graphlib
import hashlib
import json
import math
import os
import random
import re
import reprlib
import shutil
import sys
import tempfile
import time
import unicodedata
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

# This file is also what each task's process runs: it must start fast, so the engine is imported where it is used.
if TYPE_CHECKING:
    from asyncflow_hpc import WorkflowEngine

TOTAL_BYTES = 50_000_000  # the default scale keeps all files of a trace together below this
LEAST_BYTES = 16  # smaller files could be equal by chance, and a mix-up of two would not be seen
BLOCK = 1 << 20

SCRIPT = str(Path(__file__).resolve())

OWN = ".replay"  # directory in each sandbox for what is not of the trace


class TraceError(Exception):
    """The trace cannot be replayed; the message says why."""


@dataclass
class Job:
    """A task of the trace.

    Attributes:
        id: in the trace.
        number: its place in the order of the run, from 1; the name of its own files.
        inputs, outputs: ids of files.
        parents: ids of the jobs that the trace names as its dependencies.
        runtime: of the real run, in seconds.
    """

    id: str
    inputs: list[str]
    outputs: list[str]
    parents: list[str]
    runtime: float
    number: int = 0

    def own(self, kind: str) -> str:
        """Path in the sandbox of a file that is not of the trace: `spec.json`, `manifest.json` or `runs`."""
        return f"{OWN}/{self.number:04d}.{kind}"


@dataclass
class Trace:
    """A trace that was read and found to make sense.

    Attributes:
        jobs: by id, each after those that it waits for.
        needs: ids of those that each job waits for.
        sizes: bytes of each file, by id.
        makers: id of the job that writes each file; the other files are inputs of the whole workflow.
        paths: where each file lies in a sandbox.
        notes: what was mended.
    """

    name: str
    jobs: dict[str, Job]
    needs: dict[str, list[str]]
    sizes: dict[str, int]
    makers: dict[str, str]
    paths: dict[str, str]
    notes: list[str] = field(default_factory=list)

    def roots(self) -> list[str]:
        """List the files that no job makes."""
        return [file for file in self.sizes if file not in self.makers]


def take(where: str, mapping: Any, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
    """Get a value of a JSON object, of the kind that it must have."""
    if not isinstance(mapping, dict):
        raise TraceError(f"{where} should be a JSON object, and is {reprlib.repr(mapping)}")
    value = mapping.get(key, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        words = {dict: "an object", list: "a list", str: "a text", int: "a whole number", (int, float): "a number"}
        found = "missing" if key not in mapping else reprlib.repr(value)
        raise TraceError(f"{where}.{key} should be {words[kind]}, and is {found}")
    return value


def take_ids(where: str, mapping: Any, key: str) -> list[str]:
    """Get a list of ids, each once."""
    ids = take(where, mapping, key, list, [])
    for value in ids:
        if not isinstance(value, str):
            raise TraceError(f"{where}.{key} should hold texts, and holds {reprlib.repr(value)}")
    return list(dict.fromkeys(ids))


def load(path: Path) -> Trace:
    """Read a trace from a file.

    Raises:
        TraceError: it cannot be read, is no trace, or no workflow could have made it.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise TraceError(f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise TraceError(f"is not JSON: {error}") from error
    version = take("trace", document, "schemaVersion", str)
    if version != "1.5":
        raise TraceError(f"has schemaVersion {version!r}; only WfFormat 1.5 is understood here")
    workflow = take("trace", document, "workflow", dict)
    return understand(take("trace", document, "name", str, path.stem), workflow)


def understand(name: str, workflow: dict[str, Any]) -> Trace:
    """Make sense of the part `workflow` of a trace.

    Raises:
        TraceError: it makes none.
    """
    specification = take("workflow", workflow, "specification", dict)
    listed = read_sizes(take("specification", specification, "files", list, []))
    jobs = read_jobs(take("specification", specification, "tasks", list), read_runtimes(workflow))
    makers = find_makers(jobs)
    used = dict.fromkeys(file for job in jobs.values() for file in (*job.inputs, *job.outputs))
    for file in used:
        if file not in listed:
            user = next(job.id for job in jobs.values() if file in (*job.inputs, *job.outputs))
            raise TraceError(f"task {user!r} names file {file!r}, which specification.files does not list")
    sizes = {file: listed[file] for file in used}
    trace = Trace(name, jobs, {}, sizes, makers, sandbox_paths(sizes))
    order(trace)
    return trace


def read_sizes(files: list[Any]) -> dict[str, int]:
    """Read specification.files: the size of each, by id."""
    sizes: dict[str, int] = {}
    for index, entry in enumerate(files):
        where = f"specification.files[{index}]"
        file, size = take(where, entry, "id", str), take(where, entry, "sizeInBytes", int)
        if not 0 <= size < 1 << 63:
            raise TraceError(f"{where}: no file has a size of {reprlib.repr(size)} bytes")
        if sizes.setdefault(file, size) != size:
            raise TraceError(f"{where}: file {file!r} is listed before, with another size")
    return sizes


def read_runtimes(workflow: dict[str, Any]) -> dict[str, float]:
    """Read execution.tasks: seconds that each ran, by id. A trace need not tell them."""
    execution = take("workflow", workflow, "execution", dict, {})
    runtimes = {}
    for index, entry in enumerate(take("execution", execution, "tasks", list, [])):
        where = f"execution.tasks[{index}]"
        seconds = take(where, entry, "runtimeInSeconds", (int, float), 0)
        if not 0 <= seconds < 1e9:
            raise TraceError(f"{where}: no task runs for {reprlib.repr(seconds)} seconds")
        runtimes[take(where, entry, "id", str)] = float(seconds)
    return runtimes


def read_jobs(tasks: list[Any], runtimes: dict[str, float]) -> dict[str, Job]:
    """Read specification.tasks. An edge counts, whether the parent or the child names it."""
    jobs: dict[str, Job] = {}
    children = []
    for index, entry in enumerate(tasks):
        where = f"specification.tasks[{index}]"
        uid = take(where, entry, "id", str)
        if uid in jobs:
            raise TraceError(f"{where}: the id {uid!r} was used before")
        inputs, outputs, parents = (take_ids(where, entry, key) for key in ("inputFiles", "outputFiles", "parents"))
        jobs[uid] = Job(uid, inputs, outputs, parents, runtimes.get(uid, 0.0))
        children += [(uid, child) for child in take_ids(where, entry, "children")]
    edges = [(parent, job.id) for job in jobs.values() for parent in job.parents]
    for parent, child in (*edges, *children):
        if parent not in jobs or child not in jobs:
            missing, other = (parent, child) if child in jobs else (child, parent)
            raise TraceError(f"task {other!r} names {missing!r} as a neighbour, which is no task of the trace")
        if parent not in jobs[child].parents:
            jobs[child].parents.append(parent)
    return jobs


def find_makers(jobs: dict[str, Job]) -> dict[str, str]:
    """Tell which job writes each file."""
    makers: dict[str, str] = {}
    for job in jobs.values():
        for file in job.outputs:
            other = makers.setdefault(file, job.id)
            if other != job.id:
                raise TraceError(f"file {file!r} is written by two tasks, {other!r} and {job.id!r}")
    return makers


def order(trace: Trace) -> None:
    """Bring the jobs in the order of their dependencies, with those added that only the files show."""
    for job in trace.jobs.values():
        makers = dict.fromkeys(trace.makers[file] for file in job.inputs if file in trace.makers)
        added = [maker for maker in makers if maker not in job.parents]
        trace.needs[job.id] = job.parents + added
        trace.notes += [f"{job.id!r} reads what {maker!r} writes, which is no parent: made it wait" for maker in added]
    try:
        ids = list(graphlib.TopologicalSorter(trace.needs).static_order())
    except graphlib.CycleError as error:
        raise TraceError(f"these tasks wait for each other: {' -> '.join(map(repr, error.args[1]))}") from error
    trace.jobs = {uid: trace.jobs[uid] for uid in ids}
    for number, job in enumerate(trace.jobs.values(), 1):
        job.number = number


def sandbox_paths(ids: Iterable[str]) -> dict[str, str]:
    """Give each file of a trace a path in a sandbox, as like its id as can be, and no two the same.

    Raises:
        TraceError: an id would lead out of a sandbox.
    """
    paths: dict[str, str] = {}
    files: set[str] = set()
    directories: set[str] = set()
    for file in ids:
        first, *rest = parts_of(file)
        number = 1
        while True:
            path = "/".join([first if number == 1 else f"{first}~{number}", *rest])
            # Some file systems take two spellings of a name as one.
            key = unicodedata.normalize("NFC", path).casefold()
            above = {key[: match.start()] for match in re.finditer("/", key)}
            if key not in files | directories and not above & files:
                break
            number += 1
        paths[file] = path
        files.add(key)
        directories |= above
    return paths


def parts_of(file: str) -> list[str]:
    """Cut a file's id into names of directories and of the file."""
    # No path can hold NUL or half a character.
    text = re.sub("[\0\ud800-\udfff]", lambda match: f"%{ord(match[0]):02x}", file)
    parts = [part for part in text.split("/") if part not in ("", ".")] or ["unnamed"]
    if ".." in parts:
        raise TraceError(f"the id of file {file!r} holds '..': it could lead out of a sandbox")
    # These names are the engine's or our own.
    if re.match(r"task\.|\.asyncflow|\.replay", parts[0], re.IGNORECASE):
        parts[0] = f"file-{parts[0]}"
    digest = hashlib.sha256(os.fsencode(text)).hexdigest()[:16]
    parts = [part if len(os.fsencode(part)) <= 200 else f"{part[:40]}~{digest}" for part in parts]
    return parts if len(os.fsencode("/".join(parts))) <= 1000 else [f"{parts[-1][:40]}~{digest}"]


def default_scale(trace: Trace) -> float:
    """Scale sizes such that all files together stay below TOTAL_BYTES."""
    room = TOTAL_BYTES - LEAST_BYTES * len(trace.sizes)
    return max(0.0, min(1.0, room / max(1, sum(trace.sizes.values()))))


def scale_sizes(trace: Trace, scale: float, most: int | None) -> None:
    """Scale all sizes, between LEAST_BYTES and `most`."""
    for file, size in trace.sizes.items():
        scaled = max(LEAST_BYTES, int(min(size * scale, 1 << 62)))
        trace.sizes[file] = scaled if most is None else min(scaled, most)


def write_random(path: Path, maker: str | None, file: str, size: int) -> str:
    """Write a new file, the same for the same arguments; return its checksum."""
    source = random.Random(json.dumps([maker, file, size]))
    digest = hashlib.sha256()
    with path.open("xb") as target:
        for start in range(0, size, BLOCK):
            block = source.randbytes(min(BLOCK, size - start))
            digest.update(block)
            target.write(block)
    return digest.hexdigest()


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def target(path: str) -> Path:
    """Make the directories above a file in the sandbox, which is the current directory.

    Raises:
        OSError: one of them is a link to elsewhere: another task's file would be written.
    """
    sandbox, above = Path.cwd().resolve(), Path(path).parent
    if not above.resolve().is_relative_to(sandbox):
        raise OSError(f"{above} leads out of the sandbox, to {above.resolve()}")
    above.mkdir(parents=True, exist_ok=True)
    return Path(path)


def work(spec_path: str) -> None:
    """Be the process of one job: read, wait, write, and tell in a manifest what was read and written.

    Raises:
        OSError: an input is not there, or an output cannot be written.
    """
    spec = json.loads(Path(spec_path).read_bytes())
    run = uuid.uuid4().hex
    with target(spec["runs"]).open("a", encoding="utf-8") as runs:
        runs.write(f"{run}\n")
    inputs = {file: checksum(Path(path)) for file, path in spec["inputs"].items()}
    time.sleep(spec["seconds"])
    outputs = {
        file: write_random(target(path), spec["task"], file, size) for file, (path, size) in spec["outputs"].items()
    }
    manifest = {"task": spec["task"], "run": run, "inputs": inputs, "outputs": outputs}
    with target(spec["manifest"]).open("x", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)


def spec_of(trace: Trace, job: Job, speed: float) -> dict[str, Any]:
    """Describe a job to its process."""
    return {
        "task": job.id,
        "seconds": job.runtime * speed,
        "inputs": {file: trace.paths[file] for file in job.inputs},
        "outputs": {file: [trace.paths[file], trace.sizes[file]] for file in job.outputs},
        "runs": job.own("runs"),
        "manifest": job.own("manifest.json"),
    }


def prepare(trace: Trace, speed: float, home: Path) -> dict[str, str]:
    """Write the specs of all jobs and the inputs of the workflow; return the checksums of these."""
    (home / "specs").mkdir()
    for job in trace.jobs.values():
        spec = json.dumps(spec_of(trace, job, speed))
        (home / "specs" / f"{job.number:04d}.json").write_text(spec, encoding="utf-8")
    sums = {}
    for file in trace.roots():
        path = home / "inputs" / trace.paths[file]
        path.parent.mkdir(parents=True, exist_ok=True)
        sums[file] = write_random(path, None, file, trace.sizes[file])
    return sums


@dataclass
class Replayed:
    """What a run left: its directory, the sandbox of each job that ended well, the error of each that did not."""

    session: Path
    sandboxes: dict[str, Path] = field(default_factory=dict)
    errors: dict[str, BaseException] = field(default_factory=dict)


async def replay(trace: Trace, home: Path, backend: Any, implicit: bool) -> Replayed:
    """Run all jobs of a trace as tasks."""
    from asyncflow_hpc import WorkflowEngine

    async with WorkflowEngine.create(backend=backend, work_dir=home, implicit_data=implicit) as flow:
        futures = call(flow, trace, home, implicit)
        progress = Progress(len(futures))
        for future in futures.values():
            future.add_done_callback(progress.one_ended)
        results = await asyncio.gather(*futures.values(), return_exceptions=True)
        replayed = Replayed(flow.session_dir)
    for (uid, future), result in zip(futures.items(), results, strict=True):
        if isinstance(result, BaseException):
            replayed.errors[uid] = result
        elif future.task.get("sandbox"):
            replayed.sandboxes[uid] = Path(future.task["sandbox"])
    return replayed


def call(flow: WorkflowEngine, trace: Trace, home: Path, implicit: bool) -> dict[str, Any]:
    """Call one task for each job and return the futures; a job comes after those whose futures it takes."""
    from asyncflow_hpc import InputFile, OutputFile

    @flow.executable_task
    async def process(spec: str, *files_and_futures: Any) -> list[str]:
        """Give the command; what else is among the arguments are its files, and futures to wait for."""
        return [sys.executable, SCRIPT, "--task", spec]

    futures: dict[str, Any] = {}
    for job in trace.jobs.values():
        files: list[Any] = [InputFile(home / "specs" / f"{job.number:04d}.json", name=job.own("spec.json"))]
        for file in job.inputs:
            path, maker = trace.paths[file], trace.makers.get(file)
            if maker is None:
                files.append(InputFile(home / "inputs" / path, name=path))
            elif not implicit or maker not in job.parents:
                files.append(InputFile(path, task=futures[maker]))
        files += [OutputFile(path) for path in (job.own("manifest.json"), *(trace.paths[file] for file in job.outputs))]
        futures[job.id] = process(job.own("spec.json"), *files, *(futures[uid] for uid in trace.needs[job.id]))
    return futures


class Progress:
    """Counts of tasks: in place on a terminal, elsewhere about ten lines in all."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = self._failed = 0

    def one_ended(self, future: asyncio.Future[Any]) -> None:
        """Count a task that has ended by itself."""
        if future.cancelled():
            return
        if future.exception():
            self._failed += 1
        else:
            self._done += 1
        ended = self._done + self._failed
        failed = f", {self._failed} failed" if self._failed else ""
        line = f"  {self._done}/{self._total} tasks done{failed}"
        if sys.stdout.isatty():
            print(f"\r{line}", end="\n" if ended == self._total else "", flush=True)
        elif ended == self._total or ended * 10 // self._total > (ended - 1) * 10 // self._total:
            print(line, flush=True)


def manifests_of(trace: Trace, replayed: Replayed) -> dict[str, dict[str, Any]]:
    """Read what the processes say that they read and wrote."""
    manifests = {}
    for uid, sandbox in replayed.sandboxes.items():
        path = sandbox / trace.jobs[uid].own("manifest.json")
        if path.is_file():
            manifests[uid] = json.loads(path.read_bytes())
    return manifests


def check_inputs(trace: Trace, manifests: dict[str, dict[str, Any]], roots: dict[str, str]) -> list[str]:
    """Compare each input, as its reader found it, with what its producer wrote.

    Args:
        manifests: of each job, by id.
        roots: checksums of the inputs of the workflow.

    Returns:
        What differs, one line each.
    """
    wrong = [f"task {uid!r} left no manifest" for uid in trace.jobs if uid not in manifests]
    for uid, manifest in manifests.items():
        job = trace.jobs[uid]
        if manifest["task"] != uid:
            wrong.append(f"task {uid!r} has the manifest of {manifest['task']!r}")
        for kind, files in (("inputs", job.inputs), ("outputs", job.outputs)):
            if set(manifest[kind]) != set(files):
                wrong.append(f"task {uid!r} has other {kind} in its manifest than in the trace")
        for file, found in manifest["inputs"].items():
            maker = trace.makers.get(file)
            source = roots if maker is None else manifests.get(maker, {}).get("outputs", {})
            if source.get(file) != found:
                who = "the driver" if maker is None else repr(maker)
                wrong.append(f"task {uid!r} read another {file!r} than {who} wrote")
    return wrong


def check_outputs(trace: Trace, manifests: dict[str, dict[str, Any]], sandboxes: dict[str, Path]) -> list[str]:
    """Look for each output where its task ran: there, of its size, and as it was written. Return what is not so."""
    wrong = []
    for file, maker in trace.makers.items():
        if maker not in manifests:
            continue
        path = sandboxes[maker] / trace.paths[file]
        if path.is_symlink() or not path.is_file():
            wrong.append(f"{file!r} of task {maker!r} is no file at {path}")
        elif path.stat().st_size != trace.sizes[file]:
            wrong.append(f"{file!r} of task {maker!r} has {path.stat().st_size} bytes, not {trace.sizes[file]}: {path}")
        elif checksum(path) != manifests[maker]["outputs"].get(file):
            wrong.append(f"{file!r} of task {maker!r} has changed since it was written: {path}")
    return wrong


def check_runs(trace: Trace, manifests: dict[str, dict[str, Any]], replayed: Replayed) -> list[str]:
    """Count how often each task ran, in whichever sandbox of the session. Return what ran not once."""
    runs: dict[str, set[str]] = {}
    places = {*replayed.session.iterdir(), *replayed.sandboxes.values()} if replayed.session.is_dir() else set()
    for file in (file for place in places for file in (place / OWN).glob("*.runs")):
        # The same file may be in the sandboxes of dependents too: what counts are the ids of runs.
        runs.setdefault(f"{OWN}/{file.name}", set()).update(file.read_text(encoding="utf-8").splitlines())
    wrong = []
    for uid, job in trace.jobs.items():
        found = runs.get(job.own("runs"), set())
        if len(found) != 1:
            wrong.append(f"task {uid!r} ran {len(found)} times")
        elif uid in manifests and found != {manifests[uid]["run"]}:
            wrong.append(f"task {uid!r} has a manifest of another run")
    return wrong


def check(trace: Trace, replayed: Replayed, roots: dict[str, str]) -> list[str]:
    """Return what went wrong, one line each."""
    if replayed.errors:
        kinds = {uid: type(error).__name__ for uid, error in replayed.errors.items()}
        dependents = sum(kind == "DependencyFailureError" for kind in kinds.values())
        failed = [uid for uid, kind in kinds.items() if kind != "DependencyFailureError"]
        lines = [f"task {uid!r}: {kinds[uid]}: {replayed.errors[uid]}" for uid in failed]
        return lines + [f"not run, for they needed what failed: {dependents} of {len(trace.jobs)} tasks"] * bool(
            dependents
        )
    manifests = manifests_of(trace, replayed)
    return [
        *check_inputs(trace, manifests, roots),
        *check_outputs(trace, manifests, replayed.sandboxes),
        *check_runs(trace, manifests, replayed),
    ]


def show_summary(trace: Trace, seconds: float) -> None:
    """Print the table of what was replayed."""
    written = sum(trace.sizes.values())
    read = sum(trace.sizes[file] for job in trace.jobs.values() for file in job.inputs)
    print(f"  tasks      {len(trace.jobs):>14,}")
    print(f"  edges      {sum(map(len, trace.needs.values())):>14,}")
    print(f"  files      {len(trace.sizes):>14,}  ({len(trace.roots()):,} of them inputs of the workflow)")
    print(f"  bytes      {written:>14,}  written, {read:,} read")
    print(f"  wall time  {seconds:>14.1f}  s")


def show_wrong(wrong: list[str]) -> None:
    """Print what went wrong, as much as one can read."""
    for line in wrong[:20]:
        print(line, file=sys.stderr)
    if len(wrong) > 20:
        print(f"... and {len(wrong) - 20} more", file=sys.stderr)


def factor(text: str) -> float:
    """Read a factor from the command line."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


def byte_count(text: str) -> int:
    """Read a size from the command line."""
    value = int(text)
    if value < LEAST_BYTES:
        raise argparse.ArgumentTypeError(f"{value} is less than the {LEAST_BYTES} bytes that tell files apart")
    return value


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Replay a workflow trace (WfFormat 1.5) and check every file.")
    parser.add_argument("trace", metavar="TRACE", type=Path, help="the JSON file")
    parser.add_argument("--scale", type=factor, metavar="S", help="factor for sizes (default: all files below 50 MB)")
    parser.add_argument("--max-bytes", type=byte_count, metavar="N", help="no file gets larger than this")
    parser.add_argument("--speed", type=factor, default=0.0, metavar="X", help="tasks last X times as long as in fact")
    parser.add_argument("--backend", help="name of an execution backend (default: $ASYNCFLOW_BACKEND, else local)")
    parser.add_argument("--work-dir", type=Path, default=Path(), help="where the replay's directory is made")
    parser.add_argument("--implicit", action="store_true", help="do not declare the files that parents hand on")
    parser.add_argument("--keep", action="store_true", help="keep the replay's directory; a failed one is always kept")
    return parser.parse_args(arguments)


def load_scaled(options: argparse.Namespace) -> Trace:
    """Read the trace, scale it, and say what it is."""
    trace = load(options.trace)
    scale = default_scale(trace) if options.scale is None else options.scale
    scale_sizes(trace, scale, options.max_bytes)
    name = trace.name if trace.name.isprintable() else repr(trace.name)
    print(f"{name}: {len(trace.jobs):,} tasks; scale {scale:.4g}: {sum(trace.sizes.values()):,} bytes in all")
    for note in trace.notes:
        print(f"  note: {note}")
    return trace


def replay_in(home: Path, trace: Trace, options: argparse.Namespace) -> int:
    """Replay a trace in a directory; the exit code is 1 if something went wrong."""
    start = time.monotonic()
    roots = prepare(trace, options.speed, home)
    replayed = asyncio.run(replay(trace, home, options.backend, options.implicit))
    seconds = time.monotonic() - start
    wrong = check(trace, replayed, roots)
    show_summary(trace, seconds)
    show_wrong(wrong)
    if not wrong:
        print("every input is what its producer wrote")
    if wrong or options.keep:
        print(f"All files lie under {home}")
    else:
        shutil.rmtree(home)
    return 1 if wrong else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the example; the exit code is 1 if a file is not what it should be, 2 if the trace is no good."""
    options = parse(arguments)
    try:
        trace = load_scaled(options)
    except TraceError as error:
        print(f"{options.trace}: {error}", file=sys.stderr)
        return 2
    try:
        options.work_dir.mkdir(parents=True, exist_ok=True)
        home = Path(tempfile.mkdtemp(prefix="replay.", dir=options.work_dir)).resolve()
    except OSError as error:
        print(f"work directory {options.work_dir} cannot be used: {error.strerror}", file=sys.stderr)
        return 1
    try:
        return replay_in(home, trace, options)
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nInterrupted: the session was shut down, its tasks were cancelled.", file=sys.stderr)
        code = 130
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    print(f"All files lie under {home}")
    return code


def be_a_task(spec: str) -> int:
    """Run one job in this process."""
    try:
        work(spec)
    except OSError as error:
        print(f"replay_trace: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(be_a_task(sys.argv[2]) if sys.argv[1:2] == ["--task"] else main())
