"""The project's own Slurm for development and tests: several nodes on one machine, in one directory."""
