"""Runs what is shipped."""

from asyncflow_hpc.testing.contract.test_services import *  # noqa: F403
