"""Runs what is shipped."""

from asyncflow_hpc.testing.contract.test_processes import *  # noqa: F403
