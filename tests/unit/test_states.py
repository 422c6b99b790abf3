"""States and causes: which may follow which, and how they compare with plain text."""

from __future__ import annotations

import json
import pickle
from itertools import product

import pytest

from asyncflow_hpc.states import FINAL, FailureCause, TaskState, TaskStatesMap, may_follow

P, S, R, D, F, C = TaskState

ALLOWED = {
    (P, S), (P, R), (P, D), (P, F), (P, C),
    (S, R), (S, D), (S, F), (S, C),
    (R, D), (R, F), (R, C),
    (R, S),  # a requeue
}  # fmt: skip


@pytest.mark.parametrize(("old", "new"), list(product(TaskState, TaskState)))
def test_what_may_follow_what(old: TaskState, new: TaskState) -> None:
    assert may_follow(old, new) is ((old, new) in ALLOWED)


def test_the_final_states() -> None:
    assert {D, F, C} == FINAL
    assert {old for old, _ in ALLOWED} == set(TaskState) - FINAL


@pytest.mark.parametrize("member", [*TaskState, *FailureCause])
def test_members_are_their_names_as_text(member: TaskState | FailureCause) -> None:
    word = member.name
    assert member == word and word == member
    assert member != word.lower()
    assert hash(member) == hash(word) and {word: "found"}[member] == "found" and {member: "found"}[word] == "found"
    assert (str(member), f"{member}", "%s" % member, "{:>20}".format(member)) == (word, word, word, f"{word:>20}")  # noqa: UP031, UP032
    assert json.dumps(member) == f'"{word}"'
    assert type(member)(word) is member
    assert pickle.loads(pickle.dumps(member)) is member
    assert word + "!" == member + "!" and member.startswith(word[:2])


def test_a_state_and_a_cause_of_the_same_name_do_not_exist() -> None:
    """Both are text, so they would be equal."""
    assert {state.value for state in TaskState}.isdisjoint(cause.value for cause in FailureCause)


def test_the_words_of_the_design() -> None:
    assert [state.name for state in TaskState] == ["PENDING", "SUBMITTED", "RUNNING", "DONE", "FAILED", "CANCELED"]
    causes = """
        EXIT_CODE SIGNAL WALLTIME MEMORY NODE_FAILURE PREEMPTED CANCELLED BOOTSTRAP STAGING MISSING_OUTPUT SUBMIT LOST
        BACKEND
    """.split()  # noqa: SIM905
    assert [cause.name for cause in FailureCause] == causes


def test_a_states_map_has_our_words_unless_told_otherwise() -> None:
    ours = TaskStatesMap()
    assert (ours.RUNNING, ours.DONE, ours.FAILED, ours.CANCELED) == ("RUNNING", "DONE", "FAILED", "CANCELED")
    assert ours.terminal_states == {"DONE", "FAILED", "CANCELED"} == FINAL
    theirs = TaskStatesMap(RUNNING="AGENT_EXECUTING", DONE="COMPLETED", FAILED="ERROR", CANCELED="KILLED")
    assert theirs.terminal_states == {"COMPLETED", "ERROR", "KILLED"}
    assert theirs.RUNNING not in theirs.terminal_states
    one_word = TaskStatesMap(FAILED="OVER", CANCELED="OVER")
    assert one_word.terminal_states == {"DONE", "OVER"}
