"""How well estimators predict, beside their rivals, on real data: mean and deviation over 5 splits into training and
test.

    python3 benchmarks/accuracy.py linear --data-folder shared/data

A row of `ROWS` is an estimator, its rival, and the data sets that they are compared on; another estimator is another
row. Classifiers are compared by accuracy, regressors by R². "Within noise" is a mean that is no more than one standard
error of the differences over the seeds below the rival's, or 0.001. Results go to
benchmarks/results/accuracy-<group>.txt.
"""

from __future__ import annotations

import argparse
import platform
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import recorded

SEEDS = range(5)
CLASSES = ("a9a", "adult", "digits", "breast_cancer")
NUMBERS = ("wine_quality", "diabetes")


class Row(NamedTuple):
    """ours and theirs: make the estimators, from a seed."""

    group: str
    name: str
    ours: Callable[[int], Any]
    theirs: Callable[[int], Any]
    data: tuple[str, ...]


def _linear() -> list[Row]:
    from sklearn import linear_model, svm

    from hpcml import models

    def row(name: str, ours: Callable[[int], Any], theirs: Callable[[int], Any], data: tuple[str, ...]) -> Row:
        return Row("linear", name, ours, theirs, data)

    many = {"max_iter": 20_000}
    return [
        row(
            "LinearSVC, squared hinge",
            lambda seed: models.LinearSVC(0.1),
            lambda seed: svm.LinearSVC(C=0.1, random_state=seed, **many),
            CLASSES,
        ),
        row(
            "LinearSVC, hinge",
            lambda seed: models.LinearSVC(0.1, loss="hinge"),
            lambda seed: svm.LinearSVC(C=0.1, loss="hinge", random_state=seed, **many),
            CLASSES,
        ),
        row(
            "LogisticRegression",
            lambda seed: models.LogisticRegression(),
            lambda seed: linear_model.LogisticRegression(max_iter=1000),
            CLASSES,
        ),
        row("Ridge", lambda seed: models.Ridge(), lambda seed: linear_model.Ridge(), NUMBERS),
        row(
            "LinearSVR",
            lambda seed: models.LinearSVR(0.1),
            lambda seed: svm.LinearSVR(epsilon=0.1, random_state=seed, **many),
            NUMBERS,
        ),
    ]


#: Group by group, what makes its rows.
ROWS: dict[str, Callable[[], list[Row]]] = {"linear": _linear}


def load(name: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """All rows of a data set, categories one-hot, not scaled."""
    from mpi4py import MPI
    from sklearn import datasets

    from hpcml.data.encoding import fit_encoding
    from hpcml.data.source import read
    from hpcml.data.table import Options

    files = {"a9a": ["a9a.t.svm"], "adult": ["adult-train.csv", "adult-test.csv"]}
    if name in files:
        X, y, schema, encoding = [], [], None, None
        for file in files[name]:
            table = read(str(folder / file), Options(), MPI.COMM_SELF, schema)
            schema = table.schema
            encoding = encoding or fit_encoding(table, MPI.COMM_SELF, "none")
            X.append(encoding.encode(table))
            y.append(np.asarray(table.labels))
        return np.concatenate(X).astype(np.float64), np.concatenate(y)
    if name == "wine_quality":
        parts = [np.loadtxt(path, delimiter=",") for path in sorted(folder.glob("winequality*.csv"))]
        rows = np.concatenate(parts)
        return rows[:, :-1], rows[:, -1]
    return getattr(datasets, f"load_{name}")(return_X_y=True)


def compared(row: Row, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Scores (seeds, 2): ours, theirs; on a quarter of the rows, standardised by the others."""
    scores = []
    for seed in SEEDS:
        order = np.random.default_rng(seed).permutation(len(y))
        train, test = order[len(y) // 4 :], order[: len(y) // 4]
        mean, deviation = X[train].mean(axis=0), X[train].std(axis=0)
        scaled = (X - mean) / np.where(deviation > 0, deviation, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = [make(seed).fit(scaled[train], y[train]) for make in (row.ours, row.theirs)]
        scores.append([model.score(scaled[test], y[test]) for model in fitted])
    return np.array(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("group", choices=ROWS)
    parser.add_argument("--data-folder", type=Path, default=recorded.ROOT / "shared" / "data")
    args = parser.parse_args()
    import sklearn

    lines = [
        f"commit {recorded.commit()}; scikit-learn {sklearn.__version__}, numpy {np.__version__}, {platform.machine()}",
        f"{len(SEEDS)} seeds, three quarters of the rows to train on",
        f"{'estimator':26}{'data':15}{'rows':>7}{'hpcml':>10}{'±':>8}{'rival':>10}{'±':>8}",
    ]
    sets: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for row in ROWS[args.group]():
        for name in row.data:
            if name not in sets:
                sets[name] = load(name, args.data_folder)
            X, y = sets[name]
            scores = compared(row, X, y)
            mean, spread = scores.mean(axis=0), scores.std(axis=0, ddof=1)
            fine = mean[0] >= mean[1] - max(spread[1] / len(scores) ** 0.5, 1e-3)
            said = "within noise" if fine else "WORSE"
            lines.append(
                f"{row.name:26}{name:15}{len(y):7,}{mean[0]:10.4f}{spread[0]:8.4f}{mean[1]:10.4f}{spread[1]:8.4f}"
                f"  {said}"
            )
            print(lines[-1], flush=True)
    (recorded.RESULTS / f"accuracy-{args.group}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
