"""Runs what is shipped."""

from asyncflow_hpc.testing.contract.test_life import *  # noqa: F403
