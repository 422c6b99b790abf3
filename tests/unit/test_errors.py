"""The tree of errors: complete, drawn as it is, and fit to cross between processes."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncflow_hpc import errors
from asyncflow_hpc.errors import (
    AsyncFlowError,
    DependencyFailureError,
    RemoteTraceback,
    TaskFailedError,
    UnknownBackendError,
    nearest,
    visible,
)
from asyncflow_hpc.outcome import text_of
from asyncflow_hpc.retries import FailedAttempt
from asyncflow_hpc.states import FailureCause

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and value.__module__ == errors.__name__]

DETAILS = {
    "uid": "task.000007",
    "name": "solve",
    "cause": FailureCause.SIGNAL,
    "exit_code": 3,
    "signal": 9,
    "stderr": "last words\n",
    "sandbox": "/scratch/session/task.000007",
    "native_state": "NODE_FAIL",
    "native_reason": "node17 went down",
    "attempts": (FailedAttempt(0, FailureCause.SIGNAL, signal=9, sandbox="/scratch/session/task.000007"),),
}


def drawn() -> dict[str, tuple[str, str | None]]:
    """The tree in the docstring: class -> its parent and the built-in class that it is too."""
    found: dict[str, tuple[str, str | None]] = {}
    above = [(-1, "Exception")]
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"([ |]*(?:\+-- )?)([A-Z]\w+)(?: +\((\w+)\))?(?: {2,}\S.*)?", line)
        if match is None:
            continue
        depth = len(match[1])
        while above[-1][0] >= depth:
            above.pop()
        found[match[2]] = (above[-1][1], match[3])
        above.append((depth, match[2]))
    return found


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    real = {}
    for cls in CLASSES:
        parent, *others = cls.__bases__
        real[cls.__name__] = (parent.__name__, others[0].__name__ if others else None)
        assert len(others) < 2
    assert drawn() == real


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_is_public_and_in_the_family(cls: type[Exception]) -> None:
    assert cls.__name__ in errors.__all__
    assert issubclass(cls, AsyncFlowError)
    assert cls.__doc__ and cls.__doc__ is not cls.__bases__[0].__doc__


def test_all_names_exist() -> None:
    assert len(errors.__all__) == len(set(errors.__all__))
    assert {name for name in errors.__all__ if inspect.isclass(getattr(errors, name))} == {
        cls.__name__ for cls in CLASSES
    }


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("message", ["no such thing: 'x'", "", "two\nlines", "{braces} %s"])
def test_the_text_is_the_message(cls: type[AsyncFlowError], message: str) -> None:
    expected = f"\n{message}" if cls is RemoteTraceback else message
    assert str(cls(message)) == expected, "also where a base, such as KeyError, would show its repr"
    assert str(pickle.loads(pickle.dumps(cls(message)))) == expected


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    "text", ["\x1b[31mred\x1b[0m", "\x9b2J", "a\rb", "\x07\x08\x7f", "\u202etxt.exe", "\udcff", "\0"]
)
def test_a_terminal_shows_what_it_would_obey(cls: type[AsyncFlowError], text: str) -> None:
    for error in (cls(f"ü\t{text}\nend"), pickle.loads(pickle.dumps(cls(f"ü\t{text}\nend")))):
        shown = f"{error}" + "".join(traceback.format_exception(error))
        assert shown.replace("\n", "").replace("\t", "").isprintable()
        assert repr(text)[1:-1] in shown and "ü\t" in shown and error.args[0] == f"ü\t{text}\nend"


def test_an_unknown_backend_is_told_plainly() -> None:
    error = UnknownBackendError("no backend is called 'slurn'; did you mean 'slurm'?")
    assert isinstance(error, KeyError)
    assert str(error) == f"{error}" == "no backend is called 'slurn'; did you mean 'slurm'?"


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_crosses_between_processes(cls: type[AsyncFlowError]) -> None:
    error = cls("what and where")
    error.hint = "an attribute set later"  # type: ignore[attr-defined]
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is cls and again.args == error.args and vars(again) == vars(error)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_failed_task_keeps_its_details(protocol: int) -> None:
    error = TaskFailedError("it failed", **DETAILS)  # type: ignore[arg-type]
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is TaskFailedError and str(again) == "it failed"
    assert vars(again) == DETAILS
    assert again.cause is FailureCause.SIGNAL


def test_a_failed_task_without_details() -> None:
    again = pickle.loads(pickle.dumps(TaskFailedError("it failed")))
    assert (again.uid, again.name, again.stderr) == ("", "", "")
    assert again.cause is FailureCause.EXIT_CODE
    assert (again.exit_code, again.signal, again.sandbox, again.native_state, again.native_reason) == (None,) * 5


@settings(max_examples=50, deadline=None)
@given(message=st.text(), names=st.lists(st.text(), max_size=3), root=st.text(), code=st.integers())
def test_a_failed_dependency_keeps_its_root_cause(message: str, names: list[str], root: str, code: int) -> None:
    cause = TaskFailedError(root, uid="task.000001", exit_code=code)
    error = DependencyFailureError(message, names, cause)
    assert error.__cause__ is error.root_cause is cause
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert str(again) == visible(message) and again.args == (message,) and again.failed_dependencies == names
        assert type(again.root_cause) is TaskFailedError
        assert str(again.root_cause) == visible(root) and vars(again.root_cause) == vars(cause)
        assert again.__cause__ is again.root_cause


def test_failed_dependencies_nest() -> None:
    error: BaseException = ArithmeticError("the root")
    for level in range(5):
        error = DependencyFailureError(f"level {level}", [f"task {level}"], error)
    again = pickle.loads(pickle.dumps(error))
    for level in reversed(range(5)):
        assert (str(again), again.failed_dependencies) == (f"level {level}", [f"task {level}"])
        again = again.__cause__
    assert type(again) is ArithmeticError and str(again) == "the root"


def test_the_defaults_of_a_failed_dependency() -> None:
    error = DependencyFailureError("it cannot run")
    assert (error.failed_dependencies, error.root_cause, error.__cause__) == ([], None, None)
    names = ["a"]
    DependencyFailureError("it cannot run", names).failed_dependencies.append("b")
    assert names == ["a"]


def test_errors_reach_a_fresh_interpreter(tmp_path: Path) -> None:
    error = DependencyFailureError("it cannot run", ["solve"], TaskFailedError("it failed", **DETAILS))  # type: ignore[arg-type]
    path = tmp_path / "error.pickle"
    path.write_bytes(pickle.dumps(error))
    program = (
        "import pickle, sys; error = pickle.load(open(sys.argv[1], 'rb'));"
        "print(error, error.failed_dependencies, error.__cause__, sorted(vars(error.__cause__).items()))"
    )
    words = [sys.executable, "-c", program, str(path)]
    printed = subprocess.run(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout
    assert printed == f"it cannot run ['solve'] it failed {sorted(DETAILS.items())}\n"


VALID = ["ranks", "ranks_per_node", "queue", "walltime"]


@pytest.mark.parametrize(
    ("word", "clause"),
    [
        ("rank", "did you mean 'ranks'?"),
        ("wall_time", "did you mean 'walltime'?"),
        ("ranks_per_nodes", "did you mean 'ranks_per_node' or 'ranks'?"),
        ("zzz", "valid are: queue, ranks, ranks_per_node, walltime"),
        ("", "valid are: queue, ranks, ranks_per_node, walltime"),
    ],
)
def test_the_nearest_names(word: str, clause: str) -> None:
    assert nearest(word, VALID) == nearest(word, reversed(VALID)) == nearest(word, set(VALID)) == clause


class _Speechless(Exception):
    def __str__(self) -> str:
        raise SystemExit("no words")


class _Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise ValueError("no name")


class _SpeechlessAndNameless(_Speechless, metaclass=_Nameless):
    pass


@pytest.mark.parametrize("error", [_Speechless(), _SpeechlessAndNameless()])
def test_there_is_a_text_for_every_error(error: Exception) -> None:
    assert "_Speechless" in text_of(error)
