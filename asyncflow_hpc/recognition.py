"""The keys of an engine's tasks, by which a later driver recognizes them."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from .components import FUNCTION
from .hashing import Begun, Budget, TooLarge, Unkeyable, joined, keyed
from .keys import CodeKeys, content, digest, fingerprint
from .outcome import text_of
from .visibility import visible

if TYPE_CHECKING:
    from contextvars import Context, ContextVar

    from .arguments import Found
    from .components import Spec
    from .data import InputFile
    from .futures import TaskFuture

__all__ = ["KEYS", "PARTS", "Recognition"]

log = logging.getLogger(__name__)

KEYS = 2
"""Version of the way in which keys are made; raised when equal tasks get other keys than before."""

PARTS = ("code", "description", "files", "dependencies")
"""What a key is made of, beside the arguments: where none of these differs, those do."""

# Objects that are looked at on the loop for the keys of tasks that are submitted together; some milliseconds.
_AT_ONCE = 2000

# Hex digits of a part's digest that are kept, to say what has changed.
_BRIEF = 8


class _Call(NamedTuple):
    """What a call is recognized by, but for what differs between calls of one function."""

    prefix: str
    code: str
    parts: tuple[str, ...]
    begun: Begun


class Asked(NamedTuple):
    """What a call was made with, while futures still stand for values in its arguments."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    found: Found | None


