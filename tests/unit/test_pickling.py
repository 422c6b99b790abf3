"""Calls on their way to another process: as they are now, complete, and refused with a name where they cannot go."""

from __future__ import annotations

import collections
import functools
import gc
import math
import os
import pickle
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from asyncflow_hpc.backends.pickling import FunctionPickles, dump_arguments, dump_context, dump_value
from asyncflow_hpc.errors import SerializationError

# Like a script: a namespace that no other process can import.
SCRIPT = """
class Holder:
    value = 0

def helper(): return b
def read(): return a
def read_twice_removed(): return (helper(), a)
def default(x=0, *, y=0): return (x, y)
def with_builtin(): return len(repr(a))
def nested(): return [(lambda: (a, i))() for i in range(2)]
def recursive(n=2): return recursive(n - 1) if n else a
def ping(n=2): return pong(n - 1) if n else a
def pong(n): return ping(n) if n else b
def of_class(): return Holder.value
def of_module(): return math.sqrt(4) if math else a
def of_dynamic_module(): return module.value
def bound(): return get("key")
def make(cell):
    def closed(): return (cell, helper())
    return closed
def make_with_an_empty_cell():
    def closed():
        try: return later
        except NameError: return a
    if a == "never": later = 1
    return closed
closed = make(0)
empty = make_with_an_empty_cell()
"""
FUNCTIONS = """
    read read_twice_removed default with_builtin nested recursive ping of_class of_module of_dynamic_module bound closed
    empty
""".split()  # noqa: SIM905


def script(source: str = SCRIPT, **values: Any) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "a_script_of_a_user", **values}
    exec(source, namespace)
    return namespace


def outcome(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except (NameError, TypeError) as error:
        return type(error), str(error)


values = st.one_of(
    st.integers(-3, 3),
    st.integers(10**6, 10**6 + 2),
    st.text("xyz", max_size=2),
    st.none(),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.sampled_from("pq"), st.integers(0, 3), max_size=2),
    st.lists(st.integers(0, 3), max_size=2).map(lambda inner: (0, inner)),
)


class PicklesMachine(RuleBasedStateMachine):
    """A user changes what functions refer to between calls; a worker keeps what has a number, as the real one does."""

    @initialize()
    def start(self) -> None:
        self.table: dict[str, Any] = {}
        module = types.ModuleType("made_while_running")
        module.value = 0  # type: ignore[attr-defined]
        self.script = script(a=0, b=0, math=math, get=self.table.get, module=module)
        self.pickles = FunctionPickles()
        self.kept: dict[int, Callable[[], Any]] = {}
        self.sent: dict[int, bytes] = {}

    @rule(name=st.sampled_from(["a", "b"]), value=values)
    def rebind(self, name: str, value: Any) -> None:
        self.script[name] = value

    @rule(name=st.sampled_from(["a", "b"]))
    def change_in_place(self, name: str) -> None:
        value = self.script[name]
        if isinstance(value, tuple):
            value = value[1]
        if isinstance(value, list):
            value.append(9)
        elif isinstance(value, dict):
            value["new"] = len(value)

    @rule(value=values)
    def close_over(self, value: Any) -> None:
        self.script["closed"].__closure__[0].cell_contents = value

    @rule(x=values, y=values)
    def change_defaults(self, x: Any, y: Any) -> None:
        self.script["default"].__defaults__ = (x,)
        self.script["default"].__kwdefaults__ = {"y": y}

    @rule(value=st.integers(0, 3))
    def change_what_is_reached_through_something(self, value: int) -> None:
        self.script["Holder"].value = value
        self.script["module"].value = value
        self.table["key"] = value

    @rule(body=st.sampled_from(["return a", "return b", "return (a, b)"]))
    def define_again(self, body: str) -> None:
        exec(f"def helper(): {body}", self.script)

    @rule(body=st.sampled_from(["return a", "return b", "return -1", "return -2"]))
    def reload_in_place(self, body: str) -> None:
        """As the autoreload of a notebook does."""
        for name in ("helper", "read"):
            again = script(f"def {name}(): {body}")[name]
            self.script[name].__code__ = again.__code__

    @rule(shadow=st.booleans())
    def shadow_a_builtin(self, shadow: bool) -> None:
        if shadow:
            self.script["len"] = script("def len(x): return 'shadowed'")["len"]
        else:
            self.script.pop("len", None)

    @rule(module=st.sampled_from([math, None]))
    def lose_a_module(self, module: Any) -> None:
        self.script["math"] = module

    @invariant()
    def the_worker_sees_what_the_driver_sees(self) -> None:
        if not hasattr(self, "pickles"):
            return
        for name in FUNCTIONS:
            function = self.script[name]
            number, data = self.pickles.get(name, function)
            if number:
                assert self.sent.setdefault(number, data) == data, "one number, one pickle"
                if number not in self.kept:
                    self.kept[number] = pickle.loads(data)
            there = self.kept[number] if number else pickle.loads(data)
            assert outcome(there) == outcome(function), name


