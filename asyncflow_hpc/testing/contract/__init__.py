"""What every backend must do; run it with `pytest --pyargs asyncflow_hpc.testing.contract`, see docs/contract.md."""
