"""Gradient boosting on rows like HIGGS, beside LightGBM and XGBoost: time to fit, AUC, time to predict.

    python benchmarks/boosting.py [--leaves 63,255] [--turns 3] > benchmarks/results/boosting-<MPI>.txt

Run by a Python that has hpcml and scikit-learn; the rivals are this Python's, or those of ``--rivals``. Each fit is a
process of its own, hpcml's on two ranks started by the mpiexec beside this Python, one after another and turn by turn;
nothing else runs meanwhile. The time to fit counts from NumPy arrays in memory: binning, LightGBM's Dataset and
XGBoost's QuantileDMatrix are in it, making the rows, imports and, for all, a first fit of 2,000 rows are not. It is
that of the slowest rank. All have the same rate, leaves, bins and least rows of a leaf (XGBoost: its least hessian) and
grow leaf-wise without a limit of depth; else their defaults, with LightGBM's way to build histograms given by
``--lightgbm``. Its quantised gradients, an option, have a line of their own. Predictions are probabilities of rows that
no fit has seen, on as many ranks or threads as the fit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(ROOT / "benchmarks")]

import higgs_like  # noqa: E402

RATE, BINS, LEAST, HESSIAN = 0.1, 255, 20, 1e-3
WAYS = ("hpcml", "LightGBM", "LightGBM, quantised", "XGBoost")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--held-out", type=int, default=100_000)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--leaves", default="63,255")
    parser.add_argument("--cores", default="1,2", help="ranks of hpcml, threads of the others")
    parser.add_argument("--ways", default=";".join(WAYS))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--lightgbm", choices=("force_row_wise", "force_col_wise"), default="force_row_wise")
    parser.add_argument("--rivals", default=sys.executable, metavar="PYTHON", help="that has lightgbm and xgboost")
    parser.add_argument("--log", type=Path, help="a file of records, one a line, to add to and to report from")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print_of_rank_0(one(args))
        return
    found = [json.loads(line) for line in args.log.read_text().splitlines()] if args.log and args.log.exists() else []
    for _ in range(args.turns):
        for leaves in map(int, args.leaves.split(",")):
            for cores in map(int, args.cores.split(",")):
                for way in args.ways.split(";"):
                    record = {"way": way, "cores": cores, "leaves": leaves, **run(args, way, cores, leaves)}
                    found.append(record)
                    print(json.dumps(record), file=sys.stderr)
                    if args.log:
                        with args.log.open("a") as log:
                            print(json.dumps(record), file=log)
    report(args, found)


def run(args: argparse.Namespace, way: str, cores: int, leaves: int) -> dict[str, Any]:
    """One fit in a process of its own, or, for hpcml, in as many as cores."""
    from environment import ALLOWANCES

    python = sys.executable if way == "hpcml" else args.rivals
    command = [python, __file__, "--one", way, "--cores", str(cores), "--leaves", str(leaves)]
    command += ["--rows", str(args.rows), "--trees", str(args.trees), "--held-out", str(args.held_out)]
    command += ["--lightgbm", args.lightgbm]
    if way == "hpcml":
        command = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(cores), *command]
    env = {**ALLOWANCES, **os.environ, "OMP_NUM_THREADS": "1" if way == "hpcml" else str(cores)}
    ran = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


def print_of_rank_0(record: dict[str, Any] | None) -> None:
    if record is not None:
        print(json.dumps(record), flush=True)


def one(args: argparse.Namespace) -> dict[str, Any] | None:
    leaves, cores = int(args.leaves), int(args.cores)
    test = higgs_like.rows(args.rows, args.rows + args.held_out)
    if args.one == "hpcml":
        return hpcml(args, leaves, test)
    X, y = higgs_like.rows(0, args.rows)
    make = xgboost if args.one == "XGBoost" else lightgbm
    fit, predict = make(args, leaves, cores)
    fit(X[:2000], y[:2000], 2)
    began = perf_counter()
    model = fit(X, y, args.trees)
    seconds = perf_counter() - began
    predict(model, test[0][:1000])
    found, predicting = timed(lambda: predict(model, test[0]))
    return {"fit": seconds, "predict": predicting, "auc": auc(test[1], found), "version": of(args.one)}


def hpcml(args: argparse.Namespace, leaves: int, test: tuple[np.ndarray, np.ndarray]) -> dict[str, Any] | None:
    from mpi4py import MPI

    from hpcml.models import GradientBoostingClassifier

    comm = MPI.COMM_WORLD
    cuts = np.linspace(0, args.rows, comm.size + 1).astype(int)
    X, y = higgs_like.rows(cuts[comm.rank], cuts[comm.rank + 1])
    mine = np.array_split(test[0], comm.size)[comm.rank]

    def fresh(trees: int) -> GradientBoostingClassifier:
        return GradientBoostingClassifier(
            trees, learning_rate=RATE, max_leaf_nodes=leaves, max_bins=BINS, min_samples_leaf=LEAST
        )

    fresh(2).fit(X[:2000], y[:2000]).predict_proba(mine[:1000])  # compiles, or finds what is compiled
    comm.Barrier()
    began = perf_counter()
    model = fresh(args.trees).fit(X, y)
    comm.Barrier()
    seconds = perf_counter() - began
    comm.Barrier()
    found, predicting = timed(lambda: model.predict_proba(mine)[:, 1])
    predicting = comm.allreduce(predicting, MPI.MAX)
    everyones = comm.gather(found)
    if everyones is None:
        return None
    return {
        "fit": seconds,
        "predict": predicting,
        "auc": auc(test[1], np.concatenate(everyones)),
        "version": f"{of('numba')}, {of('mpi4py')}",
    }


def lightgbm(args: argparse.Namespace, leaves: int, cores: int):
    import lightgbm as library

    settings = {
        "objective": "binary",
        "learning_rate": RATE,
        "num_leaves": leaves,
        "max_bin": BINS,
        "min_data_in_leaf": LEAST,
        "min_sum_hessian_in_leaf": HESSIAN,
        "num_threads": cores,
        "verbose": -1,
        args.lightgbm: True,
    }
    if args.one.endswith("quantised"):
        settings |= {"use_quantized_grad": True, "quant_train_renew_leaf": True}

    def fit(X, y, trees):
        return library.train(settings, library.Dataset(X, y, params={"max_bin": BINS, "num_threads": cores}), trees)

    return fit, lambda model, X: model.predict(X, num_threads=cores)


def xgboost(args: argparse.Namespace, leaves: int, cores: int):
    import xgboost as library

    settings = {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "grow_policy": "lossguide",
        "eta": RATE,
        "max_leaves": leaves,
        "max_depth": 0,
        "max_bin": BINS,
        "min_child_weight": HESSIAN,
        "lambda": 0,
        "nthread": cores,
    }

    def fit(X, y, trees):
        return library.train(settings, library.QuantileDMatrix(X, y, max_bin=BINS, nthread=cores), trees)

    return fit, lambda model, X: model.inplace_predict(X)


def of(way: str) -> str:
    """A package's name and version."""
    name = way.partition(",")[0]
    return f"{name} {version(name.lower())}"


