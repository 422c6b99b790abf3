"""The execution backends; installed as `asyncflow_hpc.backends`."""
