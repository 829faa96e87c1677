"""The linear SVM on several hosts: time, how much of it went between them, and bytes sent beside the formula.

    mpiexec -n 4 python benchmarks/linear_cluster.py --label "4 hosts, 200 Mbit/s" \\
        > benchmarks/results/linear-cluster-<MPI>-4-200mbit.txt

The data are those of `linear`, fewer rows. A fit counts from rows in memory on every host, from a barrier on to the
slowest rank, to a relative duality gap of 1e-3. Bytes are what the host's interface sent meanwhile, as its kernel
counts them, headers included, of the host that sent most; "formula" is 2 (p − 1)/p · n for each all-reduce of n bytes
over the design (`hpcml.models.design`), which is what there is to send, but for some numbers an iteration.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
from importlib.metadata import version
from time import perf_counter
from unittest import mock

import boosting_cluster
import linear
import numpy as np
from boosting_cluster import COMM, sent_nbytes
from mpi4py import MPI

from hpcml.models import LinearSVC
from hpcml.models.design import Design

GAP = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--label", default="", help="what to call the network in the results")
    parser.add_argument("--dense", type=int, default=160_000, help="rows x 100 (default: %(default)s)")
    parser.add_argument("--sparse", type=int, default=80_000, help="rows x 50,000 (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--interface", default="eth0", help="that the hosts are joined by (default: %(default)s)")
    args = parser.parse_args()
    report_head(args)
    for kind, rows in (("dense", args.dense), ("sparse", args.sparse)):
        cuts = np.linspace(0, rows // linear.BLOCK, COMM.size + 1).astype(int) * linear.BLOCK
        X, y = linear.SETS[kind][0](cuts[COMM.rank], cuts[COMM.rank + 1])
        for loss in ("hinge", "squared_hinge"):
            fitted([X[:200], y[:200]], loss, args.interface)  # compiles, connects
            found = np.array([fitted([X, y], loss, args.interface) for _ in range(args.turns)])
            if COMM.rank == 0:
                seconds, waited, sent, formula, iterations, gap = np.median(found, axis=0)
                spread = f"[{found[:, 0].min():.2f}, {found[:, 0].max():.2f}]"
                print(
                    f"{kind:8}{loss:15}{rows:9,}{seconds:8.2f}{spread:>16}"
                    f"{waited:10.2f}{iterations:11.0f}{gap:10.1e}{sent / 1e6:9.2f}{formula / 1e6:9.2f}"
                    f"{sent / formula:8.3f}",
                    flush=True,
                )


def fitted(rows: list, loss: str, interface: str) -> tuple[float, ...]:
    """Seconds, seconds of waiting, bytes sent and by the formula, iterations, the gap. Collective."""
    formula = 0.0
    added = Design._added

    def counted(design: Design, sums: np.ndarray) -> np.ndarray:
        nonlocal formula
        formula += 2 * (COMM.size - 1) / COMM.size * sums[0].nbytes
        return added(design, sums)

    COMM.Barrier()
    sent, began = sent_nbytes(interface), perf_counter()
    with mock.patch.object(Design, "_added", counted):
        model = LinearSVC(loss=loss, tol=GAP).fit(*rows)
    COMM.Barrier()
    mine = np.array([perf_counter() - began, sent_nbytes(interface) - sent], np.float64)
    most = np.empty(2)
    COMM.Allreduce(mine, most, MPI.MAX)
    waited = sum(record["communication_seconds"] for record in model.history_)
    return most[0], waited, most[1], formula, float(len(model.history_)), float(model.gap_)


def report_head(args: argparse.Namespace) -> None:
    if COMM.rank:
        return
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(command, cwd=boosting_cluster.ROOT, capture_output=True, text=True).stdout.strip()
    library = " ".join(MPI.Get_library_version().split()[:3]).strip(",")
    print(
        f"commit {commit}, {os.cpu_count()} cores in all, {library}, Python {platform.python_version()}, "
        f"numba {version('numba')}\n"
        f"{args.label}: {COMM.size} ranks, 1 thread each; gap {GAP:g}, medians of {args.turns}\n"
        f"{'rows':8}{'loss':15}{'':9}{'fit s':>8}{'[least, most]':>16}{'waited':>10}{'iterations':>11}{'gap':>10}"
        f"{'MB sent':>9}{'formula':>9}{'sent /':>8}"
    )


if __name__ == "__main__":
    main()
