"""Time to train an RBF kernel SVM on 20,000 × 50, beside LIBSVM (scikit-learn) and scikit-learn-intelex.

    python benchmarks/kernel_svm.py --ranks 2 --rivals VENV/bin/python > benchmarks/results/kernel-svm-openmpi-2.txt

Run by an environment with hpcml; VENV has scikit-learn and scikit-learn-intelex. Every fit has a process (or mpiexec)
of its own, and they take turns; each has fitted 2,000 rows before, so that nothing is compiled or loaded for the first
time in what is timed. Medians, with the least and the largest time. float32 data, C = 1, gamma = 1 / (50 × variance),
tol = 1e-3, from rows in memory to the fitted model; 2 GB of kernel cache for each rival, for hpcml its default on
each rank. hpcml's ranks, and LIBSVM, have one thread each, scikit-learn-intelex as many as given.

The objective is ½ vᵀKv − Σ |v|, computed alike for all, in float64, from support vectors and coefficients.

Clusters of two classes around corners of a cube in 20 of 50 dimensions, mixed linearly; 10 columns are combinations of
those, 20 are noise; a label in twenty is wrong. Rows come in blocks of 500 that are drawn by their number, so that each
rank makes its own.
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
from statistics import median
from time import perf_counter

import numpy as np

ROWS, COLUMNS, INFORMATIVE, CLUSTERS, BLOCK = 20_000, 50, 20, 4, 500


def rows(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows number ``first`` to ``last``: X float32, y 0 or 1."""
    fixed = np.random.default_rng(0)
    corners = np.where(fixed.random((2, CLUSTERS, INFORMATIVE)) < 0.5, -1.0, 1.0)
    mixes = fixed.uniform(-1, 1, (2, CLUSTERS, INFORMATIVE, INFORMATIVE))
    combined = fixed.uniform(-1, 1, (INFORMATIVE, 10))
    found = []
    for block in range(first // BLOCK, -(-last // BLOCK)):
        random = np.random.default_rng((1, block))
        y, cluster = random.integers(0, 2, BLOCK), random.integers(0, CLUSTERS, BLOCK)
        core = (
            np.einsum("ni,nij->nj", random.normal(size=(BLOCK, INFORMATIVE)), mixes[y, cluster]) + corners[y, cluster]
        )
        X = np.concatenate([core, core @ combined, random.normal(size=(BLOCK, COLUMNS - INFORMATIVE - 10))], axis=1)
        y ^= random.random(BLOCK) < 0.05
        found.append((X.astype(np.float32), y))
    skipped = first // BLOCK * BLOCK
    X, y = (np.concatenate(parts)[first - skipped : last - skipped] for parts in zip(*found, strict=True))
    return X, y


def fit(contestant: str, total: int) -> dict:
    """Seconds of one fit and what it found, in this process."""
    options: dict = {"C": 1.0, "tol": 1e-3}
    first, last = 0, total
    if contestant.startswith("hpcml"):
        from mpi4py import MPI

        from hpcml.models import SVC

        comm = MPI.COMM_WORLD
        first, last = total * comm.rank // comm.size, total * (comm.rank + 1) // comm.size
        options["reproducible"] = "reproducible" in contestant
        wait, reports = comm.Barrier, comm.rank == 0
    else:
        if contestant == "sklearnex":
            from sklearnex.svm import SVC
        else:
            from sklearn.svm import SVC
        options["cache_size"] = 2000
        wait, reports = lambda: None, True
    X, y = rows(first, last)
    if "float64" in contestant:
        X = X.astype(np.float64)
    SVC(**options).fit(X[:2000], y[:2000])
    wait()
    began = perf_counter()
    model = SVC(**options).fit(X, y)
    wait()
    seconds = perf_counter() - began
    if not reports:
        return {}
    found = {"seconds": seconds, "support": int(len(model.support_)), "intercept": float(model.intercept_[0])}
    if history := getattr(model, "history_", None):
        found["iterations"] = len(history) - 1
        found["gap"] = history[-1]["gap"]
        found["communication"] = sum(r["communication_seconds"] for r in history) / sum(r["seconds"] for r in history)
    S, v = rows(0, total)[0][model.support_].astype(np.float64), np.asarray(model.dual_coef_, np.float64).ravel()
    gamma = 1 / (COLUMNS * rows(0, total)[0].astype(np.float64).var())
    squares, total_sum = (S * S).sum(axis=1), 0.0
    for at in range(0, len(S), 1000):
        distances = squares[at : at + 1000, None] + squares - 2 * S[at : at + 1000] @ S.T
        total_sum += v[at : at + 1000] @ (np.exp(-gamma * np.maximum(distances, 0)) @ v)
    found["objective"] = 0.5 * total_sum - np.abs(v).sum()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--rivals", default=sys.executable, help="a Python that has scikit-learn-intelex")
    parser.add_argument("--one", help="fit once, in this process, and print what was found")
    args = parser.parse_args()
    if args.one:
        if found := fit(args.one, args.rows):
            print(json.dumps(found))
        return
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from recorded import commit, environment

    threads = {"LIBSVM": 1, "sklearnex": args.ranks}
    contestants = ["hpcml", "hpcml reproducible", "hpcml float64", *threads]
    results: dict[str, list[dict]] = {name: [] for name in contestants}
    mpiexec = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(args.ranks)]
    for _ in range(args.times):
        for name in contestants:
            command = [args.rivals if name in threads else sys.executable, __file__, "--one", name]
            command = [*([] if name in threads else mpiexec), *command, "--rows", str(args.rows)]
            few = {v: str(threads.get(name, 1)) for v in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TBB_NUM_THREADS")}
            if name in threads:
                cores = ",".join(map(str, range(threads[name])))
                command = ["taskset", "-c", cores, *command]
            ran = subprocess.run(command, env={**environment(), **few}, stdout=subprocess.PIPE, text=True, check=True)
            results[name].append(json.loads(ran.stdout.splitlines()[-1]))
    asked = "from importlib.metadata import version as v; print(v('scikit-learn'), v('scikit-learn-intelex'))"
    theirs = subprocess.run([args.rivals, "-c", asked], stdout=subprocess.PIPE, text=True).stdout.split()
    print(f"commit {commit()}, {os.cpu_count()} cores, {processor()}, Python {platform.python_version()}")
    print(f"numpy {version('numpy')}, numba {version('numba')}; rivals: scikit-learn, -intelex {' '.join(theirs)}")
    print(f"RBF, {args.rows:,} × {COLUMNS} float32; {args.ranks} ranks of hpcml, {args.ranks} threads of sklearnex\n")
    reference = median(r["objective"] for r in results["LIBSVM"])
    slowest = median(r["seconds"] for r in results["LIBSVM"])
    print(
        f"{'':20}{'s':>8}{'least':>8}{'most':>8}{'× LIBSVM':>10}{'support':>9}{'objective':>15}{'relative':>11}  more"
    )
    for name, found in results.items():
        seconds = sorted(r["seconds"] for r in found)
        last, value = found[-1], median(r["objective"] for r in found)
        more = ""
        if "gap" in last:
            more = f"{last['iterations']} iterations, gap {last['gap']:.1e}, communication {last['communication']:.0%}"
        print(
            f"{name:20}{median(seconds):8.2f}{seconds[0]:8.2f}{seconds[-1]:8.2f}{median(seconds) / slowest:10.3f}"
            f"{last['support']:9}{value:15.5f}{(value - reference) / abs(reference):11.1e}  {more}"
        )


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    main()
