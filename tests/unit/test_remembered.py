"""What is kept of task descriptions is of the one that was asked for."""

from __future__ import annotations

import pytest

from asyncflow_hpc.backends.remembered import Remembered
from asyncflow_hpc.task import TaskDescription


def test_each_description_has_its_own_result_however_many_come_and_go() -> None:
    remembered = Remembered(lambda description: [description.ranks])
    for ranks in range(1, 1000):
        # The next one has its id, were it not kept.
        assert remembered(TaskDescription(ranks=ranks)) == [ranks]


def test_a_description_is_looked_at_once() -> None:
    remembered = Remembered(lambda description: [description.ranks])
    one, other = TaskDescription(ranks=2), TaskDescription(ranks=2)
    assert remembered(one) is remembered(one) and remembered(one) is not remembered(other)


def test_a_refusal_is_not_kept() -> None:
    answers = iter([ValueError("not now"), None])

    def refuse_once(description: TaskDescription) -> int:
        if (error := next(answers)) is not None:
            raise error
        return description.ranks

    remembered, description = Remembered(refuse_once), TaskDescription(ranks=3)
    with pytest.raises(ValueError, match="not now"):
        remembered(description)
    assert remembered(description) == remembered(description) == 3
