"""Runs what is shipped."""

from asyncflow_hpc.testing.contract.test_resume import *  # noqa: F403
