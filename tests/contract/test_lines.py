"""Runs what is shipped."""

from asyncflow_hpc.testing.contract.test_lines import *  # noqa: F403
