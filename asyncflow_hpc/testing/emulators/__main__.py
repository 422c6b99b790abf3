"""Running a program with the commands of an emulated batch system on PATH.

python -m asyncflow_hpc.testing.emulators pbs --nodes 2 -- python script.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from .emulation import COMMANDS, emulate


def main() -> int:
    """Run a program, and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m asyncflow_hpc.testing.emulators",
        description="Run a program with the commands of an emulated batch system first on PATH.",
    )
    parser.add_argument("kind", choices=list(COMMANDS))
    parser.add_argument("--nodes", type=int, default=4, help="pretended nodes (%(default)s)")
    parser.add_argument("--cores", type=int, default=16, help="cores of each (%(default)s)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of each (%(default)s)")
    parser.add_argument("--speed", type=float, default=1.0, help="by which walltimes and delays are shorter")
    parser.add_argument("command", nargs="+", help="the program and its arguments, after --")
    given = vars(parser.parse_args())
    command = given.pop("command")
    with emulate(given.pop("kind"), **given):
        try:
            code = subprocess.run(command, check=False).returncode
        except OSError as error:
            print(f"{command[0]} cannot be started: {error}", file=sys.stderr)
            return 127
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
