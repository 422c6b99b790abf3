"""RetryPolicy: what is tried again, after how long, with what; and what no policy can be made of."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncflow_hpc import InputFile, RetryPolicy, TaskDescription
from asyncflow_hpc.errors import (
    ArgumentError,
    AsyncFlowError,
    ConfigurationError,
    DescriptionTypeError,
    TaskDescriptionError,
    TaskFailedError,
)
from asyncflow_hpc.outcome import failed_attempt, failure, short
from asyncflow_hpc.retries import DEFAULT, FailedAttempt, as_policy
from asyncflow_hpc.states import FailureCause

CAUSES = sorted(FailureCause)
INFRASTRUCTURE = {"NODE_FAILURE", "PREEMPTED", "LOST"}


@pytest.mark.parametrize("cause", CAUSES)
def test_nothing_asked(cause: FailureCause) -> None:
    assert [DEFAULT.tries_again(cause, number) for number in range(3)] == [cause in INFRASTRUCTURE] * 2 + [False]


def test_a_submission_only_where_it_may_pass() -> None:
    for policy in (DEFAULT, as_policy(2), RetryPolicy(3, on={FailureCause.SUBMIT})):
        assert [policy.tries_again(FailureCause.SUBMIT, number, True) for number in range(3)] == [True, True, False]
        assert not policy.tries_again(FailureCause.SUBMIT, 0)


@given(st.sampled_from(CAUSES), st.integers(0, 50), st.integers(0, 50))
def test_a_number_means_so_many_more_whatever_happened(cause: FailureCause, retries: int, attempt: int) -> None:
    expected = attempt < retries and cause is not FailureCause.CANCELLED
    assert as_policy(retries).tries_again(cause, attempt, transient=True) is expected


@given(st.sets(st.sampled_from([cause for cause in CAUSES if cause != "CANCELLED"])), st.sampled_from(CAUSES))
def test_only_the_causes_that_were_named(on: set[FailureCause], cause: FailureCause) -> None:
    words = RetryPolicy(2, on=[str(cause) for cause in on])
    assert words == RetryPolicy(2, on=on) and hash(words) == hash(RetryPolicy(2, on=on))
    assert words.tries_again(cause, 0, True) is (cause in on) and not words.tries_again(cause, 1, True)


def test_delays_grow() -> None:
    policy = RetryPolicy(9, delay=2.0, backoff=3.0, jitter=0.5)
    assert [policy.delay_after(number) for number in range(3)] == [2.0, 6.0, 18.0]
    assert (policy.delay_after(0, 0.0), policy.delay_after(0, 1.0)) == (1.0, 3.0)


@given(
    st.floats(0, 1e300),
    st.floats(1, 1000),
    st.floats(0, 1),
    st.integers(0, 99_999),
    st.floats(0, 1),
)
@example(3601.0, 42.0, 0.0, 189, 0.0)
def test_delays_are_finite(delay: float, backoff: float, jitter: float, attempt: int, chance: float) -> None:
    policy = RetryPolicy(3, delay=delay, backoff=backoff, jitter=jitter)
    waits = policy.delay_after(attempt, chance)
    assert 0 <= waits <= 2 * max(delay, 3600.0)
    assert policy.delay_after(attempt + 1) >= policy.delay_after(attempt)
    assert waits == 0 or delay > 0


def test_what_grows() -> None:
    policy = RetryPolicy(5, escalate={"memory": 1.5, "walltime": 2, "queue": ["long", "huge"]})
    asked = TaskDescription.from_dict({"mem_per_rank": 1001, "walltime": 60, "queue": "short", "ranks": 2})
    assert policy.escalated(asked, 1) == {"mem_per_rank": 1502, "walltime": 120.0, "queue": "long"}
    assert [policy.escalated(asked, number)["queue"] for number in (1, 2, 3, 4)] == ["long", "huge", "huge", "huge"]
    assert policy.escalated(TaskDescription(queue="long"), 1) == {}, "what nobody asked for cannot grow"
    assert RetryPolicy(2).escalated(asked, 1) == {}
    assert RetryPolicy(2, escalate={"queue": "long"}).escalated(asked, 1) == {"queue": "long"}


@given(st.integers(1, 2**60), st.floats(1, 1000), st.integers(1, 200))
def test_memory_never_shrinks_or_overflows(size: int, factor: float, attempts: int) -> None:
    policy = RetryPolicy(500, escalate={"memory": factor, "walltime": factor})
    first = {"mem_per_rank": size, "walltime": float(min(size, 10**10))}
    description = TaskDescription.from_dict(first)
    for number in range(1, attempts):
        changes = policy.escalated(description, number)
        assert changes.get("mem_per_rank", size) >= size
        description = TaskDescription.from_dict({**first, **changes})


WRONG = [
    ({"max_attempts": "3"}, ArgumentError, "max_attempts"),
    ({"max_attempts": True}, ArgumentError, "max_attempts"),
    ({"max_attempts": 0}, ConfigurationError, "max_attempts"),
    ({"max_attempts": 100_000}, ConfigurationError, "max_attempts"),
    ({"on": "LOST"}, ArgumentError, "set of causes"),
    ({"on": FailureCause.LOST}, ArgumentError, "set of causes"),
    ({"on": 3}, ArgumentError, "set of causes"),
    ({"on": {"LOSTT"}}, ConfigurationError, "did you mean 'LOST'"),
    ({"on": [None]}, ConfigurationError, "no cause None"),
    ({"on": {"CANCELLED"}}, ConfigurationError, "never tried again"),
    ({"delay": -1}, ConfigurationError, "delay"),
    ({"delay": "1"}, ArgumentError, "delay"),
    ({"delay": float("nan")}, ConfigurationError, "delay"),
    ({"delay": float("inf")}, ConfigurationError, "delay"),
    ({"backoff": 0.5}, ConfigurationError, "backoff"),
    ({"jitter": 1.1}, ConfigurationError, "jitter"),
    ({"jitter": None}, ArgumentError, "jitter"),
    ({"escalate": [("memory", 2)]}, ArgumentError, "escalate"),
    ({"escalate": {"ranks": 2}}, ConfigurationError, "'ranks' cannot grow"),
    ({"escalate": {"memry": 2}}, ConfigurationError, "did you mean 'memory'"),
    ({"escalate": {"memory": "2"}}, ArgumentError, "escalate['memory']"),
    ({"escalate": {"memory": 0.5}}, ConfigurationError, "escalate['memory']"),
    ({"escalate": {"walltime": 1e9}}, ConfigurationError, "escalate['walltime']"),
    ({"escalate": {"queue": []}}, ConfigurationError, "queue"),
    ({"escalate": {"queue": [""]}}, ConfigurationError, "queue"),
    ({"escalate": {"queue": [3]}}, ArgumentError, "queue"),
    ({"escalate": {"queue": 3}}, ArgumentError, "queue"),
]


@pytest.mark.parametrize(("values", "kind", "words"), WRONG)
def test_what_is_no_policy(values: dict[str, Any], kind: type[AsyncFlowError], words: str) -> None:
    with pytest.raises(kind) as caught:
        RetryPolicy(**{"max_attempts": 2, **values})
    assert words in str(caught.value) and "RetryPolicy" in str(caught.value)


@pytest.mark.parametrize("value", [-1, 99_999, True, "2", 1.5, None])
def test_what_is_no_number_of_retries(value: Any) -> None:
    with pytest.raises((ArgumentError, ConfigurationError), match="retries"):
        as_policy(value)


def test_in_a_task_description() -> None:
    policy = RetryPolicy(3, on={"LOST"})
    assert TaskDescription.from_dict({"retries": policy}).retries is policy
    assert TaskDescription.from_dict({"retries": 0}).retries == 0
    assert TaskDescription().retries is None
    with pytest.raises(DescriptionTypeError, match=r"\['retries'\] must be a whole number or a RetryPolicy"):
        TaskDescription.from_dict({"retries": "twice"})
    for number in (-1, 99_999):
        with pytest.raises(TaskDescriptionError, match=r"\['retries'\]"):
            TaskDescription.from_dict({"retries": number})


def test_policies_are_values() -> None:
    given_dict = {"memory": 2.0, "queue": ["long"]}
    policy = RetryPolicy(2, escalate=given_dict)
    given_dict["memory"] = 9.0
    assert policy.escalate == {"memory": 2.0, "queue": ("long",)}
    for again in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert again == policy and hash(again) == hash(policy)
    with pytest.raises(AttributeError):
        policy.delay = 3.0  # type: ignore[misc]


TASK = {"uid": "task.000001", "name": "solve", "exit_code": 3, "stderr": "a\nlast words\n", "sandbox": "/s/t"}


def test_what_is_noted_of_an_attempt() -> None:
    attempt = failed_attempt({**TASK, "attempt": 2, "native_id": "17"})
    assert attempt == FailedAttempt(2, FailureCause.EXIT_CODE, 3, None, "/s/t", "17", "last words")
    assert str(attempt) == "attempt 2: EXIT_CODE, exit code 3, native id 17, sandbox /s/t: last words"
    assert failed_attempt({"exception": ValueError("x\ny")}).text == "ValueError: x"
    assert failed_attempt({"exception": "\n", "signal": 9}) == FailedAttempt(0, FailureCause.SIGNAL, signal=9)


@settings(max_examples=200)
@given(st.one_of(st.none(), st.text(), st.builds(ValueError, st.text())), st.one_of(st.none(), st.text()))
def test_an_attempt_is_one_line(exception: Any, stderr: str | None) -> None:
    attempt = failed_attempt({**TASK, "exception": exception, "stderr": stderr})
    assert len(attempt.text) <= 200 and len(str(attempt).splitlines()) == 1


def test_the_last_error_lists_all() -> None:
    first = FailedAttempt(0, FailureCause.LOST, native_id="16", sandbox="/s/t")
    second = FailedAttempt(1, FailureCause.EXIT_CODE, 3, sandbox="/s/t.1")
    alone: Any = failure({**TASK, "attempts": (first,)})
    assert alone.attempts == (first,) and "attempt" not in str(alone)
    error: Any = failure({**TASK, "attempts": (first, second)})
    assert error.attempts == (first, second)
    assert str(error).splitlines()[-2:] == [str(first), str(second)]
    told: Any = failure({**TASK, "attempts": (FailedAttempt(0, FailureCause.LOST, remark="no more memory"),)})
    assert str(told).splitlines()[-1] == "not tried again: no more memory"


def test_an_error_of_the_function_itself_gets_notes() -> None:
    own = ValueError("mine")
    attempts = tuple(FailedAttempt(number, FailureCause.EXIT_CODE) for number in range(2))
    task = {**TASK, "exception": own, "attempts": attempts, "function": len, "args": ("x",), "kwargs": {"by": 2}}
    for _ in range(2):
        assert failure(task) is own
    origin = "raised by task.000001: solve('x', by=2), in /s/t"
    assert own.__notes__ == [origin, *[str(attempt) for attempt in attempts]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("function", [None, len])
def test_an_error_that_is_not_of_the_function(function: Any) -> None:
    own = PermissionError(13, "no", "/x")
    error = failure({**TASK, "exception": own, "function": function, "cause": "BACKEND"})
    assert isinstance(error, TaskFailedError) and error.__cause__ is own
    assert error.cause is FailureCause.BACKEND and "PermissionError: [Errno 13] no: '/x'" in str(error)
    without = failure({**TASK, "exception": own, "function": function})
    assert without is own if function else isinstance(without, TaskFailedError) and without.cause == "BACKEND"


class Hostile:
    def __repr__(self) -> str:
        raise SystemExit(3)


@dataclass
class Table:
    rows: list[int]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1, "1"),
        ("a\n\x1b[31m", "'a\\n\\x1b[31m'"),
        (Hostile(), "Hostile"),
        (Table([1]), "<Table>"),
        (list(range(10**6)), "[0, 1, 2, 3, 4, 5, ...]"),
        ("https://me:secret@host/x", "'https://***@host/x'"),
        ({number: object() for number in range(10**5)}, "<dict of 100000>"),
        ({"url": "ftp://token@host"}, "{'url': 'ftp://***@host'}"),
        (InputFile("https://me:secret@host/x"), "InputFile('https://***@host/x')"),
        ([10**5000], "list"),
    ],
)
def test_an_argument_in_short(value: Any, shown: str) -> None:
    text = short(value)
    assert shown in text and len(text) < 200 and text.isprintable() and "secret" not in text
