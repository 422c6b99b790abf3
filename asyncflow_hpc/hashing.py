"""Digests of graphs of objects: one for each object, in time that grows with the number of objects and not of paths.

What an object is made of is another matter; `keys` and `code_keys` list the parts of each kind of object.
"""

from __future__ import annotations

import marshal
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Any

__all__ = [
    "ATOMS",
    "Begun",
    "Content",
    "TooLarge",
    "Unkeyable",
    "Unordered",
    "Walk",
    "hashed",
    "joined",
    "keyed",
    "plain",
]

ATOMS = frozenset({int, float, str, bytes, bool, type(None), complex})
"""Types of values that hold no others and never change."""

_TEXTS = frozenset({str, bytes})
_PLAIN_CONTAINERS = frozenset({tuple, list, dict})

SIZE = 16

# Longer values count by their digests, which are made once for each object.
_SHORT = 64

# The format of marshal in which equal values have equal bytes: the later ones write an object once.
_FORMAT = 2

# First bytes of what stands for a part; none of them begins a marshalled value.
_DIGEST, _ABOVE, _BESIDE = b"\x01", b"\x02", b"\x03"


class Unkeyable(Exception):
    """A value has no digest; the message is a clause that gives the reason."""


class TooLarge(Exception):
    """A walk has used up its budget."""


