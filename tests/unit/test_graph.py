"""DependencyGraph against a naive model of who waits for whom."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncflow_hpc.graph import DependencyGraph


class GraphMachine(RuleBasedStateMachine):
    """Adds, ends and drops components in any order, as an engine may; between two drops of a chain others may end.

    A component of the model waits ("waiting"), can run ("ready"), was told that it never can ("doomed"), or is gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.graph = DependencyGraph()
        self.needs: dict[str, set[str]] = {}
        self.state: dict[str, str] = {}

    def those(self, *states: str) -> list[str]:
        return [uid for uid, state in self.state.items() if state in states]

    def pending(self, uid: str) -> set[str]:
        """Dependencies that have not ended."""
        return {need for need in self.needs[uid] if self.state[need] in ("waiting", "ready", "doomed")}

    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        unfinished = self.those("waiting", "ready", "doomed")
        needs = data.draw(st.lists(st.sampled_from(unfinished), unique=True, max_size=4)) if unfinished else []
        uid = f"task.{len(self.state):06d}"
        self.needs[uid] = set(needs)
        if needs:
            self.graph.add(uid, needs)
            self.state[uid] = "waiting"
        else:
            self.state[uid] = "ready"

    @precondition(lambda self: self.those("ready"))
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        uid = data.draw(st.sampled_from(self.those("ready")))
        self.state[uid] = "done"
        expected = [
            other for other in self.those("waiting") if uid in self.needs[other] and self._all_done(self.needs[other])
        ]
        assert self.graph.done(uid) == expected, "in the order in which they were added"
        for other in expected:
            self.state[other] = "ready"

    @precondition(lambda self: self.those("waiting", "ready", "doomed"))
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        uid = data.draw(st.sampled_from(self.those("waiting", "ready", "doomed")))
        self.state[uid] = "dropped"
        expected = {other for other in self.those("waiting", "doomed") if uid in self.needs[other]}
        answer = self.graph.drop(uid)
        assert sorted(answer) == sorted(expected)
        for other in expected:
            self.state[other] = "doomed"

    @rule(uid=st.sampled_from(["task.000000", "task.000003", "never added"]))
    def ending_twice_changes_nothing(self, uid: str) -> None:
        if self.state.get(uid, "done") in ("done", "dropped"):
            assert self.graph.done(uid) == []
            assert self.graph.drop(uid) == []

    def _all_done(self, uids: Iterable[str]) -> bool:
        return all(self.state[uid] == "done" for uid in uids)

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        waiting = self.those("waiting", "doomed")
        assert len(self.graph) == len(waiting)
        for uid in self.state:
            assert self.graph.has_dependents(uid) == (
                self.state[uid] not in ("done", "dropped") and any(uid in self.needs[other] for other in waiting)
            )
            if self.state[uid] == "waiting":
                assert self.graph.waiting_for(uid) == self.pending(uid)
            elif self.state[uid] != "doomed":
                assert self.graph.waiting_for(uid) == frozenset()

    @invariant()
    def descendants_are_the_transitive_closure(self) -> None:
        if self.those("doomed"):
            return
        ways = {uid: self._distances(uid) for uid in self.those("waiting")}
        for needed in {other for way in ways.values() for other in way}:
            descendants = list(self.graph.descendants(needed))
            assert len(descendants) == len(set(descendants)), "each once"
            assert set(descendants) == {uid for uid, way in ways.items() if needed in way}
            assert all(ways[a][needed] <= ways[b][needed] for a, b in pairwise(descendants)), "nearest first"

    def _distances(self, uid: str) -> dict[str, int]:
        """The length of the shortest way to each unfinished ancestor, from the edges alone."""
        found: dict[str, int] = {}
        front, steps = self.pending(uid), 1
        while front:
            found.update(dict.fromkeys(front, steps))
            front = {need for other in front for need in self.pending(other)} - set(found)
            steps += 1
        return found

    def teardown(self) -> None:
        while unfinished := self.those("waiting", "ready", "doomed"):
            self.state[unfinished[-1]] = "dropped"
            for other in self.graph.drop(unfinished[-1]):
                self.state[other] = "doomed"
        assert len(self.graph) == 0
        assert not any(self.graph.has_dependents(uid) for uid in self.state)
        assert not any(self.graph.waiting_for(uid) for uid in self.state)


