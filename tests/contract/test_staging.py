"""Runs what is shipped."""

from asyncflow_hpc.testing.contract.test_staging import *  # noqa: F403
