"""Decorated functions, and the view of an engine's components that scripts may look at."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from weakref import ref

from .arguments import scan
from .command import exact
from .errors import ArgumentError, DescriptionTypeError, UnsupportedTaskError, visible
from .signatures import Signature
from .states import TaskState
from .task import Metadata, Task, TaskDescription

if TYPE_CHECKING:
    from .engine import WorkflowEngine
    from .futures import TaskFuture
    from .lanes import Lane

__all__ = ["BLOCK", "EXECUTABLE", "FUNCTION", "PROMPT", "Components", "Spec"]

FUNCTION, EXECUTABLE, PROMPT, BLOCK = "function", "executable", "prompt", "block"

REMEMBERED = 1000

NO_FILES: Metadata = {"dependencies": (), "input_files": (), "output_files": ()}


class Spec:
    """A decorated function and what the decorator said about it.

    Attributes:
        kind: FUNCTION, EXECUTABLE, PROMPT or BLOCK.
        lane: to the backend that its tasks go to; for a block, the default one.
        result_key: under which a backend puts the result.
        signature: checks the arguments of a call.
        defaults: task description of all its calls, as written.
        description: the same, checked.
        unchecked: whether the backend has not yet been asked if it can run a call that says no more than that.
        file_defaults: parameters that declare a file or a future by default: position (None: by name only) and default.
        template: what the dicts of all its calls have in common.
    """

    __slots__ = (
        "defaults", "description", "engine", "file_defaults", "func", "is_async", "is_service", "kind", "lane", "name",
        "result_key", "signature", "template", "unchecked",
    )  # fmt: skip

    def __init__(
        self,
        engine: WorkflowEngine,
        kind: str,
        func: Callable[..., Any],
        lane: Lane,
        *,
        service: bool,
        target: str | None,
        capture_stdio: bool,
        task_description: dict[str, Any] | None,
    ) -> None:
        if not callable(func):
            raise ArgumentError(f"a {kind} is made from a function, not from {func!r}")
        if not isinstance(service, bool):
            raise ArgumentError(f"'service' must be a boolean, got {type(service).__name__}")
        self.engine = engine
        self.kind = kind
        self.result_key = "return_value" if kind in (FUNCTION, BLOCK) else "stdout"
        self.func = func
        self.lane = lane
        self.is_service = service
        self.name = visible(exact(getattr(func, "__name__", None) or type(func).__name__)).replace("\n", "\\n")
        self.signature = Signature(self.name, func)
        self.is_async = inspect.iscoroutinefunction(func)
        if task_description is not None and not isinstance(task_description, dict):
            raise DescriptionTypeError(f"task_description of '{self.name}' must be a dict, not {task_description!r}")
        self.defaults = {**(task_description or {}), **_default_description(func, self.name)}
        self.description = self.check(self.defaults)
        if self.description.cwd is not None:
            # A relative one is relative to where it was written, whatever a call says besides.
            self.defaults["cwd"] = self.description.cwd
        self.unchecked = kind != BLOCK
        self.file_defaults = _file_defaults(func) if kind != BLOCK else {}
        self.template: Task = {
            "uid": "",
            "name": self.name,
            "function": func if kind in (FUNCTION, BLOCK) else None,
            "args": (),
            "kwargs": {},
            "executable": None,
            "is_service": service,
            "target_backend": target,
            "capture_stdio": capture_stdio,
            "workflow_id": None,
            "task_backend_specific_kwargs": {},
            "description": self.description,
            "metadata": NO_FILES,
            "attempt": 0,
            "state": TaskState.PENDING,
        }

    def check(self, values: dict[str, Any]) -> TaskDescription:
        """Check a description against what the backend takes; a foreign backend gets it as it is."""
        capabilities = self.lane.capabilities
        if capabilities is None:
            self.lane.warn_of_description(self.name, values)
            # Retries are the engine's.
            return TaskDescription.from_dict({"retries": values.get("retries")} if self.kind != BLOCK else {})
        description = TaskDescription.from_dict(values, capabilities.native_keys)
        self.lane.refuse_unsupported(self, description)
        if self.kind == BLOCK and description.retries is not None:
            raise UnsupportedTaskError(
                f"block '{self.name}' asks for retries, but only tasks are tried again: ask for them in its tasks"
            )
        return description

    def check_call(self) -> None:
        """Check a call that says no more than the decorator, the first time there is one."""
        self.lane.refuse_unrunnable(self.description)
        self.unchecked = False


def _default_description(func: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        parameter = inspect.signature(func).parameters.get("task_description")
    except (TypeError, ValueError):
        return {}
    if parameter is None or parameter.default is inspect.Parameter.empty or parameter.default is None:
        return {}
    if not isinstance(parameter.default, dict):
        raise DescriptionTypeError(
            f"default of 'task_description' in function '{name}' must be a dict, not {parameter.default!r}"
        )
    return dict(parameter.default)


def _file_defaults(func: Callable[..., Any]) -> dict[str, tuple[int | None, Any]]:
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):
        return {}
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        item.name: (position if item.kind is item.POSITIONAL_OR_KEYWORD else None, item.default)
        for position, item in enumerate(parameters)
        if item.kind in by_name and item.name != "task_description" and scan((item.default,), {}) is not None
    }


class Components(Mapping[str, dict[str, Any]]):
    """The unfinished components of an engine and the last ones that finished.

    Values are dicts with `type` ("task" or "block"), `future` (None where nobody holds it any more), `description`.
    """

    def __init__(self, live: dict[str, TaskFuture]) -> None:
        self._live = live
        self._recent: deque[tuple[str, Spec, str, ref[TaskFuture]]] = deque(maxlen=REMEMBERED)

    def finished(self, future: TaskFuture, state: str) -> None:
        """Remember one that has finished, without keeping its arguments and result."""
        self._recent.append((future.uid, future._spec, state, ref(future)))

    def recent(self) -> list[str]:
        """Uids of the remembered ones that have finished."""
        return [entry[0] for entry in self._recent]

    def __getitem__(self, uid: str) -> dict[str, Any]:
        future = self._live.get(uid)
        if future is not None:
            return _component(future._spec.kind, future, dict(future.description))
        for known, spec, state, held in reversed(self._recent):
            if known == uid:
                description: dict[str, Any] = {"uid": uid, "name": spec.name, "state": state}
                finished = held()
                if finished is not None:
                    description = dict(finished.description)
                return _component(spec.kind, finished, description)
        raise KeyError(uid)

    def __iter__(self) -> Iterator[str]:
        yield from self.recent()
        yield from list(self._live)

    def __len__(self) -> int:
        return len(self._recent) + len(self._live)


def _component(kind: str, future: TaskFuture | None, description: dict[str, Any]) -> dict[str, Any]:
    return {"type": "block" if kind == BLOCK else "task", "future": future, "description": description}
