"""What checking mode costs: the same calls with it and without, alternating, in one run.

    mpiexec -n 2 python benchmarks/checking.py

A timing is the mean over a batch of calls on the slowest rank; the medians and quartiles over all batches are written
to benchmarks/results/checking-<MPI>-<ranks>.txt.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc

RESULTS = Path(__file__).resolve().parent / "results"
SIZES = {8: 2000, 16 << 10: 1000, 1 << 20: 100}  # bytes: calls in a batch
WAYS = ("plan", "function")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=41)
    turns = parser.parse_args().turns
    world = MPI.COMM_WORLD
    seconds = {(nbytes, way): measured(nbytes, way, turns) for nbytes in SIZES for way in WAYS}
    if world.rank:
        return
    library = " ".join(MPI.Get_library_version().splitlines()[0].split(",")[0].strip("\0").split())
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    lines = [
        f"# all-reduce of float32 on {world.size} ranks, microseconds: median of {turns} batches [quartiles]",
        f"# {library}, Python {sys.version.split()[0]}, {os.cpu_count()} cores, commit {commit}",
        f"{'bytes':>9}  {'':10}{'unchecked':>28}{'checked':>28}{'more':>8}",
    ]
    for (nbytes, way), times in seconds.items():
        columns = "".join(
            f"{median:12.2f} [{low:.2f}, {high:.2f}]".rjust(28)
            for low, median, high in (np.quantile(found, [0.25, 0.5, 0.75]) for found in times)
        )
        more = np.median(times[1]) - np.median(times[0])
        lines.append(f"{nbytes:9,}  {way:10}{columns}{more:8.2f}")
    text = "\n".join(lines)
    print(text)
    name = "mpich" if "MPICH" in library else "openmpi" if "Open MPI" in library else "mpi"
    (RESULTS / f"checking-{name}-{world.size}.txt").write_text(text + "\n")


def measured(nbytes: int, way: str, turns: int) -> np.ndarray:
    """Microseconds a call, shape (2, turns): unchecked, checked."""
    x = np.ones(nbytes // 4, "f4")
    out = np.empty_like(x)
    plan = hc.plan("allreduce", x, out=out)

    def start() -> None:
        plan.start()
        plan.wait()

    call: Callable[[], object] = start if way == "plan" else lambda: hc.allreduce(x, out=out)
    times = np.empty((2, turns))
    for turn in range(-1, turns):  # the first is not counted
        for checked in (False, True):
            with hc.checking(checked):
                hc.barrier()
                begin = perf_counter()
                for _ in range(SIZES[nbytes]):
                    call()
                times[int(checked), turn] = (perf_counter() - begin) / SIZES[nbytes] * 1e6
    plan.close()
    return hc.allreduce(times, "max")


if __name__ == "__main__":
    main()
