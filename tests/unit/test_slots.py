"""Slots against a naive model: what may run now, in which order, and never more than there is."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyncflow_hpc.backends.local.slots import Grant, Request, Slots

TOTAL = Request(cores=8, gpus=4, memory=100)
GPUS = ("0", "1", "GPU-5a", "7")

# Few shapes, so that tasks queue up behind others of their own; any of them fits on the idle machine.
SHAPES = [
    Request(1),
    Request(2),
    Request(1, 1),
    Request(1, 0, 30),
    Request(4, 2, 50),
    Request(8),
    Request(1, 4),
    Request(2, 0, 100),
    TOTAL,
]


class SlotsMachine(RuleBasedStateMachine):
    """The model keeps what waits in one list in the order in which it counts, and scans it all."""

    @initialize(overtaking=st.integers(0, 3), shapes=st.sampled_from([SHAPES, SHAPES, [Request(2), Request(8)]]))
    def make(self, overtaking: int, shapes: list[Request]) -> None:
        self.shapes = shapes
        self.slots = Slots(TOTAL.cores, GPUS, TOTAL.memory, overtaking)
        self.overtaking = overtaking
        self.number = 0
        self.waiting: list[tuple[str, Request]] = []
        self.running: dict[str, Grant] = {}
        self.overtaken: Counter[str] = Counter()
        self.ahead: list[tuple[str, Request]] = []

    def free(self) -> list[int]:
        used = [grant.request for grant in self.running.values()]
        return [total - sum(request[i] for request in used) for i, total in enumerate(TOTAL)]

    def fits(self, request: Request) -> bool:
        return all(wanted <= free for wanted, free in zip(request, self.free(), strict=True))

    @rule(data=st.data(), count=st.integers(1, 3))
    def put(self, data: st.DataObject, count: int) -> None:
        request = data.draw(st.sampled_from(self.shapes))
        for _ in range(count):
            self.number += 1
            uid = f"task.{self.number:06d}"
            self.slots.put(uid, request)
            self.waiting.append((uid, request))

    @rule(data=st.data())
    def put_first(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.shapes))
        self.number += 1
        uid = f"task.{self.number:06d}"
        self.slots.put(uid, request, first=True)
        self.waiting.insert(0, (uid, request))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def start_again(self, data: st.DataObject) -> None:
        """As a backend does when the machine could not start a process just now."""
        uid = data.draw(st.sampled_from(sorted(self.running)))
        request = self.running.pop(uid).request
        self.slots.release(uid)
        self.slots.put(uid, request, first=True)
        self.waiting.insert(0, (uid, request))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(entry)
        self.overtaken.pop(entry[0], None)
        assert self.slots.remove(entry[0]) is True
        assert self.slots.remove(entry[0]) is False

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def ask_again_for_something_else(self, data: st.DataObject) -> None:
        """Who was taken out and comes back starts at the end, whatever it asks for now."""
        entry = data.draw(st.sampled_from(self.waiting))
        request = data.draw(st.sampled_from(self.shapes))
        self.waiting.remove(entry)
        self.overtaken.pop(entry[0], None)
        assert self.slots.remove(entry[0]) is True
        self.slots.put(entry[0], request)
        self.waiting.append((entry[0], request))

    @rule()
    def what_does_not_wait_cannot_be_removed(self) -> None:
        for uid in [*self.running, *(uid for uid, _ in self.ahead), "never put"]:
            assert self.slots.remove(uid) is False

    def expected(self) -> str | None:
        """The first that fits, unless the oldest was overtaken often enough."""
        if not self.waiting:
            return None
        oldest = self.waiting[0][0]
        chosen = next((uid for uid, request in self.waiting if self.fits(request)), None)
        if chosen is not None and chosen != oldest:
            if self.overtaken[oldest] >= self.overtaking:
                return None
            self.overtaken[oldest] += 1
        return chosen

    @rule()
    def take(self) -> None:
        self.take_one()

    @rule()
    def take_all(self) -> None:
        """As a backend does."""
        while self.take_one():
            pass

    def take_one(self) -> bool:
        chosen = self.expected()
        taken = self.slots.take()
        assert (taken[0] if taken else None) == chosen
        if taken is None:
            return False
        uid, grant = taken
        request = dict(self.waiting)[uid]
        assert grant.request == request and len(grant.gpus) == request.gpus
        self.waiting.remove((uid, request))
        self.overtaken.pop(uid, None)
        self.running[uid] = grant
        return True

    @rule(data=st.data())
    def take_ahead(self, data: st.DataObject) -> None:
        """The oldest is taken out when nothing of another shape waits, which it would hold up."""
        request = data.draw(st.sampled_from(self.shapes))
        expected = None
        if not request.gpus and {shape for _, shape in self.waiting} == {request}:
            expected, _ = entry = self.waiting.pop(0)
            self.overtaken.pop(expected, None)
            self.ahead.append(entry)
        assert self.slots.ahead(request) == expected

    @precondition(lambda self: self.ahead)
    @rule()
    def put_back_ahead(self) -> None:
        """They wait again in their order, before all others."""
        for uid, request in reversed(self.ahead):
            self.slots.put(uid, request, first=True)
            self.waiting.insert(0, (uid, request))
        self.ahead.clear()

    @precondition(lambda self: self.ahead and self.running)
    @rule(data=st.data())
    def pass_on(self, data: st.DataObject) -> None:
        """One that was taken out gets all that one of its shape had, and nothing else changes."""
        uid, request = data.draw(st.sampled_from(self.ahead))
        old = [other for other, grant in sorted(self.running.items()) if grant.request == request]
        if old:
            self.ahead.remove((uid, request))
            chosen = data.draw(st.sampled_from(old))
            self.running[uid] = self.running.pop(chosen)
            assert self.slots.pass_on(chosen, uid) == self.running[uid]

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        uid = data.draw(st.sampled_from(sorted(self.running)))
        self.slots.release(uid)
        del self.running[uid]

    @invariant()
    def nothing_is_given_twice(self) -> None:
        if hasattr(self, "running"):
            assert all(free >= 0 for free in self.free())
            assert all(self.slots.fits(shape) == self.fits(shape) for shape in self.shapes)
            given = [gpu for grant in self.running.values() for gpu in grant.gpus]
            assert len(given) == len(set(given)) and set(given) <= set(GPUS)

    @invariant()
    def it_knows_who_waits(self) -> None:
        if hasattr(self, "waiting"):
            assert len(self.slots) == len(self.waiting)
            assert Counter(self.slots.waiting()) == Counter(uid for uid, _ in self.waiting)

    def teardown(self) -> None:
        """Everything starts in the end when what runs ends."""
        if not hasattr(self, "slots"):
            return
        if self.ahead:
            self.put_back_ahead()
        while self.waiting or self.running:
            while self.take_one():
                pass
            assert self.running, "an idle machine starts something"
            uid = next(iter(self.running))
            self.slots.release(uid)
            del self.running[uid]
        assert len(self.slots) == 0 and self.slots.take() is None
        self.slots.put("all", TOTAL)
        taken = self.slots.take()
        assert taken is not None and sorted(taken[1].gpus) == sorted(GPUS), "all of it has come back"


TestSlots = SlotsMachine.TestCase
TestSlots.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


def taken(slots: Slots) -> str:
    found = slots.take()
    assert found is not None
    return found[0]


@settings(max_examples=100, deadline=None)
@given(shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=30), data=st.data())
def test_tasks_of_one_shape_start_in_the_order_of_their_arrival(shapes: list[Request], data: st.DataObject) -> None:
    slots = Slots(TOTAL.cores, GPUS, TOTAL.memory)
    for number, request in enumerate(shapes):
        slots.put(str(number), request)
    started: list[int] = []
    running: list[str] = []
    while len(started) < len(shapes):
        found = slots.take()
        if found is None:
            slots.release(running.pop(data.draw(st.integers(0, len(running) - 1))))
        else:
            started.append(int(found[0]))
            running.append(found[0])
    assert sorted(started) == list(range(len(shapes)))
    for shape in set(shapes):
        of_shape = [number for number in started if shapes[number] == shape]
        assert of_shape == sorted(of_shape)


@settings(max_examples=50, deadline=None)
@given(overtaking=st.integers(0, 10), running=st.integers(1, 7), small=st.integers(0, 30))
def test_a_big_task_is_overtaken_only_so_often(overtaking: int, running: int, small: int) -> None:
    slots = Slots(8, overtaking=overtaking)
    for number in range(running):
        slots.put(f"first {number}", Request(1))
        assert taken(slots) == f"first {number}"
    slots.put("big", Request(8))
    for number in range(small):
        slots.put(f"small {number}", Request(1))
    busy = [f"first {number}" for number in range(running)]
    before = 0
    while True:
        found = slots.take()
        if found is None:
            slots.release(busy.pop(0))
        elif found[0] == "big":
            break
        else:
            before += 1
            busy.append(found[0])
    # Where nothing stops them, small ones use the gap as long as there are any.
    assert before == min(overtaking, small)


def test_a_big_task_is_not_starved_by_others_that_start_again() -> None:
    """Its turn comes after `overtaking` others, also while starts are tried again."""
    slots = Slots(2, overtaking=2)
    slots.put("running", Request(1))
    assert taken(slots) == "running"
    slots.put("big", Request(2))
    for number in range(20):
        slots.put(f"small {number}", Request(1))
    overtook: set[str] = set()
    for _ in range(10):
        found = slots.take()
        if found is None:
            break
        uid = found[0]
        overtook.add(uid)
        slots.release(uid)
        slots.put(uid, Request(1), first=True)
        assert taken(slots) == uid
        slots.release(uid)
    assert len(overtook) <= 2


def test_a_task_that_was_removed_may_be_put_again() -> None:
    slots = Slots(4)
    slots.put("a", Request(1))
    slots.put("b", Request(1))
    assert slots.remove("a")
    slots.put("a", Request(2))
    assert [slots.take(), slots.take()] == [("b", Grant(Request(1))), ("a", Grant(Request(2)))]


def test_first_goes_before_all_and_the_last_put_first_before_it() -> None:
    slots = Slots(1)
    for uid, first in [("a", False), ("b", True), ("c", False), ("d", True)]:
        slots.put(uid, Request(1), first)
    order = []
    for _ in range(4):
        order.append(taken(slots))
        slots.release(order[-1])
    assert order == ["d", "b", "a", "c"]


def test_gpus_are_named_and_come_back() -> None:
    slots = Slots(8, GPUS)
    slots.put("a", Request(1, 3))
    slots.put("b", Request(1, 1))
    slots.put("c", Request(1, 2))
    found = dict([slots.take(), slots.take()])  # type: ignore[list-item]
    assert sorted(found["a"].gpus + found["b"].gpus) == sorted(GPUS)
    assert slots.take() is None
    slots.release("a")
    assert set(dict([slots.take()])["c"].gpus) < set(found["a"].gpus)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("request_", "lacking"),
    [
        (Request(), None),
        (TOTAL, None),
        (Request(9), "9 cores, and there are 8"),
        (Request(1, 5), "5 gpus, and there are 4"),
        (Request(1, 0, 101), "101 memory, and there are 100"),
    ],
)
def test_what_the_machine_lacks(request_: Request, lacking: str | None) -> None:
    assert Slots(TOTAL.cores, GPUS, TOTAL.memory).lacking(request_) == lacking


def test_releasing_what_does_not_run_is_an_error() -> None:
    slots = Slots(1)
    slots.put("a", Request(1))
    with pytest.raises(KeyError):
        slots.release("a")
    assert taken(slots) == "a"
    slots.release("a")
    with pytest.raises(KeyError):
        slots.release("a")
