"""What reproducible=True costs: all-reduce with it and without, in one run, taking turns.

    make environments
    python3 benchmarks/reproducible.py --ranks 2 4

Three columns of microseconds: the plain sum; the reproducible one; the reproducible one of 8 rows spread over the ranks
(axis=0), beside a plain one of as many. Data are standard normal, written anew before each call outside the timing.
Medians of the slowest rank's times. Results: benchmarks/results/reproducible-<MPI>-<ranks>.txt.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from environment import ALLOWANCES, WHEELS  # noqa: E402

SIZES = [8 << 2 * k for k in range(12)] + [64 << 20]  # bytes: 8 to 32 MiB by fours, and 64 MiB
REPEAT = 15
BATCH_SECONDS = 2e-3
ROWS = 8
ONE_RANK = "--one-rank"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    for mpi in WHEELS:
        tools = ROOT / f".venv-{mpi}" / "bin"
        if not tools.exists():
            print(f"{mpi}: no environment (make environments)")
            continue
        for ranks in args.ranks:
            command = [tools / "mpiexec", "-n", str(ranks), tools / "python", __file__, ONE_RANK]
            ran = subprocess.run(
                list(map(str, command)), env={**ALLOWANCES, **os.environ}, stdout=subprocess.PIPE, text=True, check=True
            )
            print(ran.stdout)
            path = ROOT / "benchmarks" / "results" / f"reproducible-{mpi}-{ranks}.txt"
            path.write_text(f"commit {commit.strip()}, {os.cpu_count()} cores\n{ran.stdout}")


def one_rank() -> None:
    import numpy as np
    from mpi4py import MPI

    from hpcml import collectives as hc

    comm = MPI.COMM_WORLD
    generator = np.random.default_rng(comm.rank)

    def seconds(call, x) -> float:
        """Of one call, on the slowest rank."""
        x[...] = x[..., ::-1].copy()
        batch, took = 1, 0.0
        while True:
            comm.Barrier()
            begin = perf_counter()
            for _ in range(batch):
                call(x)
            took = comm.allreduce(perf_counter() - begin, MPI.MAX)
            if took > BATCH_SECONDS:
                return took / batch
            batch *= 2

    candidates = (
        lambda x: hc.allreduce(x[0]),
        lambda x: hc.allreduce(x[0], reproducible=True),
        lambda x: hc.allreduce(x, axis=0),
        lambda x: hc.allreduce(x, axis=0, reproducible=True),
    )
    if comm.rank == 0:
        print(
            f"{MPI.Get_library_version().splitlines()[0].strip()}, {comm.size} ranks; microseconds, medians of {REPEAT}"
        )
        print("dtype       bytes |      plain  reproducible  factor |  plain, rows  reproducible  factor")
    for dtype in ("float32", "float64"):
        for nbytes in SIZES:
            rows = ROWS // comm.size + (comm.rank < ROWS % comm.size)
            x = generator.standard_normal((max(rows, 1), nbytes // np.dtype(dtype).itemsize)).astype(dtype)
            for call in candidates:
                call(x)
            taken = [[seconds(call, x) for call in candidates] for _ in range(REPEAT)]
            plain, exact, plain_rows, exact_rows = 1e6 * np.median(taken, axis=0)
            if comm.rank == 0:
                print(
                    f"{dtype} {nbytes:9} | {plain:10.1f} {exact:13.1f} {exact / plain:7.2f} "
                    f"| {plain_rows:12.1f} {exact_rows:13.1f} {exact_rows / plain_rows:7.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    one_rank() if sys.argv[1:2] == [ONE_RANK] else main()
