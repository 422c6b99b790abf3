"""Runs what is shipped."""

from asyncflow_hpc.testing.contract.test_shutdown import *  # noqa: F403