TestGraph = GraphMachine.TestCase
TestGraph.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


@st.composite
def dags(draw: st.DrawFn) -> dict[str, list[str]]:
    """Each component with those before it that it depends on."""
    names = [f"task.{number:06d}" for number in range(draw(st.integers(1, 25)))]
    return {
        name: draw(st.lists(st.sampled_from(names[:place]), unique=True, max_size=6)) if place else []
        for place, name in enumerate(names)
    }


def filled(dag: dict[str, list[str]]) -> DependencyGraph:
    graph = DependencyGraph()
    for uid, needs in dag.items():
        if needs:
            graph.add(uid, needs)
    return graph


@settings(max_examples=100, deadline=None)
@given(dag=dags(), data=st.data())
def test_everything_gets_ready_exactly_once_and_after_its_dependencies(
    dag: dict[str, list[str]], data: st.DataObject
) -> None:
    graph = filled(dag)
    ready = [uid for uid, needs in dag.items() if not needs]
    ended: list[str] = []
    while ready:
        uid = ready.pop(data.draw(st.integers(0, len(ready) - 1)))
        ended.append(uid)
        ready += graph.done(uid)
    assert sorted(ended) == sorted(dag), "each once, and all of them"
    place = {uid: number for number, uid in enumerate(ended)}
    assert all(place[need] < place[uid] for uid, needs in dag.items() for need in needs)
    assert len(graph) == 0
    assert not any(graph.has_dependents(uid) or graph.waiting_for(uid) for uid in dag)


@settings(max_examples=100, deadline=None)
@given(dag=dags(), data=st.data())
def test_a_failure_reaches_its_descendants_and_nobody_else(dag: dict[str, list[str]], data: st.DataObject) -> None:
    graph = filled(dag)
    failing = data.draw(st.sets(st.sampled_from(sorted(dag)), min_size=1, max_size=3))
    unreachable = set(failing)
    for uid, needs in dag.items():
        if not unreachable.isdisjoint(needs):
            unreachable.add(uid)
    ready = [uid for uid, needs in dag.items() if not needs]
    succeeded, dropped = set(), set()
    while ready:
        uid = ready.pop(data.draw(st.integers(0, len(ready) - 1)))
        if uid not in failing:
            succeeded.add(uid)
            ready += graph.done(uid)
            continue
        doomed = [uid]
        while doomed:
            uid = doomed.pop()
            assert uid not in dropped, "told once"
            dropped.add(uid)
            doomed += [other for other in graph.drop(uid) if other not in doomed]
    assert succeeded == set(dag) - unreachable
    assert dropped <= unreachable
    # What failed before it could run, because something above it did, is told by that.
    assert succeeded | dropped == set(dag)
    assert len(graph) == 0


@settings(max_examples=60, deadline=None)
@given(dags())
def test_descendants_in_a_whole_graph(dag: dict[str, list[str]]) -> None:
    graph = filled(dag)
    above: dict[str, set[str]] = {}
    for uid, needs in dag.items():
        above[uid] = set(needs).union(*(above[need] for need in needs))
    for uid in dag:
        assert set(graph.descendants(uid)) == {other for other in dag if uid in above[other]}


def test_a_chain_longer_than_the_stack_is_deep() -> None:
    graph = DependencyGraph()
    length = 20_000
    for number in range(1, length):
        graph.add(str(number), [str(number - 1)])
    assert sum(1 for _ in graph.descendants("0")) == length - 1
    ready = ["0"]
    while following := graph.done(ready[-1]):
        ready += following
    assert ready == [str(number) for number in range(length)]
    assert len(graph) == 0


def test_descendants_may_be_cut_while_they_are_walked() -> None:
    """The walk is lazy: who looks for one descendant stops when it is found."""
    graph = DependencyGraph()
    graph.add("b", ["a"])
    graph.add("c", ["b"])
    walk = graph.descendants("a")
    assert next(walk) == "b"
    assert graph.drop("b") == ["c"]
    assert list(walk) == []
