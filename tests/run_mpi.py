"""Run tests/mpi under mpiexec, at each number of ranks given, with the MPI of this Python's environment.

    .venv-mpich/bin/python tests/run_mpi.py 1 2 3 4
    .venv-mpich/bin/python tests/run_mpi.py 3 -- -k broadcast

Every rank runs pytest over the same tests in step. Rank 0 reports; another rank's report is shown where it has
failures. The exit status is that of the first size that fails. What ends a run that hangs is in tests/mpi/conftest.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
RANK = "--one-rank"  # how this program calls itself under mpiexec


def main() -> int:
    sys.path.insert(0, str(HERE.parent / "tools"))
    from environment import ALLOWANCES

    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    sizes = [int(size) for size in arguments[:cut]] or [1, 2, 3, 4]
    mpiexec = Path(sys.executable).parent / "mpiexec"
    for size in sizes:
        print(f"--- {size} rank{'s' * (size > 1)}, {mpiexec}", flush=True)
        command = [str(mpiexec), "-n", str(size), sys.executable, __file__, RANK, *arguments[cut + 1 :]]
        ran = subprocess.run(command, env={**ALLOWANCES, **os.environ}, stdin=subprocess.DEVNULL)
        if ran.returncode:
            print(f"--- failed at {size} ranks, with status {ran.returncode}", flush=True)
            return ran.returncode
    return 0


def one_rank(arguments: list[str]) -> int:
    """pytest on this rank, with its report kept back on all ranks but 0."""
    import pytest
    from mpi4py import MPI

    rank, size = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
    folder = [] if any(Path(a).exists() for a in arguments) else [str(HERE / "mpi")]
    options = ["-q", "--color=no", "-p", "no:cacheprovider", *folder, *arguments]
    with tempfile.TemporaryDirectory() as folder:  # each rank its own: pytest's clean-up of a common one is a race
        os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
        return pytest.main(options) if rank == 0 else quietly(options, rank, size)


def quietly(options: list[str], rank: int, size: int) -> int:
    """Run pytest and show its report only where something failed."""
    import pytest

    with tempfile.TemporaryFile("w+") as report:
        stdout = os.dup(1)
        os.dup2(report.fileno(), 1)
        status = pytest.main(options)
        sys.stdout.flush()
        os.dup2(stdout, 1)
        if status:
            report.seek(0)
            print(f"\n--- rank {rank} of {size}\n{report.read()}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(one_rank(sys.argv[2:]) if sys.argv[1:2] == [RANK] else main())