class Recognition:
    """Gives each task a key that a later run of the same script gives the same task, and no other."""

    def __init__(self) -> None:
        self._here = _Bases()
        self._occurrences: dict[str, int] = {}
        # In a thread of its own, so that it needs no lock.
        self._there = _Bases()
        self._threads: ThreadPoolExecutor | None = None

    def look_at(self, future: TaskFuture) -> None:
        """Keep what a task was called with; called before the values of futures take their place."""
        task = future.description
        task["asked"] = Asked(task["args"], task["kwargs"], future._found)

    async def prepare(self, futures: Sequence[TaskFuture]) -> None:
        """Do what may take long for the keys of tasks that are about to be identified, away from the loop.

        What is small is done at once, and then nothing is awaited.
        """
        budget, batch = Budget(_AT_ONCE), _Batch()
        later = []
        for future in futures:
            if "key" not in future.task:
                try:
                    self._here.make(future, batch, budget)
                except TooLarge:
                    later.append(future)
        if later:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(1, thread_name_prefix="asyncflow-keys")
            await asyncio.get_running_loop().run_in_executor(self._threads, self._there.make_all, later)

    def identify(self, future: TaskFuture) -> str:
        """Give a task whose command is known its key; "" where it cannot be recognized."""
        task = future.task
        if "key" not in task:
            self._here.make(future, _Batch(), None)
        key = task["key"]
        if not key:
            return ""
        if future._spec.kind != FUNCTION:
            key = keyed(key, content((task.get("command") or task.get("prompt"),)))
        # Tasks that are alike in all are told apart by their order.
        number = self._occurrences[key] = self._occurrences.get(key, 0) + 1
        if number > 1:
            key = joined((key, str(number)))
        task["key"] = key
        return key

    def close(self) -> None:
        """Wait for nothing that is still being done."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


class _Batch:
    """Digests of what tasks that are identified together have in common, so that each is made once.

    Attributes:
        codes: of functions.
        variables: of context variables and their values, by the ids of both; "" where they do not count.
    """

    def __init__(self) -> None:
        self.codes: dict[Spec, str | Unkeyable] = {}
        self.variables: dict[tuple[int, int], str] = {}


class _Bases:
    """Makes all of a key that does not depend on the order of tasks; used by one thread."""

    def __init__(self) -> None:
        self._plain: dict[Spec, _Call] = {}
        self._codes = CodeKeys()

    def make_all(self, futures: Sequence[TaskFuture]) -> None:
        """Make the keys of several tasks."""
        batch = _Batch()
        for future in futures:
            self.make(future, batch, None)

    def make(self, future: TaskFuture, batch: _Batch, budget: Budget | None) -> None:
        """Make the key of a task, not numbered yet, and without the command of an executable task.

        Raises:
            TooLarge: the budget is used up.
        """
        task, spec = future.description, future._spec
        asked = task.get("asked") or Asked(task["args"], task["kwargs"], None)
        try:
            base = self._base(future, asked, batch, budget)
        except TooLarge:
            raise
        except Exception as error:
            # Unkeyable, or whatever the methods of an argument raise.
            log.info("%s '%s' cannot be recognized by a resume: %s", future.uid, spec.name, text_of(error))
            base = ""
        task.pop("asked", None)
        task["key"] = base

    def _base(self, future: TaskFuture, asked: Asked, batch: _Batch, budget: Budget | None) -> str:
        task = future.description
        call = self._call_of(future, asked.found, batch, budget)
        task["parts"] = call.parts
        if future._spec.kind != FUNCTION:
            return call.prefix
        args, kwargs, context = asked.args, asked.kwargs, task.get("context")
        data = b"with names " + content((args, kwargs), _key_of, budget) if kwargs else content(args, _key_of, budget)
        variables = [] if context is None else _variables(context, batch, budget)
        return keyed(joined((call.prefix, *variables)), data) if variables else call.begun.keyed(data)

    def _call_of(self, future: TaskFuture, found: Found | None, batch: _Batch, budget: Budget | None) -> _Call:
        spec, task = future._spec, future.description
        usual = task["description"] is spec.description
        code = self._code_of(spec, batch, budget) if spec.kind == FUNCTION else ""
        plain = self._plain.get(spec) if usual and found is None else None
        if plain is not None and plain.code == code:
            return plain
        description = digest(_description_of(future))
        files = dependencies = ""
        if found is not None:
            if budget is not None and any(item.local_file is not None for item in found.inputs):
                raise TooLarge
            if found.inputs or found.outputs:
                files = digest([*((item, _print_of(item)) for item in found.inputs), *found.outputs], _key_of)
            dependencies = joined(_key_of(other) for other in found.futures)
        parts = (code, description, files, dependencies)
        kind = (spec.kind, spec.name, str(spec.is_service), str(task["capture_stdio"]))
        prefix = joined((*kind, *parts))
        call = _Call(prefix, code, tuple([part[:_BRIEF] for part in parts]), Begun(prefix))
        if usual and found is None:
            self._plain[spec] = call
        return call

    def _code_of(self, spec: Spec, batch: _Batch, budget: Budget | None) -> str:
        code = batch.codes.get(spec)
        if code is None:
            try:
                code = self._codes.get(spec.func, budget)
            except Unkeyable as error:
                code = error
            batch.codes[spec] = code
        if isinstance(code, Unkeyable):
            raise code
        return code


def _description_of(future: TaskFuture) -> dict[str, Any]:
    backend, task = future._spec.lane.backend, future.description
    written: dict[str, Any] = task["task_backend_specific_kwargs"]
    if backend.capabilities is None:
        return written
    return visible(backend.describe(task), written, backend.capabilities.native_keys)


def _key_of(future: TaskFuture) -> str:
    if not future.done():
        raise Unkeyable(f"it holds the future of {future.uid}, which has not ended")
    key = future.description.get("key") if future.state == "DONE" or future._spec.is_service else None
    if key is None:
        # Of a block, of a backend that is not recorded, or settled by hand: only its value says what it is.
        return digest(future.result(), _key_of)
    if not key:
        # Without a key of its own it is a stranger to all that depends on it, too.
        raise Unkeyable(f"{future.uid}, on which it depends, cannot be recognized")
    return key


def _variables(context: Context, batch: _Batch, budget: Budget | None) -> list[str]:
    """Return digests of the context variables that cross to the function, apart from the engine's own."""
    found = []
    for variable, value in context.items():
        known = batch.variables.get((id(variable), id(value)))
        if known is None:
            known = batch.variables[id(variable), id(value)] = _digest_of_variable(variable, value, budget)
        if known:
            found.append(known)
    return sorted(found)


def _digest_of_variable(variable: ContextVar[Any], value: Any, budget: Budget | None) -> str:
    if variable.name.startswith("asyncflow_hpc_"):
        return ""
    if variable.name == "decimal_context" and "decimal" in sys.modules:
        # Set by the first use of the module; what has happened in calculations does not count.
        from decimal import Context as Decimals
        from decimal import DefaultContext

        if isinstance(value, Decimals):
            value, usual = (_settings_of(item) for item in (value, DefaultContext))
            if value == usual:
                return ""
    try:
        return digest((variable.name, value), _key_of, budget)
    except Unkeyable:
        # What cannot be pickled does not cross.
        return ""


def _settings_of(decimals: Any) -> Any:
    names = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")
    return [
        *(getattr(decimals, name) for name in names),
        [signal.__name__ for signal, on in decimals.traps.items() if on],
    ]


def _print_of(item: InputFile) -> Any:
    return None if item.local_file is None or item.sha256 is not None else fingerprint(str(item.filepath))
