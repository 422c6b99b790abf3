"""The keys of an engine's tasks, by which a later driver recognizes them."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from .code_keys import CodeKeys
from .components import FUNCTION
from .keys import Begun, Unkeyable, content, digest, fingerprint, joined, keyed
from .outcome import text_of

if TYPE_CHECKING:
    from contextvars import Context

    from .components import Spec
    from .data import InputFile
    from .futures import TaskFuture

__all__ = ["PARTS", "Recognition"]

log = logging.getLogger(__name__)

PARTS = ("code", "description", "files", "dependencies")
"""What a key is made of, beside the arguments: where none of these differs, those do."""

# Hex digits of a part's digest that are kept, to say what has changed.
_BRIEF = 8


class _Call(NamedTuple):
    """What a call is recognized by, but for what differs between calls of one function."""

    prefix: str
    code: str
    parts: tuple[str, ...]
    begun: Begun


class Recognition:
    """Gives each task a key that a later run of the same script gives the same task, and no other."""

    def __init__(self) -> None:
        self._plain: dict[Spec, _Call] = {}
        self._codes = CodeKeys()
        self._occurrences: dict[str, int] = {}

    def look_at(self, future: TaskFuture) -> None:
        """Take a first look, while futures still stand for values in the arguments.

        A task that was called with neither futures nor files needs it no earlier than `identify`.
        """
        task, spec = future.description, future._spec
        try:
            base = self._base(future)
        except Exception as error:
            # Unkeyable, or whatever the methods of an argument raise.
            log.info("%s '%s' cannot be recognized by a resume: %s", future.uid, spec.name, text_of(error))
            base = ""
        # Not numbered yet, and the command of an executable task is still to come.
        task["key"] = base

    def _base(self, future: TaskFuture) -> str:
        spec, task = future._spec, future.description
        call = self._call_of(future)
        task["parts"] = call.parts
        if spec.kind != FUNCTION:
            return call.prefix
        args, kwargs, context = task["args"], task["kwargs"], task.get("context")
        data = b"with names " + content((args, kwargs), _key_of) if kwargs else content(args, _key_of)
        if context is None:
            return call.begun.keyed(data)
        return keyed(joined((call.prefix, *_variables(context))), data)

    def _call_of(self, future: TaskFuture) -> _Call:
        spec, task, found = future._spec, future.description, future._found
        usual = task["description"] is spec.description
        code = self._codes.get(spec.func) if spec.kind == FUNCTION else ""
        plain = self._plain.get(spec) if usual and found is None else None
        if plain is not None and plain.code == code:
            return plain
        description = digest(spec.defaults if usual else task["task_backend_specific_kwargs"])
        files = dependencies = ""
        if found is not None:
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

    def identify(self, future: TaskFuture) -> str:
        """Give a task whose command is known its key; "" where it cannot be recognized."""
        task = future.task
        if "key" not in task:
            self.look_at(future)
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


def _variables(context: Context) -> list[str]:
    """Return digests of the context variables that cross to the function, apart from the engine's own."""
    found = []
    for variable, value in context.items():
        if not variable.name.startswith("asyncflow_hpc_"):
            # What cannot be pickled does not cross.
            with suppress(Unkeyable):
                found.append(digest((variable.name, value), _key_of))
    return sorted(found)


def _print_of(item: InputFile) -> Any:
    return None if item.local_file is None or item.sha256 is not None else fingerprint(str(item.filepath))
