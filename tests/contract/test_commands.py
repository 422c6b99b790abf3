"""Runs what is shipped."""

from asyncflow_hpc.testing.contract.test_commands import *  # noqa: F403
