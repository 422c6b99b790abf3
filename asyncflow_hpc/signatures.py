"""What arguments a decorated function takes: a call that it would refuse is refused at once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from .errors import ArgumentError

__all__ = ["Signature"]

_LRU_CACHE = type(functools.lru_cache(len))


class Signature:
    """The parameters of a function, as far as they are known.

    Args:
        name: of the task or block, for messages.
        func: the function.
    """

    __slots__ = ("_func", "_least", "_most", "_name", "_signature")

    def __init__(self, name: str, func: Callable[..., Any]) -> None:
        self._name, self._func = name, func
        self._signature: inspect.Signature | None = None
        # How many positional arguments are enough and not too many; most calls need no closer look.
        self._least, self._most = 1, 0
        if isinstance(func, FunctionType) and not func.__code__.co_kwonlyargcount:
            self._most = func.__code__.co_argcount
            self._least = self._most - len(func.__defaults__ or ())

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Refuse a call with missing, unexpected or too many arguments.

        Raises:
            ArgumentError: it names the function and its signature.
        """
        if not kwargs and self._least <= len(args) <= self._most:
            return
        if self._signature is None:
            self._signature = _signature(self._func) or inspect.Signature(_ANYTHING)
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentError(f"{self._name}{_shown(self._signature)} cannot be called so: {error}") from None


_ANYTHING = [
    inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
    inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
]


def _signature(func: Any) -> inspect.Signature | None:
    stripped = _stripped(func)
    try:
        return None if stripped is None else inspect.signature(stripped)
    except (TypeError, ValueError):
        return None


def _shown(signature: inspect.Signature) -> str:
    try:
        return str(signature)
    except Exception:
        # It shows defaults, which are the user's.
        return "(...)"


def _stripped(func: Any) -> Any:
    """Return something with the parameters that a call really meets, or None where they are not known.

    A wrapper may claim those of what it wraps, and take others.
    """
    if isinstance(func, FunctionType):
        plain = FunctionType(func.__code__, {}, func.__name__, func.__defaults__, func.__closure__)
        plain.__kwdefaults__, plain.__annotations__ = func.__kwdefaults__, dict(func.__annotations__)
        return plain
    if isinstance(func, MethodType):
        inner = _stripped(func.__func__)
        return None if inner is None else MethodType(inner, func.__self__)
    if isinstance(func, functools.partial):
        inner = _stripped(func.func)
        return None if inner is None else functools.partial(inner, *func.args, **func.keywords)
    if isinstance(func, _LRU_CACHE):
        return _stripped(func.__wrapped__)
    if isinstance(func, BuiltinFunctionType):
        return func
    if isinstance(func, type):
        cls: Any = func
        made_by_init = type(cls).__call__ is type.__call__ and cls.__new__ is object.__new__
        return MethodType(_stripped(cls.__init__), cls) if made_by_init and type(cls.__init__) is FunctionType else None
    call: Any = type(func).__call__
    return MethodType(_stripped(call), func) if isinstance(call, FunctionType) else None
