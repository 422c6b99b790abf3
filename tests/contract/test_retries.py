"""Runs what is shipped."""

from asyncflow_hpc.testing.contract.test_retries import *  # noqa: F403
