"""Classes of a script between two processes: what is set where, and what is refused."""

from __future__ import annotations

import gc
import io
import pickle
import subprocess
import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from asyncflow_hpc.backends.pickling import FunctionPickles, dump_arguments, dump_value

# A process that runs functions: each pickle in, each result out.
RUNNER = """
import pickle, sys
from asyncflow_hpc.backends.pickling import dump_value

for function, arguments in pickle.load(sys.stdin.buffer):
    args, kwargs = pickle.loads(arguments)
    sys.stdout.buffer.write(dump_value(pickle.loads(function)(*args, **kwargs)))
"""

SOURCE = """
import enum

class Counter:
    made = 0
    names = ["a"]
    def __init__(self):
        type(self).made += 1
        self.number = type(self).made
        type(self).names.append("b")

class Kind(enum.Enum):
    A = 1
    B = 2

def count():
    return Counter()

def look():
    return Counter.made, Counter.names, Counter

def kinds():
    return [Kind.A, Kind(2)]

def local():
    class Counter:
        made = 7
    return Counter()

def give(value):
    return value
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """What `__main__` is to a worker: a module that no other process can import."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    exec(SOURCE, vars(module))
    yield module


def elsewhere(*calls: tuple[Any, ...]) -> bytes:
    pickles = FunctionPickles()
    sent = [(pickles.get("step", function)[1], dump_arguments("step", args, {})) for function, *args in calls]
    words = [sys.executable, "-c", RUNNER]
    return subprocess.run(words, input=pickle.dumps(sent), stdout=subprocess.PIPE, check=True, timeout=60).stdout


def test_a_worker_sees_what_the_script_has_set_and_sets_nothing_in_it(script: Any) -> None:
    script.Counter.made = 20
    first = pickle.loads(elsewhere((script.count,)))
    assert type(first) is script.Counter and first.number == 21
    assert (script.Counter.made, script.Counter.names) == (20, ["a"])
    stream = io.BytesIO(elsewhere((script.count,), (script.look,)))
    pickle.load(stream)
    made, names, cls = pickle.load(stream)
    assert cls is script.Counter
    assert (made, names) == (20, ["a"]), "a call that sends the class again sets it as it is in the script"


def test_a_result_of_an_earlier_driver_is_of_the_class_that_is_there_now(script: Any) -> None:
    counter, kinds = elsewhere((script.count,)), elsewhere((script.kinds,))
    exec(SOURCE, vars(script))
    gc.collect()
    script.Counter.made = 5
    assert type(pickle.loads(counter)) is script.Counter and script.Counter.made == 5
    assert pickle.loads(kinds) == list(script.Kind)


def test_a_result_of_a_class_that_is_gone_cannot_be_read(script: Any) -> None:
    data = elsewhere((script.count,)), elsewhere((script.kinds,))
    del script.Counter
    exec("class Kind(enum.Enum):\n    A = 1", vars(script))
    gc.collect()
    with pytest.raises(pickle.UnpicklingError, match="'__main__' has no 'Counter' any more"):
        pickle.loads(data[0])
    with pytest.raises(pickle.UnpicklingError, match="Kind has no member 'B' any more"):
        pickle.loads(data[1])


def test_a_class_that_is_made_again_while_a_call_runs_is_another(script: Any) -> None:
    old = script.Counter
    data = elsewhere((script.count,))
    exec(SOURCE, vars(script))
    assert type(pickle.loads(data)) is old, "of the one that was sent"


def test_a_class_made_by_a_function_is_not_one_of_the_same_name(script: Any) -> None:
    data = elsewhere((script.local,))
    found = pickle.loads(data)
    assert type(found) is not script.Counter and found.made == 7
    type(found).made = 8
    assert type(pickle.loads(data)) is type(found) and found.made == 8, "a second result sets nothing"
    # And back: the process that gets it makes one, too.
    again = pickle.loads(elsewhere((script.give, found)))
    assert type(again) is type(found)


def test_classes_that_nobody_holds_are_forgotten(script: Any) -> None:
    gone = weakref.ref(type(pickle.loads(elsewhere((script.local,)))))
    gc.collect()
    assert gone() is None


def test_a_driver_in_a_worker_gets_its_results_too(script: Any) -> None:
    inner = f"""
import pickle, subprocess, sys
from asyncflow_hpc.backends.pickling import FunctionPickles, dump_arguments, dump_value
outer, kind = pickle.load(sys.stdin.buffer)[0]
sent = [(FunctionPickles().get("step", outer)[1], dump_arguments("step", (), {{}}))]
data = subprocess.run([sys.executable, "-c", {RUNNER!r}], input=pickle.dumps(sent), stdout=subprocess.PIPE).stdout
found = pickle.loads(data)
assert found[0] is kind.A
sys.stdout.buffer.write(dump_value(found))
"""
    data = dump_arguments("step", (script.kinds, script.Kind), {})
    done = subprocess.run([sys.executable, "-c", inner], input=data, stdout=subprocess.PIPE, check=True, timeout=60)
    assert all(a is b for a, b in zip(pickle.loads(done.stdout), script.Kind, strict=True))


def test_a_value_that_is_read_where_it_was_made_is_of_its_class(script: Any) -> None:
    assert type(pickle.loads(dump_value(script.Counter()))) is script.Counter
    assert pickle.loads(dump_value(script.Kind.A)) is script.Kind.A
    assert pickle.loads(dump_value(script.count)) is script.count
