"""Gradient boosting on several hosts, beside LightGBM's socket learner on the same hosts and rows: time, bytes sent.

    mpiexec -n 4 python benchmarks/boosting_cluster.py --label "4 hosts, 200 Mbit/s" \\
        > benchmarks/results/boosting-cluster-<MPI>-4-200mbit.txt

One process a host does both, in turn, with the same rate, leaves, bins and least rows of a leaf, one thread each.
LightGBM runs with ``tree_learner=data`` (and, for comparison, ``voting``) over the hosts' addresses, which ranks tell
each other; its ports are open between them. A fit's time counts from NumPy arrays in memory on every host, binning,
Dataset and LightGBM's connections included, from a barrier on to the slowest rank. Bytes are what the host's interface
sent meanwhile, as its kernel counts them, headers included; "formula" is what `hpcml.models.trees.grower` says a rank
sends, of the rank that sends most, and before it once for the bins: (p − 1)/p of the values that are sampled of it.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import higgs_like  # noqa: E402

from hpcml.models import GradientBoostingClassifier  # noqa: E402
from hpcml.models.trees.binning import SAMPLE  # noqa: E402

COMM = MPI.COMM_WORLD
RATE, BINS, LEAST = 0.1, 255, 20


class Fit(NamedTuple):
    seconds: float
    sent: float  # bytes, of the host that sent most
    formula: float
    auc: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--label", default="", help="what to call the network in the results")
    parser.add_argument("--rows", type=int, default=400_000, help="of all hosts (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=50_000)
    parser.add_argument("--trees", type=int, default=20)
    parser.add_argument("--leaves", type=int, default=63)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--learners", default="data,voting", help="LightGBM's (default: %(default)s)")
    parser.add_argument("--interface", default="eth0", help="that the hosts are joined by (default: %(default)s)")
    parser.add_argument("--port", type=int, default=12400, help="LightGBM's first (default: %(default)s)")
    args = parser.parse_args()
    cuts = np.linspace(0, args.rows, COMM.size + 1).astype(int)
    X, y = higgs_like.rows(cuts[COMM.rank], cuts[COMM.rank + 1])
    test = higgs_like.rows(args.rows, args.rows + args.held_out)
    ways: dict[str, Callable[..., Any]] = {"hpcml": hpcml}
    ways |= {f"LightGBM, {learner}": lightgbm(learner, args) for learner in args.learners.split(",") if learner}
    found: dict[str, list[Fit]] = {way: [] for way in ways}
    for turn in range(args.turns + 1):  # the first, on few rows, compiles and loads
        for way, fit in ways.items():
            rows = (X, y) if turn else (X[:2000], y[:2000])
            COMM.Barrier()
            sent, began = sent_nbytes(args.interface), perf_counter()
            predict, formula = fit(*rows, args.leaves, args.trees if turn else 2)
            COMM.Barrier()
            seconds = perf_counter() - began
            mine = np.array([seconds, sent_nbytes(args.interface) - sent, formula], np.float64)
            most = np.empty(3)
            COMM.Allreduce(mine, most, MPI.MAX)
            if turn and COMM.rank == 0:
                found[way].append(Fit(*most, auc(test[1], predict(test[0]))))
                print(f"{way}: {found[way][-1]}", file=sys.stderr)
    if COMM.rank == 0:
        report(args, found)


def hpcml(X: np.ndarray, y: np.ndarray, leaves: int, trees: int) -> tuple[Callable[..., Any], float]:
    model = GradientBoostingClassifier(
        trees, learning_rate=RATE, max_leaf_nodes=leaves, max_bins=BINS, min_samples_leaf=LEAST
    )
    model.fit(X, y)
    sent = sum(record["sent_nbytes"] for record in model.history_)
    sampled = min(SAMPLE, COMM.size * len(X)) / COMM.size * X.shape[1] * X.itemsize
    return lambda rows: model.predict_proba(rows)[:, 1], sent + sampled * (COMM.size - 1) / COMM.size


def lightgbm(learner: str, args: argparse.Namespace) -> Callable[..., Any]:
    """Fits over the hosts of all ranks; each fit has ports of its own, as closed ones may not be free at once."""
    import lightgbm as library

    hosts = COMM.allgather(address(args.interface))
    place = [hosts[:rank].count(host) for rank, host in enumerate(hosts)]  # several on one host need several ports
    ports = iter(range(args.port + 100 * (len(learner) % 7), 65000, COMM.size))

    def fit(X: np.ndarray, y: np.ndarray, leaves: int, trees: int) -> tuple[Callable[..., Any], float]:
        port = next(ports)
        machines = ",".join(f"{host}:{port + shift}" for host, shift in zip(hosts, place, strict=True))
        settings = {
            "objective": "binary",
            "learning_rate": RATE,
            "num_leaves": leaves,
            "max_bin": BINS,
            "min_data_in_leaf": LEAST,
            "num_threads": 1,
            "verbose": -1,
            "tree_learner": learner,
            "pre_partition": True,
            "num_machines": COMM.size,
            "machines": machines,
            "local_listen_port": port + place[COMM.rank],
            "time_out": 10,
        }
        booster = library.train(settings, library.Dataset(X, y, params=settings), trees)
        booster.free_network()
        return lambda rows: booster.predict(rows, num_threads=1), 0.0

    return fit


def address(interface: str) -> str:
    """This host's, by that interface; of this machine alone where there is no such interface."""
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            name = struct.pack("256s", interface.encode()[:15])
            return socket.inet_ntoa(fcntl.ioctl(one.fileno(), 0x8915, name)[20:24])  # SIOCGIFADDR
        except OSError:
            return "127.0.0.1"


