"""What crosses to other processes by its name; they import this module, which is light."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, NoReturn

__all__ = ["ODD_ERRORS", "VARIABLE", "OwnError"]

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="of nobody")


class OwnError(Exception):
    """An exception with a constructor and an attribute of its own."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


class Falsy(Exception):
    """Takes itself for nothing."""

    def __bool__(self) -> bool:
        return False


class Undecided(Exception):
    """Is neither true nor false."""

    def __bool__(self) -> NoReturn:
        raise ValueError("neither")


class Speechless(Exception):
    """Has no text."""

    def __str__(self) -> NoReturn:
        raise ValueError("no words")

    __repr__ = __str__


class Closed(Exception):
    """Lets nothing be set."""

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(name)


class Misplaced(SyntaxError):
    """Says where it is in a way that no traceback can show."""

    def __init__(self) -> None:
        super().__init__("wrong", ("file", 1, 1, "text"))
        self.offset: Any = "third"

    def __reduce__(self) -> Any:
        return Misplaced, ()


class OwnStop(StopIteration):
    """A StopIteration without a text."""

    def __repr__(self) -> NoReturn:
        raise ValueError("no words")

    __str__ = __repr__


class OwnEnd(BaseException):
    """No Exception, and without a text."""

    def __repr__(self) -> NoReturn:
        raise ValueError("no words")

    __str__ = __repr__


ODD_ERRORS = (Falsy, Undecided, Speechless, Closed, Misplaced, OwnStop, OwnEnd)
"""Exceptions that do what none should; the last two no future can carry."""
