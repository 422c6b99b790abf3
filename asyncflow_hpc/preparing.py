"""What an engine does itself: bodies that give commands and prompts, and the bodies of blocks."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .arguments import substitute
from .blocks import BlockScope, current_scope
from .command import argv_of, checked_command, exact
from .components import BLOCK, PROMPT
from .data import InputFile, OutputFile
from .errors import CommandError, EngineClosedError, UnsupportedTaskError
from .exec_limits import check_command
from .hidden import refuse_text
from .linking import link

if TYPE_CHECKING:
    from .engine import WorkflowEngine
    from .futures import TaskFuture
    from .task import Task

__all__ = ["Preparing"]


class Preparing:
    """Runs bodies on the engine's loop, each in the context of its caller."""

    def __init__(self, engine: WorkflowEngine) -> None:
        self._engine = engine
        self._bodies: dict[str, asyncio.Task[None]] = {}
        self._scopes: dict[str, BlockScope] = {}

    def fill_in(self, future: TaskFuture) -> bool:
        """Put values in the place of finished futures, and announce files; False if the component failed over it."""
        found = future._found
        if found is None:
            return True
        task = future.description
        try:
            if found.futures:
                nested = found.nested
                task["args"] = tuple([substitute(value, nested) for value in task["args"]])
                task["kwargs"] = {name: substitute(value, nested) for name, value in task["kwargs"].items()}
            if future._spec.kind != BLOCK:
                sources = [source.task for source in found.futures if source._spec.kind != BLOCK]
                link(future._spec.lane, sources, task, found.inputs, self._engine.implicit_data)
        except Exception as error:
            self._engine.handle_task_failure(task, future, error)
            return False
        future._found = None
        return True

    def start(self, future: TaskFuture) -> None:
        """Run the body of an executable task, a prompt task or a block."""
        task = future.description
        if future._spec.kind == BLOCK:
            future.state = "RUNNING"
            work: Any = self.run_block(future, future._spec.func, task["args"], task["kwargs"])
        else:
            work = self._prepare(future)
        context = future._context or contextvars.copy_context()
        body = context.run(self._engine.loop.create_task, work, name=future.uid)
        self._bodies[future.uid] = body
        body.add_done_callback(lambda _, uid=future.uid: self._bodies.pop(uid, None))  # type: ignore[misc]

    async def _prepare(self, future: TaskFuture) -> None:
        spec, task = future._spec, future.task
        try:
            value = await self._call(spec.func, spec.is_async, task["args"], task["kwargs"])
            if spec.kind == PROMPT:
                self._set_prompt(future, value)
            else:
                if isinstance(value, (list, tuple)):
                    value = [word.filename if isinstance(word, (InputFile, OutputFile)) else word for word in value]
                task["command"] = command = checked_command(spec.name, value)
                refuse_text(spec.name, command if isinstance(command, str) else " ".join(command))
                argv = argv_of(command, task["description"].shell)
                check_command(spec.name, argv, task["description"].environment)
                task["executable"], task["arguments"] = argv[0], argv[1:]
                if spec.lane.capabilities is None:
                    _fit_to_foreign(task, argv, spec.lane.takes_shell)
        except asyncio.CancelledError:
            # Raised by the body itself, unless the future was cancelled already.
            if not future.done():
                self._engine.handle_task_cancellation(task, future)
            raise
        except BaseException as error:
            self._failed(task, future, error)
        else:
            if not future.done():
                spec.lane.add(task)

    def _failed(self, description: Task, future: TaskFuture, error: BaseException) -> None:
        if self._engine.loop.is_closed():
            # The body is only being thrown away.
            raise error
        if not future.done() and self._engine.closing and isinstance(error, EngineClosedError):
            # It began too late, as others that are cancelled.
            self._engine.handle_task_cancellation(description, future)
        elif not future.done():
            self._engine.handle_task_failure(description, future, error)
        if isinstance(error, KeyboardInterrupt):
            raise error

    @staticmethod
    def _set_prompt(future: TaskFuture, value: object) -> None:
        spec = future._spec
        if not isinstance(value, str) or not value:
            raise CommandError(f"Prompt task '{spec.name}' must return a non-empty string prompt")
        if spec.lane.capabilities is not None and not spec.lane.capabilities.prompts:
            raise UnsupportedTaskError(
                f"backend '{spec.lane.name}' does not answer prompts, so it cannot run '{spec.name}';"
                " give the engine one that does and name it: @flow.prompt_task(backend=...)"
            )
        refuse_text(spec.name, value)
        future.task["prompt"] = exact(value)

    async def _call(
        self, func: Callable[..., Any], is_async: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if is_async:
            return await func(*args, **kwargs)
        context = contextvars.copy_context()
        result = await self._engine.loop.run_in_executor(
            None, functools.partial(context.run, _call_sync, func, args, kwargs)
        )
        return await result if asyncio.iscoroutine(result) else result

    async def run_block(
        self, future: TaskFuture, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Run a block's body and settle its future."""
        scope = BlockScope(future, future._scope)
        self._scopes[future.uid] = scope
        token = current_scope.set(scope)
        block = future.description
        try:
            result = await self._call(func, inspect.iscoroutinefunction(func), args, kwargs)
        except asyncio.CancelledError:
            # Either the block itself was cancelled, or its body waited for a member that was.
            if not future.done():
                self._engine.handle_task_cancellation(block, future)
            if self._is_being_cancelled():
                raise
        except BaseException as error:
            self._failed(block, future, error)
        else:
            if not future.done():
                self._engine.handle_task_success({"uid": block["uid"], "return_value": result}, future)
        finally:
            current_scope.reset(token)
            del self._scopes[future.uid]

    @staticmethod
    def _is_being_cancelled() -> bool:
        task = asyncio.current_task()
        asked = getattr(task, "cancelling", None)
        return asked is None or asked() > 0

    def stop(self, future: TaskFuture) -> list[TaskFuture]:
        """Stop a body, if it runs.

        Returns:
            The unfinished components that were called in it.
        """
        body = self._bodies.get(future.uid)
        if body is not None and body is not _current_task():
            body.cancel()
        scope = self._scopes.get(future.uid)
        return [member for member in scope.members if not member.done()] if scope is not None else []

    def cancel_all(self) -> list[asyncio.Task[None]]:
        """Stop all bodies; returns them, to wait for."""
        own = _current_task()
        bodies = [body for body in self._bodies.values() if body is not own]
        for body in bodies:
            body.cancel()
        return bodies


def _fit_to_foreign(task: Task, argv: list[str], takes_shell: bool) -> None:
    """Write a command so that a backend of radical.asyncflow or RHAPSODY does not change its meaning.

    Args:
        argv: that runs it.
        takes_shell: the backend joins words to text where `shell` is true; where nothing is said, it may be.
    """
    native, command = task["task_backend_specific_kwargs"], task["command"]
    shell = native.get("shell")
    if shell:
        if isinstance(shell, str):
            argv = argv_of(command, shell)
        text = command if shell is True and isinstance(command, str) else shlex.join(argv)
        task["executable"], task["arguments"] = text, []
    elif takes_shell:
        native["shell"] = False


def _call_sync(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return func(*args, **kwargs)
    except StopIteration as error:
        # No future can carry it.
        raise RuntimeError(f"{func.__name__} raised {error!r}") from error


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
