"""What crosses to other processes by its name; they import this module, which is light."""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["VARIABLE", "OwnError"]

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="of nobody")


class OwnError(Exception):
    """An exception with a constructor and an attribute of its own."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
