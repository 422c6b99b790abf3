"""Drawn tasks come on a real Slurm to what plain sh makes of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.integration.drawn_tasks import Drawn, tasks
from tests.integration.test_scripts_differential import compare, drawn

from .on_slurm import backend, on_slurm

pytestmark = on_slurm


# Walltimes of Slurm are minutes: the contract suite has one.
@given(st.lists(tasks().filter(lambda task: not task.limit), min_size=12, max_size=12))
@drawn
def test_a_sample(given_tasks: list[Drawn]) -> None:
    compare(backend, given_tasks)
