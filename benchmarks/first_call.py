"""What the first call of a fresh process costs with a warm disk cache: import, compiled code, first all-reduce.

    make environments
    python3 benchmarks/first_call.py

Starting MPI itself (MPI_Init, before hpcml is imported) is not in it, and is shown beside it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from environment import ALLOWANCES, WHEELS  # noqa: E402

PROCESS = """
from time import perf_counter
begin = perf_counter()
import numpy as np
from mpi4py import MPI
started = perf_counter()
from hpcml import collectives as hc
imported = perf_counter()
hc.allreduce(np.ones(1000, "f4"))
called = perf_counter()
if MPI.COMM_WORLD.rank == 0:
    print(started - begin, imported - started, called - imported)
"""


def main() -> None:
    lines = ["seconds, medians of 9 fresh jobs of 2 ranks: MPI_Init and NumPy | import hpcml.collectives | first call"]
    for mpi in WHEELS:
        tools = ROOT / f".venv-{mpi}" / "bin"
        if not tools.exists():
            print(f"{mpi}: no environment (make environments)")
            continue
        command = [str(tools / "mpiexec"), "-n", "2", str(tools / "python"), "-c", PROCESS]
        runs = []
        for _ in range(10):
            ran = subprocess.run(command, env={**ALLOWANCES, **os.environ}, capture_output=True, text=True, check=True)
            runs.append([float(number) for number in ran.stdout.split()])
        init, imported, called = (statistics.median(column) for column in zip(*runs[1:], strict=True))
        lines.append(f"{mpi:8} {init:.3f} | {imported:.3f} | {called:.3f}   sum of ours {imported + called:.3f}")
    text = "\n".join(lines)
    print(text)
    (ROOT / "benchmarks" / "results" / "first_call.txt").write_text(text + "\n")


if __name__ == "__main__":
    main()