def timed(call):
    """What the call returns, and the least of three times."""
    seconds = []
    for _ in range(3):
        began = perf_counter()
        found = call()
        seconds.append(perf_counter() - began)
    return found, min(seconds)


def auc(y: np.ndarray, scores: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(y, scores))


def report(args: argparse.Namespace, found: list[dict[str, Any]]) -> None:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    versions = ", ".join(sorted({record["version"] for record in found}))
    print(f"commit {commit}, {processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    print(
        f"{args.rows:,} x {higgs_like.COLUMNS} float32, {args.trees} trees, rate {RATE}, {BINS} bins, at least {LEAST} "
        f"rows a leaf (XGBoost: a hessian of {HESSIAN}); LightGBM with {args.lightgbm}"
    )
    print(
        f"{'leaves':>6}{'cores':>6}  {'':20}{'fit s':>8}{'[least, most]':>16}{'hpcml /':>9}{'AUC':>10}"
        f"{'predict s':>11}{'hpcml /':>9}"
    )
    keys = list(dict.fromkeys((r["leaves"], r["cores"], r["way"]) for r in found))
    groups = {key: [r for r in found if (r["leaves"], r["cores"], r["way"]) == key] for key in sorted(keys, key=order)}
    for (leaves, cores, way), mine in groups.items():
        ours = groups.get((leaves, cores, "hpcml"), mine)
        fits, predicts = (np.array([r[name] for r in mine]) for name in ("fit", "predict"))
        ratios = [
            np.median([r[name] for r in ours]) / np.median([r[name] for r in mine]) for name in ("fit", "predict")
        ]
        print(
            f"{leaves:6}{cores:6}  {way:20}{np.median(fits):8.2f}{f'[{fits.min():.2f}, {fits.max():.2f}]':>16}"
            f"{ratios[0]:9.2f}{np.median([r['auc'] for r in mine]):10.5f}{np.median(predicts):11.4f}{ratios[1]:9.2f}"
        )
    print(
        f"medians of {min(map(len, groups.values()))} turns or more; hpcml /: its time over this one's, below 1 is "
        f"faster than it. Predictions of {args.held_out:,} rows."
    )


def order(key: tuple[float, float, str]) -> tuple[float, float, int]:
    return key[0], key[1], WAYS.index(key[2])


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
