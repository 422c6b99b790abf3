# ruff: noqa: RUF012
"""Values of a script's own classes: `own_classes.py`, or `own_classes.py MODE DIRECTORY` through an engine.

Prints, for each case, what the script sees of the result. Without an engine the functions are just called.
"""

from __future__ import annotations

import abc
import asyncio
import collections
import contextlib
import dataclasses
import datetime
import enum
import functools
import json
import sys
import types
import typing
import weakref
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")
UserId = typing.NewType("UserId", int)
Parameters = typing.ParamSpec("Parameters")


class Status(enum.Enum):
    OK = 1
    FINE = 1
    BAD = 2

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return cls.BAD if value == "?" else None


class Planet(enum.Enum):
    EARTH = (5.9, 6.3)
    MARS = (0.6, 3.3)

    def __init__(self, mass: float, radius: float) -> None:
        self.mass = mass
        self.radius = radius

    @property
    def gravity(self) -> float:
        return self.mass / self.radius**2


class Made(enum.Enum):
    def __new__(cls, value: int, extra: str) -> Any:
        made = object.__new__(cls)
        made._value_ = value
        made.extra = extra
        return made

    A = (1, "x")


class Mode(enum.Flag):
    R = enum.auto()
    W = enum.auto()
    X = enum.auto()
    RW = R | W


class Bits(enum.IntFlag):
    A = 1
    B = 2


class Number(enum.IntEnum):
    ONE = 1


class Word(str, enum.Enum):
    A = "a"

    def shout(self) -> str:
        return self.value.upper()


class Day(datetime.date, enum.Enum):
    FIRST = 2020, 1, 2


class Unhashable(enum.Enum):
    A = [1]


class Data:
    def __init__(self, value: int) -> None:
        self.twice = 2 * value


class OfData(Data, enum.Enum):
    FOUR = 4


@dataclasses.dataclass
class Plain:
    x: int
    y: list[Any] = dataclasses.field(default_factory=list)
    k: typing.ClassVar[int] = 3


@dataclasses.dataclass(slots=True)
class Slots:
    x: int
    y: int = 0


@dataclasses.dataclass(slots=True)
class MoreSlots(Slots):
    z: int = 9


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Frozen:
    x: int


class Private:
    __slots__ = ("__dict__", "__hidden", "__weakref__")

    def __init__(self) -> None:
        self.__hidden = 2
        self.shown = 1

    def hidden(self) -> int:
        return self.__hidden


class OneSlot:
    __slots__ = "one"


class TwoSlots(OneSlot):
    __slots__ = {"two": "documented"}

    def __init__(self) -> None:
        self.one, self.two = 1, 2


class Pair(NamedTuple):
    a: int
    b: int = 2


if sys.version_info >= (3, 11):

    class GenericPair(NamedTuple, Generic[T]):
        a: T
else:
    GenericPair = Pair


Point = collections.namedtuple("Point", "x y")
Other = collections.namedtuple("AnotherName", "x y")  # type: ignore[name-match]


class Row(typing.TypedDict):
    a: int


class Outer:
    class Inner:
        value = 1

    class Kind(enum.Enum):
        A = "a"


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self) -> int: ...


class Square(Shape):
    def area(self) -> int:
        return 4


class Adopted: ...


Shape.register(Adopted)


@typing.runtime_checkable
class HasArea(typing.Protocol):
    def area(self) -> int: ...


