"""How failures of a submission are met: which are waited out, for how long, and which end the task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from asyncflow_hpc.backends.psij.jobs import BatchJob, Phase
from asyncflow_hpc.backends.psij.scheduler import Transient
from asyncflow_hpc.backends.psij.submitting import Pace, Submitting, TransientError
from asyncflow_hpc.backends.staging import Plan
from asyncflow_hpc.errors import SubmitError
from asyncflow_hpc.states import FailureCause
from asyncflow_hpc.task import TaskDescription

TOO_MANY = Transient("too many jobs", 0.0, limit=True)
UNNAMED = Transient("some limit", 0.0, while_queued=True)
DOWN = Transient("no controller", 0.0)


def job(number: int) -> BatchJob:
    task: Any = {"uid": f"task.00000{number}", "name": "n"}
    return BatchJob(task, TaskDescription(), Plan(), "s.n", "/s", "/s/n", "ab")


@dataclass
class Cluster:
    """Takes jobs as a test says."""

    answer: Callable[[BatchJob], Awaitable[None]]
    withdraws: bool = False
    submitted: list[str] = field(default_factory=list)
    failed: dict[str, Exception] = field(default_factory=dict)
    withdrawn: list[str] = field(default_factory=list)
    found: Callable[[], bool] = lambda: False
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def submitting(self, patience: float = 0.0, rate: float = 1000.0) -> Submitting:
        async def find(job: BatchJob) -> bool:
            return self.found()

        async def withdraw(job: BatchJob) -> bool:
            self.withdrawn.append(job.uid)
            return self.withdraws

        made = Submitting(Pace(rate, 2, 100, patience), self.answer, find, withdraw, self.take, self.fail)
        made.start()
        return made

    def take(self, job: BatchJob) -> None:
        self.submitted.append(job.uid)
        self.told.set()

    def fail(self, job: BatchJob, error: Exception) -> None:
        self.failed[job.uid] = error
        self.told.set()


def refusing(failure: Transient, most: int, running: set[str]) -> Callable[[BatchJob], Awaitable[None]]:
    async def answer(job: BatchJob) -> None:
        if len(running) >= most:
            raise TransientError.of(failure)
        running.add(job.uid)

    return answer


@pytest.mark.parametrize("failure", [TOO_MANY, UNNAMED])
async def test_a_limit_is_waited_out_while_own_jobs_are_queued(failure: Transient) -> None:
    running: set[str] = set()
    cluster = Cluster(refusing(failure, 1, running))
    submitting = cluster.submitting()
    for number in (1, 2):
        submitting.add(job(number))
    await cluster.told.wait()
    cluster.told.clear()
    running.clear()
    submitting.left_queue()
    await cluster.told.wait()
    assert cluster.submitted == ["task.000001", "task.000002"] and not cluster.failed
    await submitting.close()


@pytest.mark.parametrize("failure", [TOO_MANY, UNNAMED, DOWN])
async def test_patience_runs_out_where_nothing_of_ours_is_queued(failure: Transient) -> None:
    cluster = Cluster(refusing(failure, 0, set()))
    submitting = cluster.submitting()
    one = job(1)
    submitting.add(one)
    await cluster.told.wait()
    assert isinstance(cluster.failed["task.000001"], SubmitError) and failure.text in str(cluster.failed)
    assert one.phase is Phase.ENDED
    # That only one of our own jobs could make room is no reason to try it again.
    assert cluster.failed["task.000001"].transient is (failure is not UNNAMED)  # type: ignore[attr-defined]
    await submitting.close()


@pytest.mark.parametrize("withdraws", [False, True])
async def test_what_may_be_in_the_queue_is_tried_again_only_if_it_runs_nothing(withdraws: bool) -> None:
    cluster = Cluster(refusing(Transient("no answer", 0.0, unclear=True), 0, set()), withdraws)
    submitting = cluster.submitting()
    submitting.add(job(1))
    await cluster.told.wait()
    error = cluster.failed["task.000001"]
    assert isinstance(error, SubmitError) and error.transient is withdraws
    await submitting.close()


async def refused(job: BatchJob) -> None:
    raise TransientError("words that nobody knows", unclear=True, refused=True)


@pytest.mark.parametrize("found", [[True], [False, True]], ids=["listed", "begun"])
async def test_a_refusal_that_nobody_knows_is_looked_for(found: list[bool]) -> None:
    cluster = Cluster(refused, found=iter(found).__next__)
    submitting = cluster.submitting(patience=1000.0)
    submitting.add(job(1))
    await cluster.told.wait()
    assert cluster.submitted == ["task.000001"] and not cluster.failed
    await submitting.close()


async def test_a_refusal_that_nobody_knows_is_final_and_runs_nothing() -> None:
    cluster = Cluster(refused, withdraws=True)
    submitting = cluster.submitting(patience=1000.0)
    submitting.add(job(1))
    await cluster.told.wait()
    error = cluster.failed["task.000001"]
    assert "words that nobody knows" in str(error) and error.transient is False  # type: ignore[attr-defined]
    assert cluster.withdrawn == ["task.000001"]
    await submitting.close()


async def test_nobody_can_say_whether_a_job_runs() -> None:
    cluster = Cluster(refused)
    submitting = cluster.submitting(patience=1000.0)
    submitting.add(job(1))
    await cluster.told.wait()
    assert "may or may not have been submitted: look for job s.n in the queue" in str(cluster.failed["task.000001"])
    await submitting.close()


async def test_what_a_cancellation_or_a_closing_cuts_off_runs_nothing_or_is_left_to_a_later_driver() -> None:
    cluster = Cluster(refusing(Transient("no answer", 1000.0, unclear=True), 0, set()), withdraws=True)
    submitting = cluster.submitting(patience=1000.0)
    left, cancelled = job(1), job(2)
    for one in (left, cancelled):
        submitting.add(one)
    while not left.phase is cancelled.phase is Phase.SUBMITTING:
        await asyncio.sleep(0)
    cancelled.asked, cancelled.placed = FailureCause.CANCELLED, True
    await submitting.close()
    assert list(cluster.failed) == cluster.withdrawn == ["task.000002"]


async def test_a_limit_that_is_not_named_is_final_where_no_job_can_end() -> None:
    cluster = Cluster(refusing(UNNAMED, 0, set()))
    submitting = cluster.submitting(patience=1000.0)
    submitting.add(job(1))
    await cluster.told.wait()
    assert "some limit" in str(cluster.failed["task.000001"])
    await submitting.close()


@pytest.mark.parametrize("failure", [Transient("too many jobs", 1000.0, limit=True), Transient("down", 1000.0)])
async def test_closing_ends_the_waiting(failure: Transient) -> None:
    running: set[str] = set()
    cluster = Cluster(refusing(failure, 1, running))
    submitting = cluster.submitting(patience=1000.0)
    for number in (1, 2):
        submitting.add(job(number))
    await cluster.told.wait()
    await submitting.close()
    assert cluster.submitted == ["task.000001"] and list(cluster.failed) in ([], ["task.000002"])


@pytest.mark.parametrize("cancelled", [False, True])
async def test_closing_does_not_wait_for_the_turns_of_jobs(cancelled: bool) -> None:
    cluster = Cluster(refusing(DOWN, 10, set()))
    submitting = cluster.submitting(rate=0.001)
    jobs = [job(number) for number in range(1, 10)]
    for one in jobs:
        submitting.add(one)
    await cluster.told.wait()
    removed = set()
    if cancelled:
        for one in jobs[1:]:
            if submitting.remove(one):
                removed.add(one.uid)
            else:
                one.asked = FailureCause.CANCELLED
    await submitting.close()
    assert cluster.submitted == ["task.000001"]
    # Each of them is told once; what a later driver is to submit is not told at all.
    assert removed.isdisjoint(cluster.failed)
    assert removed | set(cluster.failed) == ({one.uid for one in jobs[1:]} if cancelled else set())
    assert cancelled is bool(cluster.failed)
