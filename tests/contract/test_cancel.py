"""Runs what is shipped."""

from asyncflow_hpc.testing.contract.test_cancel import *  # noqa: F403
