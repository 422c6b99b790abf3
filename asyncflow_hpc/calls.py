"""From a call of a decorated function to a component with a future."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .arguments import Found, scan
from .blocks import BlockScope, current_scope
from .command import exact
from .components import BLOCK, FUNCTION, NO_FILES, Spec
from .data import InputFile, check_files
from .errors import ArgumentError, CycleError, DescriptionTypeError, EngineClosedError, is_plain_line
from .futures import ServiceFuture, TaskFuture
from .linking import check_producers
from .masking import masked_url

if TYPE_CHECKING:
    from .engine import WorkflowEngine
    from .lanes import Lane
    from .task import Task

__all__ = ["checked_workflow", "decorator", "workflow"]

workflow: contextvars.ContextVar[str | None] = contextvars.ContextVar("asyncflow_hpc_workflow", default=None)


def decorator(
    engine: WorkflowEngine,
    kind: str,
    lane: Lane,
    *,
    service: bool,
    target: str | None,
    capture_stdio: bool,
    task_description: dict[str, Any] | None,
) -> Callable[[Callable[..., Any]], Callable[..., TaskFuture]]:
    """Make a decorator that turns functions into components of an engine."""

    def decorate(func: Callable[..., Any]) -> Callable[..., TaskFuture]:
        spec = Spec(
            engine,
            kind,
            func,
            lane,
            service=service,
            target=target,
            capture_stdio=capture_stdio,
            task_description=task_description,
        )

        @functools.wraps(func)
        def call(*args: Any, **kwargs: Any) -> TaskFuture:
            if engine.closing:
                raise EngineClosedError(f"engine {engine.uid} was shut down; '{spec.name}' cannot be called any more")
            return new_component(spec, next(engine.numbers), args, kwargs)

        return call

    return decorate


def new_component(spec: Spec, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskFuture:
    """Make the component that one call of a decorated function stands for, and hand it to the engine.

    Args:
        spec: of the function.
        number: of the call.
        args, kwargs: of the call; `task_description` and `workflow_id` are taken out.

    Raises:
        ArgumentError, TaskDescriptionError, UnsupportedTaskError, CycleError, StagingError: nothing was submitted.
    """
    engine, kind = spec.engine, spec.kind
    for name, (position, default) in spec.file_defaults.items():
        if name not in kwargs and (position is None or position >= len(args)):
            kwargs[name] = default
    task = spec.template.copy()
    task["args"], task["kwargs"], task["workflow_id"] = args, kwargs, workflow.get()
    task["task_backend_specific_kwargs"] = dict(spec.defaults)
    found = None
    if kwargs:
        _take_options(spec, task, kwargs)
    if spec.unchecked and task["description"] is spec.description:
        spec.check_call()
    spec.signature.check(args, kwargs)
    if args or kwargs:
        found = scan(args, kwargs, None if kind == BLOCK else spec.name)
    task["metadata"] = _metadata(found)
    if found is not None and kind != BLOCK and (found.inputs or found.outputs):
        check_files(spec.name, found.inputs, found.outputs)
        check_producers(spec.name, found)
        spec.lane.warn_of_files(spec.name, found)
        task["outputs"] = found.outputs
    scope = current_scope.get()
    if scope is not None:
        if scope.future.cancelled():
            raise asyncio.CancelledError(f"'{spec.name}' was called in block {scope.future.uid}, which was cancelled")
        if found is not None:
            _refuse_cycle(engine, spec, scope, found)
    future: TaskFuture = (ServiceFuture if spec.is_service else TaskFuture)(loop=engine.loop)
    future.description = task
    if kind == BLOCK:
        task["uid"] = future.uid = f"block.{number:06d}"
        future.block = task
    else:
        task["uid"] = future.uid = f"task.{number:06d}"
        future.task = task
    future.state = "PENDING"
    future._node = future.uid
    future._spec = spec
    future._found = found
    future._submitted = False
    future._cancelling = False
    future._brief = None
    future._scope = scope
    if scope is not None:
        scope.members.add(future)
    # Bodies run in the driver, in the context of their caller; functions only where the backend carries it to them.
    future._context = None
    if kind != FUNCTION:
        future._context = contextvars.copy_context()
    elif spec.lane.carries_context:
        context = contextvars.copy_context()
        if len(context):
            task["context"] = context
    engine.admit(future, found.futures if found is not None else ())
    return future


def _take_options(spec: Spec, task: Task, kwargs: dict[str, Any]) -> None:
    workflow_id = kwargs.pop("workflow_id", None)
    if workflow_id is not None:
        task["workflow_id"] = checked_workflow(workflow_id)
    overrides = kwargs.pop("task_description", None)
    if overrides is None:
        return
    if not isinstance(overrides, dict):
        raise DescriptionTypeError(f"task_description of '{spec.name}' must be a dict, not {overrides!r}")
    native = task["task_backend_specific_kwargs"]
    native.update(overrides)
    task["description"] = spec.check(native)
    if spec.kind != BLOCK:
        spec.lane.refuse_unrunnable(task["description"])


def checked_workflow(workflow_id: object) -> str:
    """Return a `workflow_id` as text; a script may number its workflows.

    Raises:
        ArgumentError: it is neither text nor a number.
    """
    if isinstance(workflow_id, int):
        return str(workflow_id)
    if not isinstance(workflow_id, str):
        raise ArgumentError(f"workflow_id must be text, not {workflow_id!r}")
    if not is_plain_line(workflow_id):
        raise ArgumentError(f"workflow_id must be text of one line without control characters, not {workflow_id!r}")
    return exact(workflow_id)


def _metadata(found: Found | None) -> Any:
    if found is None:
        return NO_FILES.copy()
    return {
        # Names only: a task's own dict would keep the results of all before it alive.
        "dependencies": [future.brief for future in found.futures],
        "input_files": [_place_of(item) for item in found.inputs],
        "output_files": [item.filename for item in found.outputs],
    }


def _place_of(item: InputFile) -> str:
    return item.other_task_file or (masked_url(item.remote_url) if item.remote_url else str(item.filepath))


def _refuse_cycle(engine: WorkflowEngine, spec: Spec, scope: BlockScope, found: Found) -> None:
    # Looked for from the blocks on: few things wait for a block that runs, and many may come before a task in it.
    wanted = {future._node: future for future in found.futures if future.engine is engine}
    for block in scope.enclosing():
        if block.engine is not engine:
            continue
        for uid in itertools.chain([block.uid], engine.waiting_for(block)):
            if uid in wanted:
                raise CycleError(
                    f"'{spec.name}' is called in block '{block._spec.name}' ({block.uid}) and waits for"
                    f" {wanted[uid].uid} '{wanted[uid]._spec.name}', which ends only after that block"
                )