def sent_nbytes(interface: str) -> int:
    path = Path(f"/sys/class/net/{interface}/statistics/tx_bytes")
    return int(path.read_text()) if path.exists() else 0


def auc(y: np.ndarray, scores: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(y, scores))


def report(args: argparse.Namespace, found: dict[str, list[Fit]]) -> None:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    library = " ".join(MPI.Get_library_version().split()[:3]).strip(",")
    print(
        f"commit {commit}, {os.cpu_count()} cores in all, {library}, Python {platform.python_version()}, "
        f"lightgbm {version('lightgbm')}, numba {version('numba')}"
    )
    print(
        f"{args.label}: {COMM.size} ranks, {args.rows:,} x {higgs_like.COLUMNS} float32, {args.trees} trees, "
        f"{args.leaves} leaves, {BINS} bins, 1 thread a rank"
    )
    print(
        f"{'':20}{'fit s':>8}{'[least, most]':>18}{'hpcml /':>9}{'MB sent':>9}{'hpcml /':>9}{'formula':>9}"
        f"{'sent /':>8}{'AUC':>9}"
    )
    ours = {name: np.median([getattr(fit, name) for fit in found["hpcml"]]) for name in Fit._fields}
    for way, fits in found.items():
        mine = {name: np.median([getattr(fit, name) for fit in fits]) for name in Fit._fields}
        seconds = [fit.seconds for fit in fits]
        formula = f"{mine['formula'] / 1e6:9.1f}{mine['sent'] / mine['formula']:8.3f}" if mine["formula"] else " " * 17
        print(
            f"{way:20}{mine['seconds']:8.2f}{f'[{min(seconds):.2f}, {max(seconds):.2f}]':>18}"
            f"{ours['seconds'] / mine['seconds']:9.2f}{mine['sent'] / 1e6:9.1f}"
            f"{ours['sent'] / max(mine['sent'], 1):9.2f}{formula}{mine['auc']:9.5f}"
        )
    print(f"medians of {args.turns} turns; hpcml /: its time, or bytes, over this one's: below 1 is less than it.")


if __name__ == "__main__":
    main()