TestPickles = PicklesMachine.TestCase
TestPickles.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)


@pytest.mark.parametrize(
    "name", ["read", "read_twice_removed", "default", "with_builtin", "nested", "recursive", "ping"]
)
def test_a_function_is_pickled_once_while_nothing_changes(name: str) -> None:
    namespace, pickles = script(a=1, b="b"), FunctionPickles()
    number, data = pickles.get("step", namespace[name])
    assert number > 0
    for _ in range(3):
        again = pickles.get("step", namespace[name])
        assert again[0] == number and again[1] is data


def test_each_function_has_a_number_of_its_own() -> None:
    namespace, pickles = script(a=1, b=2), FunctionPickles()
    names = ["read", "nested", "with_builtin", "closed", "helper"]
    numbers = [pickles.get(name, namespace[name])[0] for name in names]
    assert 0 not in numbers and len(set(numbers)) == len(names)
    # A second function of the same code, as a decorator or a loop makes it.
    assert pickles.get("closed", namespace["make"](0))[0] not in numbers


@pytest.mark.parametrize("name", ["read", "recursive", "nested", "read_twice_removed", "ping", "with_builtin"])
def test_a_new_value_of_a_global_makes_a_new_pickle(name: str) -> None:
    namespace, pickles = script(a=1, b=2), FunctionPickles()
    first, _ = pickles.get("step", namespace[name])
    namespace["a"] = "another"
    second, data = pickles.get("step", namespace[name])
    assert second not in (0, first)
    assert pickle.loads(data)() == namespace[name]()


def test_what_a_function_does_not_use_does_not_matter() -> None:
    namespace, pickles = script(a=1, b=2, unused=[]), FunctionPickles()
    number, _ = pickles.get("step", namespace["read"])
    namespace["b"] = 3
    namespace["unused"].append(1)
    assert pickles.get("step", namespace["read"])[0] == number


@pytest.mark.parametrize(
    "value", [math, math.sqrt, len, dict.fromkeys, os.path.join, collections.OrderedDict, 1.5, "x"]
)
def test_what_can_be_imported_or_never_changes_keeps_its_number(value: Any) -> None:
    pickles, namespace = FunctionPickles(), script(a=value, b=1)
    number, data = pickles.get("step", namespace["read"])
    assert number > 0 and pickles.get("step", namespace["read"])[0] == number
    assert pickle.loads(data)() is value or pickle.loads(data)() == value


MUTABLE: list[Any] = [
    [],
    {},
    set(),
    bytearray(),
    (1, []),
    (1, 2),
    types.SimpleNamespace(),
    collections.Counter(),
    object(),
]


@pytest.mark.parametrize("value", MUTABLE, ids=lambda value: type(value).__name__)
def test_what_may_change_in_place_is_pickled_for_every_call(value: Any) -> None:
    """A tuple may hold such a thing and counts as one."""
    pickles = FunctionPickles()
    for namespace in (script(a=value, b=1), script(a=1, b=value)):
        assert pickles.get("step", namespace["read_twice_removed"])[0] == 0
    assert pickles.get("step", script(a=1, b=1)["make"](value))[0] == 0
    namespace = script(a=1)
    namespace["default"].__defaults__ = (value,)
    assert pickles.get("step", namespace["default"])[0] == 0


