"""Runs what is shipped."""

from asyncflow_hpc.testing.contract.test_functions import *  # noqa: F403
