"""What the code of a function does, apart from how its author has named and laid out things."""

from __future__ import annotations

import dis
import functools
import itertools
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from .hashing import hashed

__all__ = ["Reading", "read_code"]

# They do nothing, or their order follows from the names of variables.
_SILENT = frozenset({"CACHE", "EXTENDED_ARG", "MAKE_CELL", "COPY_FREE_VARS", "LOAD_CLOSURE", "RESUME", "NOT_TAKEN"})

# Of the namespace of a module; in the body of a class, of that of the class first.
_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})

_JUMPS = frozenset({*dis.hasjrel, *dis.hasjabs})
_CONSTANTS = frozenset(dis.hasconst)
_CELLS = frozenset(dis.hasfree)
_NAMES = frozenset(dis.hasname)
_LOCALS = frozenset(dis.haslocal)

# Arguments and the kind of function; neither docstrings nor imports from the future.
_FLAGS = 0x3AF
_FUNCTION = 0x1

# What the compiler writes into the body of a class.
_OF_CLASSES = frozenset({"__doc__", "__firstlineno__", "__static_attributes__"})

# Builtins to which the names of variables are known.
_LOOKING = frozenset({"locals", "vars", "dir", "eval", "exec", "globals", "breakpoint"})

# What looks at docstrings, and at annotations of functions; those of classes always count.
_ASKING = {
    **dict.fromkeys(["__doc__", "getdoc", "model_json_schema"], "docstrings"),
    **dict.fromkeys(["__annotations__", "__annotate__", "get_annotations", "get_type_hints"], "annotations"),
    **dict.fromkeys(["signature", "__signature__", "getfullargspec"], "annotations"),
    **dict.fromkeys(["__code__", "_getframe", "currentframe"], "names"),
}


class Reading(NamedTuple):
    """What was read in the code of a function.

    Attributes:
        digest: of what it does; globals and free variables are numbered.
        globals: names of the globals that it reads, by their numbers.
        free: names of the variables of its closure, by their numbers.
        asks: what counts beside: "names" of variables and globals, if it may look at them; "cells": names of variables
            of closures, if it changes one that other functions may read; "docstrings"; "annotations" of functions.
    """

    digest: str
    globals: tuple[str, ...]
    free: tuple[str, ...]
    asks: frozenset[str]


@functools.lru_cache(maxsize=4096)
def read_code(code: types.CodeType) -> Reading:
    """Read the code of a function; neither lines nor comments, docstrings nor names of variables count."""
    reader = _Reader()
    reader.read(code, reader.number_free)
    for name in code.co_freevars:
        reader.number_free(name)
    digest = hashed(repr(reader.found).encode())
    return Reading(digest, tuple(reader.globals), tuple(reader.free), frozenset(reader.asks))


class _Reader:
    def __init__(self) -> None:
        self.found: list[Any] = []
        self.globals: dict[str, int] = {}
        self.free: dict[str, int] = {}
        self.asks: set[str] = set()
        self._numbers = itertools.count()

    def number_free(self, name: str) -> int:
        """Number a variable from around the whole function."""
        return self.free.setdefault(name, -1 - len(self.free))

    def read(self, code: types.CodeType, outer: Callable[[str], int]) -> None:
        """Read a function, a comprehension, or the body of a class.

        Args:
            outer: numbers variables of what is around it.
        """
        own: dict[str, int] = {}
        is_class = not code.co_flags & _FUNCTION

        def number(name: str) -> int:
            if name in code.co_freevars:
                return outer(name)
            return own.setdefault(name, next(self._numbers))

        count = code.co_argcount + code.co_kwonlyargcount
        arguments = code.co_varnames[: count + bool(code.co_flags & 0x4) + bool(code.co_flags & 0x8)]
        for name in arguments:
            number(name)
        kinds = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _FLAGS
        self.found += [arguments, kinds, getattr(code, "co_exceptiontable", b"")]
        if not _LOOKING.isdisjoint(code.co_names):
            self.asks.add("names")
            self.found += [code.co_varnames, code.co_cellvars, code.co_freevars]
        instructions = list(dis.get_instructions(code))
        silent = {item.offset for item in instructions if item.opname in _SILENT}
        for before, item in itertools.pairwise(instructions):
            if (
                is_class
                and item.opname == "STORE_NAME"
                and item.argval in _OF_CLASSES
                and before.opname == "LOAD_CONST"
            ):
                silent |= {before.offset, item.offset}
        # Where a jump leads to: the number of what is written next there.
        places: dict[int, int] = {}
        place = 0
        for item in instructions:
            places[item.offset] = place
            place += item.offset not in silent
        for item in instructions:
            if item.offset not in silent:
                self._read_one(code, item, number, places)

    def _read_one(
        self, code: types.CodeType, item: dis.Instruction, number: Callable[[str], int], places: dict[int, int]
    ) -> None:
        operation, value, word = item.opcode, item.argval, item.opname
        is_class = not code.co_flags & _FUNCTION
        written: Any = item.arg
        if isinstance(value, str) and value in _ASKING:
            self.asks.add(_ASKING[value])
        if operation in _CONSTANTS:
            if word != "LOAD_SMALL_INT":
                # As some versions do not look them up for all of these operations.
                value = code.co_consts[item.arg or 0]
            if isinstance(value, types.CodeType):
                self.found.append(word)
                self.read(value, number)
                return
            written = _constant(value)
        elif operation in _JUMPS:
            written = places.get(value, value)
        elif operation in _CELLS:
            written = number(value), value if is_class else ""
            if written[0] < 0 and word in ("STORE_DEREF", "DELETE_DEREF"):
                self.asks.add("cells")
        elif operation in _LOCALS:
            if word == "LOAD_FAST" and (value in code.co_cellvars or value in code.co_freevars):
                # Since 3.13, in place of LOAD_CLOSURE.
                return
            written = tuple(map(number, value)) if isinstance(value, tuple) else number(value)
        elif operation in _NAMES:
            written = value
            if word in _GLOBAL:
                written = self.globals.setdefault(value, len(self.globals)), value if is_class else ""
        elif isinstance(value, str):
            # Such as the operator of a comparison.
            written = value
        self.found.append((word, written))


def _constant(value: Any) -> Any:
    if isinstance(value, tuple):
        return ["tuple", *map(_constant, value)]
    if isinstance(value, frozenset):
        return ["frozenset", *sorted(repr(_constant(item)) for item in value)]
    return type(value).__name__, hex(value) if isinstance(value, int) else repr(value)