WRITERS = """
def writes_a_global():
    global a
    a = 1
def inner_writes_a_global():
    def inner():
        global a
        a = 1
    return inner
def make():
    count = 0
    def writes_around_it():
        nonlocal count
        count += 1
        return count
    return writes_around_it
writes_around_it = make()
def with_attributes(): return with_attributes.calls
with_attributes.calls = 0
class Callable:
    def __call__(self): return 1
    def method(self): return 1
an_object = Callable()
a_method = an_object.method
"""


@pytest.mark.parametrize(
    "name",
    ["writes_a_global", "inner_writes_a_global", "writes_around_it", "with_attributes", "an_object", "a_method"],
)
def test_a_function_with_a_state_of_its_own_is_not_kept(name: str) -> None:
    number, data = FunctionPickles().get("step", script(WRITERS, a=0)[name])
    assert number == 0
    assert callable(pickle.loads(data))


def test_a_partial_and_a_wrapper_are_not_kept_and_work() -> None:
    pickles, namespace = FunctionPickles(), script(a=0)
    partial = functools.partial(namespace["default"], 5, y=6)
    wrapped = functools.wraps(namespace["default"])(lambda: "wrapped")
    for function, result in [(partial, (5, 6)), (wrapped, "wrapped")]:
        number, data = pickles.get("step", function)
        assert number == 0 and pickle.loads(data)() == result


@pytest.mark.parametrize("function", [os.path.join, collections.namedtuple, collections.OrderedDict])
def test_what_can_be_imported_crosses_by_its_name(function: Any) -> None:
    pickles = FunctionPickles()
    number, data = pickles.get("step", function)
    assert number > 0 and pickles.get("step", function) == (number, data)
    assert pickle.loads(data) is function and len(data) < 100


@pytest.mark.parametrize("body", ["n", "n and f(n - 1)"])
def test_a_function_that_is_gone_is_forgotten(body: str) -> None:
    pickles = FunctionPickles()
    function = script(f"def make():\n    def f(n=0): return {body}\n    return f")["make"]()
    assert pickles.get("step", function)[0] > 0
    gone = weakref.ref(function)
    del function
    gc.collect()
    assert gone() is None


# Arguments ----------------------------------------------------------------------------------------------------------

plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(),
    st.binary(),
    st.just("\ud800"),
)
mixed = st.one_of(plain, st.lists(plain, max_size=3), st.dictionaries(st.text(max_size=3), plain, max_size=3))


def told_apart(value: Any) -> str:
    """Tells True from 1, -0.0 from 0.0, and finds nan equal to nan."""
    return repr(value)