class Box(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value


class Registry(type):
    names: list[str] = []

    def __new__(mcs, name: str, bases: Any, namespace: Any) -> Any:
        made = super().__new__(mcs, name, bases, namespace)
        mcs.names.append(namespace["tag"])
        return made

    def __setattr__(cls, name: str, value: Any) -> None:
        raise TypeError("a constant")


class Registered(metaclass=Registry):
    tag = "r"


class Plugin:
    names: list[str] = []

    def __init_subclass__(cls, *, tag: str) -> None:
        Plugin.names.append(tag)


class First(Plugin, tag="first"): ...


class Named:
    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else self.name


class Described:
    field = Named()

    @functools.cached_property
    def cached(self) -> int:
        return 5

    @functools.lru_cache  # noqa: B019
    def doubled(self, value: int) -> int:
        return 2 * value

    def two(self, a: int, b: int) -> tuple[int, int]:
        return a, b

    one = functools.partialmethod(two, 1)

    @functools.singledispatchmethod
    def kind(self, value: object) -> str:
        return "object"

    @kind.register
    def _(self, value: int) -> str:
        return "int"


class Single:
    made: Any = None

    def __new__(cls) -> Any:
        cls.made = cls.made or super().__new__(cls)
        return cls.made

    def __reduce__(self) -> Any:
        return Single, ()


class SingleOfAll(Single): ...


SINGLE = Single()


class OwnError(Exception):
    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(code)
        self.code, self.why = code, why

    def __reduce__(self) -> Any:
        return functools.partial(OwnError, why=self.why), (self.code,)


class Table(dict[str, int]): ...


def local() -> Any:
    class Local:
        value = 1

    return Local


Local = local()


def helper(x: Any = 0) -> Any:
    return x


@functools.lru_cache(maxsize=64)
def fibonacci(n: int) -> int:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


@functools.cache
def kept(n: int) -> list[int]:
    return [n]


@functools.singledispatch
def kind(value: object) -> str:
    return "object"


@kind.register
def _(value: int) -> str:
    return "int"


@kind.register(Plain)
def plain_kind(value: Plain) -> str:
    return "Plain of " + kind(value.x)


def logged(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


@logged
def wrapped(x: Any) -> Any:
    return x


class Adder:
    def __init__(self, function: Any) -> None:
        self.function = function
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any) -> Any:
        return self.function(*args) + 1


@Adder
def one_more(x: int) -> int:
    return x


@contextlib.contextmanager
def four() -> Any:
    yield 4


def in_context() -> int:
    with four() as value:
        return int(value)


def identical(*expected: Any) -> Any:
    return lambda result: [a is b for a, b in zip(result, expected, strict=True)]


def same(*expected: Any) -> Any:
    return lambda result: [a == b and type(a) is type(b) for a, b in zip(result, expected, strict=True)]


def of(*classes: Any) -> Any:
    return lambda result: [type(a) is b for a, b in zip(result, classes, strict=True)]


CASES: dict[str, tuple[Any, Any]] = {
    "enum": (
        lambda: [Status.OK, Status.FINE, Status(2), Status("?")],
        identical(Status.OK, Status.OK, *[Status.BAD] * 2),
    ),
    "enum in a dict": (lambda: {Status.OK: [Status.BAD]}, lambda result: result == {Status.OK: [Status.BAD]}),
    "names of an enum": (lambda: (list(Status.__members__), len(Status)), repr),
    "planet": (lambda: [*Planet, Planet.EARTH.mass, Planet.MARS.gravity], lambda r: (r[:2] == list(Planet), r[2:])),
    "enum with __new__": (lambda: [Made.A, Made.A.extra, Made(1)], lambda r: (r[0] is Made.A, r[1], r[2] is Made.A)),
    "flag": (
        lambda: [Mode.RW, Mode.R | Mode.X, Mode.RW & Mode.R, Mode(3)],
        lambda r: (r == [Mode.RW, Mode.R | Mode.X, Mode.R, Mode.RW], repr(r)),
    ),
    "int flag": (lambda: [Bits.A | Bits.B], same(Bits.A | Bits.B)),
    "int enum": (lambda: [Number.ONE, Number.ONE + 1], identical(Number.ONE, 2)),
    "str enum": (lambda: [Word.A, Word.A.shout()], lambda r: (r[0] is Word.A, r[1])),
    "date enum": (lambda: [Day.FIRST, Day.FIRST.year], lambda r: (r[0] is Day.FIRST, r[1])),
    "unhashable": (lambda: [Unhashable.A, Unhashable([1])], identical(Unhashable.A, Unhashable.A)),
    "enum of data": (lambda: [OfData.FOUR, OfData.FOUR.twice], lambda r: (r[0] is OfData.FOUR, r[1])),
    "dataclass": (lambda: [Plain(1, [Plain(2)])], same(Plain(1, [Plain(2)]))),
    "fields": (lambda: ([f.name for f in dataclasses.fields(Plain)], dataclasses.asdict(Plain(1)), Plain.k), repr),
    "slots": (lambda: [Slots(1, 2), MoreSlots(1)], same(Slots(1, 2), MoreSlots(1))),
    "has slots": (
        lambda: [hasattr(value, "__dict__") for value in (Slots(1), MoreSlots(1), TwoSlots(), Private())],
        repr,
    ),
    "frozen": (lambda: [Frozen(1)], lambda r: (r[0] < Frozen(2), {r[0]: 5}[Frozen(1)])),
    "private slots": (lambda: [Private()], lambda r: (type(r[0]) is Private, r[0].hidden(), r[0].shown)),
    "weakly": (lambda: weakref.ref(Private())() is None, repr),
    "slots of two": (lambda: [TwoSlots()], lambda r: (type(r[0]) is TwoSlots, r[0].one, r[0].two)),
    "named tuples": (lambda: [Pair(1), GenericPair(1), Point(1, 2), Other(1, 2)], of(Pair, GenericPair, Point, Other)),
    "typed dict": (lambda: [Row, Row(a=1)], lambda r: (r[0] is Row, r[1])),
    "nested": (lambda: [Outer.Inner(), Outer.Kind.A], lambda r: (type(r[0]) is Outer.Inner, r[1] is Outer.Kind.A)),
    "names": (lambda: [Outer.Inner.__qualname__, helper.__qualname__, Local.__qualname__], repr),
    "abstract": (
        lambda: [Square(), isinstance(Adopted(), Shape)],
        lambda r: (isinstance(r[0], Shape), r[0].area(), r[1]),
    ),
    "abstract stays so": (lambda: sorted(Shape.__abstractmethods__), repr),
    "protocol": (lambda: [HasArea, isinstance(Square(), HasArea)], identical(HasArea, True)),
    "generic": (lambda: [Box[int](3), Box[int]], lambda r: (type(r[0]) is Box, r[1] == Box[int])),
    "metaclass": (
        lambda: [Registered, Registered(), list(Registry.names)],
        lambda r: (r[0] is Registered, type(r[1]) is Registered, r[2], Registry.names),
    ),
    "subclasses": (lambda: [First(), list(Plugin.names)], lambda r: (type(r[0]) is First, r[1], Plugin.names)),
    "descriptors": (
        lambda: (
            Described.field.name,
            Described().cached,
            Described().doubled(2),
            Described().one(2),
            Described().kind(1),
            Described().kind(""),
        ),
        repr,
    ),
    "types": (
        lambda: [UserId(3), UserId, UserId.__supertype__, Parameters.__name__],
        lambda r: (r[0], r[1] is UserId, r[2:]),
    ),
    "described": (lambda: [Described()], of(Described)),
    "single": (lambda: [Single(), Single], identical(SINGLE, Single)),
    "no single": (lambda: SingleOfAll.__mro__, identical(*SingleOfAll.__mro__)),
    "an error": (lambda: [OwnError(3, why="w")], lambda r: (type(r[0]) is OwnError, r[0].why, r[0].code)),
    "containers": (
        lambda: [collections.defaultdict(Plain), Table(a=1), functools.partial(helper, 1)],
        lambda r: (r[0].default_factory is Plain, type(r[1]) is Table, r[2].func is helper),
    ),
    "functions": (
        lambda: [helper, kept, kind, wrapped, Private.hidden],
        identical(helper, kept, kind, wrapped, Private.hidden),
    ),
    "bound": (lambda: [Private().hidden], lambda r: (r[0](), type(r[0].__self__) is Private)),
    "local": (lambda: [Local, Local()], lambda r: (r[0] is Local, type(r[1]) is Local)),
    "made there": (lambda: [local().value, type("Point", (), {"z": 1})], lambda r: (r[0], r[1] is Point, r[1].z)),
    "wrappers": (
        lambda: [
            fibonacci(20),
            fibonacci.cache_info().maxsize,
            kept(3) is kept(3),
            kind(1),
            kind(""),
            kind(Plain(1)),
            wrapped(3),
            one_more(1),
            in_context(),
        ],
        repr,
    ),
    # Tasks that are no plain functions.
    "lru_cache": (functools.partial(fibonacci, 10), repr),
    "cached": (kept, repr),
    "dispatched": (functools.partial(kind, Plain(1)), repr),
    "wrapped": (functools.partial(wrapped, 3), repr),
    "callable": (functools.partial(one_more, 3), repr),
    "method": (Square().area, repr),
    "class": (functools.partial(Plain, 1), lambda r: r == Plain(1)),
    "class method": (functools.partial(Described().kind, 1), repr),
}

try:
    import attrs
    import pydantic
except ImportError:
    pass
else:

    class Model(pydantic.BaseModel):
        a: int
        b: list[int] = []

    class GenericModel(pydantic.BaseModel, Generic[T]):
        value: T

    @attrs.define
    class Attrs:
        a: int

    @attrs.frozen
    class FrozenAttrs:
        a: int

    CASES |= {
        "models": (
            lambda: [Model(a=1, b=[2]), Attrs(1), FrozenAttrs(1)],
            same(Model(a=1, b=[2]), Attrs(1), FrozenAttrs(1)),
        ),
        "generic model": (lambda: [GenericModel[int](value=1)], of(GenericModel[int])),
        "model made": (lambda: Model.model_validate({"a": "7"}).model_dump(), repr),
    }


class Counter:
    made = 0
    seen: list[int] = []

    def __init__(self) -> None:
        Counter.made += 1
        Counter.seen.append(self.made)
        self.number = Counter.made


def fail() -> None:
    raise OwnError(7, why="here")


def describe_failure(error: BaseException) -> Any:
    return isinstance(error, OwnError), error.args, getattr(error, "why", None)


def plainly() -> dict[str, Any]:
    CASES["cached"] = functools.partial(kept, 3), repr
    seen = {name: show(make()) for name, (make, show) in CASES.items()}
    try:
        fail()
    except OwnError as error:
        seen["failure"] = describe_failure(error)
    return seen


async def through_engine(mode: str, directory: Path) -> dict[str, Any]:
    from asyncflow_hpc import LocalExecutionBackend, WorkflowEngine

    CASES["cached"] = functools.partial(kept, 3), repr
    log = directory / "log"
    where: dict[str, Any] = {"work_dir": directory, "uid": "the.session"}
    if mode == "resume":
        where = {"resume": directory / "the.session"}
    elif mode == "cache":
        where = {"work_dir": directory, "cache": directory / "cache"}
    backend = LocalExecutionBackend(cores=2, scripted=mode == "scripted")
    async with await WorkflowEngine.create(backend=backend, **where) as flow:

        @flow.function_task
        async def failing() -> None:
            fail()

        @flow.function_task
        async def counting() -> Counter:
            return Counter()

        tasks = {}
        for name, (make, _) in CASES.items():
            # The function alone, so that no case can spoil another.
            function = make if not isinstance(make, types.LambdaType) else _noted(log, name, make)
            tasks[name] = flow.function_task(function)()
        Counter.made = 20
        counters = [counting() for _ in range(3)]
        seen = {}
        for name, task in tasks.items():
            try:
                seen[name] = CASES[name][1](await task)
            except Exception as error:
                seen[name] = f"{type(error).__name__}: {error}"
        try:
            await failing()
        except Exception as error:
            seen["failure"] = describe_failure(error)
        made = await asyncio.gather(*counters)
        assert [type(each) is Counter and each.number for each in made] == [21] * 3
        assert (Counter.made, Counter.seen) == (20, []), "workers change nothing here"
    return seen


def _noted(log: Path, name: str, make: Any) -> Any:
    def function() -> Any:
        with log.open("a") as stream:
            print(name, file=stream)
        return make()

    return function


if __name__ == "__main__":
    found = plainly() if len(sys.argv) == 1 else asyncio.run(through_engine(sys.argv[1], Path(sys.argv[2])))
    print(json.dumps({name: repr(value) for name, value in found.items()}, indent=1))
