"""Runs what is shipped."""

from asyncflow_hpc.testing.contract.test_cache import *  # noqa: F403
