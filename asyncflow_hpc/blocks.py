"""Which block the running code belongs to."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .futures import TaskFuture

__all__ = ["BlockScope", "current_scope"]


class BlockScope:
    """The body of a running block: what is called in it belongs to it and is cancelled with it.

    Attributes:
        future: of the block.
        parent: scope in which the block itself was called.
        members: futures of unfinished components called in it.
    """

    __slots__ = ("future", "members", "parent")

    def __init__(self, future: TaskFuture, parent: BlockScope | None) -> None:
        self.future = future
        self.parent = parent
        self.members: set[TaskFuture] = set()

    def enclosing(self) -> Iterator[TaskFuture]:
        """Walk over this block and those around it, innermost first."""
        scope: BlockScope | None = self
        while scope is not None:
            yield scope.future
            scope = scope.parent


current_scope: ContextVar[BlockScope | None] = ContextVar("asyncflow_hpc_block", default=None)