class Budget:
    """How many objects walks may meet together; 64 bytes count as one."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, cost: int) -> None:
        """Use up some of it.

        Raises:
            TooLarge: it was not enough; nothing is left then.
        """
        self.left = max(self.left - cost, -1)
        if self.left < 0:
            raise TooLarge


class Content:
    """Stands for what a function or a class does, as opposed to its name."""

    __slots__ = ("of",)

    def __init__(self, of: Any) -> None:
        self.of = of


class Unordered:
    """Stands for values whose order does not count."""

    __slots__ = ("values",)

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values


def hashed(data: bytes) -> str:
    """Return the digest of bytes as text."""
    return blake2b(data, digest_size=SIZE).hexdigest()


def joined(parts: Iterable[str]) -> str:
    """Make one digest of several."""
    return hashed(" ".join(parts).encode())


def keyed(prefix: str, data: bytes) -> str:
    """Make one digest of another one and of the content of a value."""
    return hashed(prefix.encode() + data)


class Begun:
    """Makes many digests that begin alike: `Begun(prefix).keyed(data)` is `keyed(prefix, data)`, in half the time."""

    __slots__ = ("_hash",)

    def __init__(self, prefix: str) -> None:
        self._hash = blake2b(prefix.encode(), digest_size=SIZE)

    def keyed(self, data: bytes) -> str:
        """Make one digest of the beginning and of the content of a value."""
        copy = self._hash.copy()
        copy.update(data)
        return copy.hexdigest()


def plain(value: Any) -> bytes | None:
    """Return a tuple, list or dict as bytes; None if it holds anything but short atoms."""
    # Copied at once: the loop may go on to change it while this runs in a thread.
    value = value if type(value) is tuple else value.copy()
    items = [*value, *value.values()] if type(value) is dict else value
    kinds = set(map(type, items))
    if not kinds <= ATOMS:
        return None
    if not _TEXTS.isdisjoint(kinds) and max([len(item) for item in items if type(item) in _TEXTS]) > _SHORT:
        return None
    return marshal.dumps(value, _FORMAT)


class _Frame:
    """An object whose parts are being walked over.

    Attributes:
        low: the lowest depth of an object on the way to this one that a part of it refers back to.
        number: of the objects that were met before it and belong to no digest that is complete.
        passed: how many objects had been passed before it.
    """

    __slots__ = ("depth", "key", "low", "number", "ordered", "parts", "passed", "tokens")

    def __init__(self, key: Any, parts: Iterator[Any], depth: int, number: int, passed: int, ordered: bool) -> None:
        self.key = key
        self.parts = parts
        self.ordered = ordered
        self.tokens: list[bytes] = []
        self.depth = self.low = depth
        self.number = number
        self.passed = passed


class Walk:
    """Digests an object and all that it refers to.

    Equal objects have equal digests, whether or not they share parts. An object that refers back to one on the way to
    it (a cycle) has no digest of its own until that one is complete.

    Args:
        parts_of: lists the parts of an object; atoms, plain containers and `Unordered` are not asked for.
        budget: for what it may meet; None: any number of objects.
    """

    def __init__(self, parts_of: Callable[[Any], Iterable[Any]], budget: Budget | None = None) -> None:
        self._parts_of = parts_of
        self._budget = budget
        self._complete: dict[Any, bytes] = {}
        self._open: dict[Any, _Frame] = {}
        self._frames: list[_Frame] = []
        # Objects of cycles that are still open, in the order in which they were left: their places in it, and numbers.
        self._passed: dict[Any, tuple[int, int]] = {}
        self._order: list[Any] = []
        # Where in that order the objects begin that refer back to one depth, and that depth.
        self._starts: list[int] = []
        self._lows: list[int] = []
        self._count = 0
        # Ids stay their owners' as long as these live.
        self._kept: list[Any] = []

    def digest(self, root: Any) -> bytes:
        """Return the digest of an object.

        Raises:
            Unkeyable: some part of it has none.
            TooLarge: the budget is used up.
        """
        frames = self._frames
        token = self._token(root)
        while frames:
            frame = frames[-1]
            if token is not None:
                frame.tokens.append(token)
            for part in frame.parts:
                token = self._token(part)
                if token is None:
                    break
                frame.tokens.append(token)
            else:
                token = self._finish(frames.pop())
        assert token is not None
        return token

    def _token(self, part: Any) -> bytes | None:
        """Return what stands for a part; None if its own parts must be walked over first."""
        kind = type(part)
        if kind in ATOMS:
            if kind in _TEXTS and len(part) > _SHORT:
                return self._complete.get(id(part)) or self._short(id(part), part, part, kind.__name__.encode())
            return marshal.dumps(part, _FORMAT)
        key = (id(part.of),) if kind is Content else id(part)
        known = self._complete.get(key)
        if known is not None:
            return known
        if kind in _PLAIN_CONTAINERS:
            self._spend(len(part) // 8)
            data = plain(part)
            if data is not None:
                return data if len(data) <= _SHORT else self._short(key, part, data, b"")
        opened = self._open.get(key)
        if opened is not None:
            self._refer(opened.depth)
            return _ABOVE + marshal.dumps(len(self._frames) - opened.depth, _FORMAT)
        passed = self._passed.get(key)
        if passed is not None:
            place, number = passed
            low = self._lows[bisect_right(self._starts, place) - 1]
            self._refer(low)
            where = (len(self._frames) - low, number - self._frames[low].number)
            return _BESIDE + marshal.dumps(where, _FORMAT)
        self._spend(1)
        self._kept.append(part)
        parts, ordered = iter(self._parts(part, kind)), kind is not Unordered
        frame = _Frame(key, parts, len(self._frames), self._count, len(self._order), ordered)
        self._count += 1
        self._open[key] = frame
        self._frames.append(frame)
        return None

    def _parts(self, part: Any, kind: type) -> Iterable[Any]:
        # Copied at once: the loop may go on to change them while this runs in a thread.
        if kind is tuple or kind is list:
            return (kind.__name__, *part)
        if kind is dict:
            return ("dict", *(item for pair in tuple(part.items()) for item in pair))
        if kind is Unordered:
            return part.values  # type: ignore[no-any-return]
        return self._parts_of(part)

    def _short(self, key: Any, part: Any, data: str | bytes, kind: bytes) -> bytes:
        self._spend(len(data) // _SHORT)
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogatepass")
        made = self._complete[key] = _DIGEST + blake2b(kind + data, digest_size=SIZE).digest()
        self._kept.append(part)
        return made

    def _spend(self, cost: int) -> None:
        if self._budget is not None:
            self._budget.spend(cost)

    def _refer(self, depth: int) -> None:
        frame = self._frames[-1]
        frame.low = min(frame.low, depth)

    def _finish(self, frame: _Frame) -> bytes:
        del self._open[frame.key]
        if not frame.ordered:
            frame.tokens.sort()
        made = blake2b(b"".join(frame.tokens), digest_size=SIZE).digest()
        while self._starts and self._starts[-1] >= frame.passed:
            self._starts.pop()
            self._lows.pop()
        if frame.low < frame.depth:
            self._passed[frame.key] = len(self._order), frame.number
            self._order.append(frame.key)
            self._starts.append(frame.passed)
            self._lows.append(frame.low)
            self._refer(frame.low)
            return _DIGEST + made
        self._complete[frame.key] = _DIGEST + made
        for key in self._order[frame.passed :]:
            # From outside of the cycle, it is the same object of the same cycle.
            number = self._passed.pop(key)[1] - frame.number
            inner = blake2b(made + marshal.dumps(number, _FORMAT), digest_size=SIZE)
            self._complete[key] = _DIGEST + inner.digest()
        del self._order[frame.passed :]
        self._count = frame.number
        return _DIGEST + made