@settings(max_examples=100, deadline=None)
@given(
    args=st.lists(st.one_of(plain, mixed), max_size=4).map(tuple),
    kwargs=st.dictionaries(st.text(max_size=5), st.one_of(plain, mixed), max_size=3),
)
def test_arguments_arrive_as_they_were(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Plain ones take a short cut, which must make no difference."""
    arrived = pickle.loads(dump_arguments("step", args, kwargs))
    assert type(arrived[0]) is tuple and type(arrived[1]) is dict
    assert told_apart(arrived) == told_apart((args, kwargs))
    assert told_apart(arrived) == told_apart(pickle.loads(dump_value((args, dict(kwargs)))))


@settings(max_examples=50, deadline=None)
@given(value=mixed)
def test_a_value_arrives_as_it_was(value: Any) -> None:
    assert told_apart(pickle.loads(dump_value(value))) == told_apart(value)


def test_what_arguments_share_they_share_there_too() -> None:
    shared: list[int] = []
    (first, second), kwargs = pickle.loads(dump_arguments("step", (shared, shared), {"third": shared}))
    assert first is second is kwargs["third"] and first is not shared


def test_functions_and_classes_of_a_script_can_be_arguments() -> None:
    namespace = script(a=3, b=4)
    (function, cls), _ = pickle.loads(dump_arguments("step", (namespace["read"], namespace["Holder"]), {}))
    assert function() == 3 and cls.value == 0 and cls.__name__ == "Holder"


@pytest.mark.parametrize(
    ("args", "kwargs", "place"),
    [
        ((threading.Lock(),), {}, "'number 1'"),
        ((1, "a", [threading.Lock()]), {}, "'number 3'"),
        ((1,), {"good": 1, "handle": {"deep": threading.Lock()}}, "'handle'"),
        ((1,), {"rows": (row for row in ())}, "'rows'"),
    ],
)
def test_an_argument_that_cannot_be_pickled_is_named(args: Any, kwargs: Any, place: str) -> None:
    bad = next(value for value in (*args, *kwargs.values()) if not isinstance(value, (int, str)))
    with pytest.raises(
        SerializationError, match=f"argument {place} of task 'solve' is a {type(bad).__name__}"
    ) as caught:
        dump_arguments("solve", args, kwargs)
    assert isinstance(caught.value, TypeError) and caught.value.__cause__ is not None


class PickledOnlyTheSecondTime:
    def __init__(self) -> None:
        self.times = 0

    def __reduce__(self) -> Any:
        self.times += 1
        if self.times == 1:
            raise RuntimeError("not now")
        return int, (1,)


def test_arguments_that_only_fail_together_are_told_so() -> None:
    with pytest.raises(SerializationError, match="the arguments of task 'solve' cannot be pickled together: not now"):
        dump_arguments("solve", (PickledOnlyTheSecondTime(),), {})


def test_a_variable_that_a_function_cannot_take_along_is_named() -> None:
    namespace = script("def make(fine, handle):\n    def f(): return fine, handle\n    return f")
    with pytest.raises(
        SerializationError, match="variable 'handle', which the function of task 'solve' uses, is a lock"
    ):
        FunctionPickles().get("solve", namespace["make"](1, threading.Lock()))


def test_a_function_that_cannot_be_pickled_names_its_task() -> None:
    namespace = script(a=threading.Lock(), b=1)
    with pytest.raises(SerializationError, match=r"function of task 'solve' cannot be pickled: .*lock"):
        FunctionPickles().get("solve", namespace["read"])
    with pytest.raises(SerializationError, match="function of task 'solve' cannot be pickled"):
        FunctionPickles().get("solve", threading.Lock().acquire)


def test_a_variable_without_a_value_does_not_hide_the_one_that_is_wrong() -> None:
    source = """
def make(handle):
    def f(): return early, handle
    if handle is None: early = 1
    return f
"""
    with pytest.raises(SerializationError, match="variable 'handle'"):
        FunctionPickles().get("solve", script(source)["make"](threading.Lock()))


# Context variables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", [ContextVar("made_in_a_test"), ContextVar("with_default", default=1)])
def test_a_variable_stays_itself_within_a_process(variable: ContextVar[Any]) -> None:
    assert pickle.loads(dump_value(variable)) is variable
    first, second = pickle.loads(dump_value([variable, {"key": variable}]))
    assert first is variable and second["key"] is variable


def test_variables_of_one_name_are_not_mixed_up() -> None:
    one, other = ContextVar[int]("same_name"), ContextVar[int]("same_name")
    assert pickle.loads(dump_value(one)) is one
    assert pickle.loads(dump_value(other)) is other


def carried(context: Context) -> dict[str, Any]:
    return {pickle.loads(variable).name: pickle.loads(value) for variable, value in dump_context(context)}


def test_a_context_carries_what_can_be_carried() -> None:
    context = Context()
    for name, value in [("number", 1), ("table", {"a": [1]}), ("nothing", None), ("lock", threading.Lock())]:
        context.run(ContextVar[Any](name).set, value)
    context.run(ContextVar[Any]("asyncflow_hpc_of_the_engine").set, 1)
    ContextVar[Any]("unset", default=1)
    assert carried(context) == {"number": 1, "table": {"a": [1]}, "nothing": None}
    assert dump_context(Context()) == []


def test_an_odd_entry_among_the_modules_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blocked_on_purpose", None)
    monkeypatch.setitem(sys.modules, "no_module", object())  # type: ignore[arg-type]
    variable = ContextVar[int]("beside_odd_modules")
    context = Context()
    context.run(variable.set, 7)
    assert carried(context) == {"beside_odd_modules": 7}


# Another process ----------------------------------------------------------------------------------------------------

OTHER_PROCESS = """
import pickle, sys
from contextvars import Context
from asyncflow_hpc.backends.pickling import dump_value

answers = []
for function, arguments, carried in pickle.load(sys.stdin.buffer):
    context = Context()
    for variable, value in carried:
        context.run(pickle.loads(variable).set, pickle.loads(value))
    args, kwargs = pickle.loads(arguments)
    answers.append(dump_value(context.run(pickle.loads(function), *args, **kwargs)))
sys.stdout.buffer.write(pickle.dumps(answers))
"""


class Elsewhere:
    """Calls, to be run one after the other in one fresh interpreter."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._calls: list[Any] = []
        self._pickles = FunctionPickles()

    def call(self, function: Callable[..., Any], *args: Any, context: Context | None = None, **kwargs: Any) -> None:
        _, data = self._pickles.get("step", function)
        self._calls.append((data, dump_arguments("step", args, kwargs), dump_context(context or Context())))

    def results(self) -> list[Any]:
        path = [str(self._directory), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        words = [sys.executable, "-c", OTHER_PROCESS]
        done = subprocess.run(
            words, input=pickle.dumps(self._calls), stdout=subprocess.PIPE, env=environment, cwd=self._directory,
            check=True, timeout=60,
        )  # fmt: skip
        return [pickle.loads(answer) for answer in pickle.loads(done.stdout)]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    return Elsewhere(tmp_path)


def test_functions_give_the_same_results_elsewhere(elsewhere: Elsewhere) -> None:
    namespace = script(a=[1, {"x": 2}], b="b", math=math, get={"key": 5}.get, module=types.ModuleType("made"))
    namespace["module"].value = "of the module"
    for name in FUNCTIONS:
        elsewhere.call(namespace[name])
    elsewhere.call(namespace["default"], namespace["helper"](), y=(1,))
    assert elsewhere.results() == [*(namespace[name]() for name in FUNCTIONS), ("b", (1,))]


def test_a_variable_of_a_script_has_its_value_elsewhere(elsewhere: Elsewhere) -> None:
    variable, other = ContextVar[Any]("campaign"), ContextVar[Any]("with_default", default="the default")
    namespace = script(
        "def read(): return variable.get('unset'), other.get()\ndef give(): return variable, [variable]",
        variable=variable,
        other=other,
    )
    context = copy_context()
    context.run(variable.set, {"name": "night 7"})
    elsewhere.call(namespace["read"], context=context)
    elsewhere.call(namespace["read"])
    elsewhere.call(namespace["give"])
    with_value, without, (given, [again]) = elsewhere.results()
    assert with_value == ({"name": "night 7"}, "the default")
    assert without == ("unset", "the default"), "one call leaves nothing for the next"
    assert given is variable and again is variable, "and it comes back as the one that was sent"


def library(directory: Path, monkeypatch: pytest.MonkeyPatch, attribute: str) -> types.ModuleType:
    """A module that both processes can import, with a variable and a function that reads it."""
    name = f"library_with_{attribute}"
    (directory / f"{name}.py").write_text(
        f"from contextvars import ContextVar\n{attribute} = ContextVar('request_id', default='unset')\n"
        f"def read(): return {attribute}.get()\n"
    )
    monkeypatch.syspath_prepend(directory)
    module = __import__(name)
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.mark.parametrize(
    "attribute",
    [
        "request_id",
        "_request_id",
    ],
)
def test_a_variable_of_a_library_is_that_librarys_elsewhere(
    elsewhere: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attribute: str
) -> None:
    module = library(tmp_path, monkeypatch, attribute)
    context = Context()
    context.run(getattr(module, attribute).set, "r-17")
    elsewhere.call(module.read, context=context)
    elsewhere.call(script("def read(): return library.read()", library=module)["read"], context=context)
    elsewhere.call(module.read)
    assert elsewhere.results() == ["r-17", "r-17", "unset"]
