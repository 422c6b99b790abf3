"""The decorators of an engine."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from .calls import checked_workflow, decorator, workflow
from .components import BLOCK, EXECUTABLE, FUNCTION, PROMPT
from .errors import UnknownBackendError, nearest

if TYPE_CHECKING:
    from .engine import WorkflowEngine
    from .lanes import Lane

__all__ = ["Decorators"]


class Decorators:
    """What an engine offers to make components of functions.

    Attributes:
        lanes: to the engine's backends, by their names.
        default_lane: to the default one.
    """

    lanes: dict[str, Lane]
    default_lane: Lane

    def function_task(self, func: Callable[..., Any] | None = None, **options: Any) -> Any:
        """Make a function a task that runs on a backend; its result is what the function returns.

        Args:
            func: async or not.
            service: it runs until it is cancelled, and its future resolves when it is ready.
            backend: name of the engine's backend that runs it, where it is not the default.
            capture_stdio: also hand back what it prints, as `future.task["stdout"]`.
            task_description: of all its calls; what the signature and the call say is merged over it.
        """
        return self._decorator(FUNCTION, func, **options)

    def executable_task(self, func: Callable[..., Any] | None = None, **options: Any) -> Any:
        """Make a task of the command that a function returns; its result is the command's standard output.

        Args:
            func: returns POSIX shell text, or a list of strings, which is an argv and never sees a shell.
            service, backend, capture_stdio, task_description: as for `function_task`.
        """
        return self._decorator(EXECUTABLE, func, **options)

    def prompt_task(self, func: Callable[..., Any] | None = None, **options: Any) -> Any:
        """Make a task of the prompt that a function returns, for a backend that answers prompts."""
        return self._decorator(PROMPT, func, **options)

    def block(self, func: Callable[..., Any] | None = None, **options: Any) -> Any:
        """Make a function a block: it runs in the driver, and the tasks that it calls are cancelled with it."""
        return self._decorator(BLOCK, func, **options)

    def _decorator(
        self,
        kind: str,
        func: Callable[..., Any] | None,
        *,
        service: bool = False,
        backend: str | None = None,
        capture_stdio: bool = False,
        task_description: dict[str, Any] | None = None,
    ) -> Any:
        if backend is not None and backend not in self.lanes:
            raise UnknownBackendError(f"this engine has no backend {backend!r}; {nearest(str(backend), self.lanes)}")
        lane = self.lanes[backend] if backend is not None else self.default_lane

        decorate = decorator(
            cast("WorkflowEngine", self),
            kind,
            lane,
            service=service,
            target=backend,
            capture_stdio=capture_stdio,
            task_description=task_description,
        )
        return decorate if func is None else decorate(func)

    @asynccontextmanager
    async def workflow_scope(self, workflow_id: str | None = None) -> AsyncIterator[str]:
        """Give all tasks that are called inside one `workflow_id`; yields it."""
        name = checked_workflow(workflow_id or f"wf-{uuid.uuid4().hex[:8]}")
        token = workflow.set(name)
        try:
            yield name
        finally:
            workflow.reset(token)
