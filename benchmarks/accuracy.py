"""How well estimators predict, beside their rivals, on real data: mean and deviation over 5 splits into training and
test.

    python3 benchmarks/accuracy.py linear --data-folder shared/data

A row of `ROWS` is an estimator, its rival, and the data sets that they are compared on; another estimator is another
row. Classifiers are compared by accuracy, regressors by R². "Within noise" is a mean that is no more than two standard
errors of the differences over the seeds below the rival's, or 0.001. Results go to
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

    name: str
    ours: Callable[[int], Any]
    theirs: Callable[[int], Any]
    data: tuple[str, ...]


def _linear() -> list[Row]:
    from sklearn import linear_model, svm

    from hpcml import models

    many = {"max_iter": 20_000}
    return [
        Row(
            "LinearSVC, squared hinge",
            lambda seed: models.LinearSVC(0.1),
            lambda seed: svm.LinearSVC(C=0.1, random_state=seed, **many),
            CLASSES,
        ),
        Row(
            "LinearSVC, hinge",
            lambda seed: models.LinearSVC(0.1, loss="hinge"),
            lambda seed: svm.LinearSVC(C=0.1, loss="hinge", random_state=seed, **many),
            CLASSES,
        ),
        Row(
            "LogisticRegression",
            lambda seed: models.LogisticRegression(),
            lambda seed: linear_model.LogisticRegression(max_iter=1000),
            CLASSES,
        ),
        Row("Ridge", lambda seed: models.Ridge(), lambda seed: linear_model.Ridge(), NUMBERS),
        Row(
            "LinearSVR",
            lambda seed: models.LinearSVR(0.1),
            lambda seed: svm.LinearSVR(epsilon=0.1, random_state=seed, **many),
            NUMBERS,
        ),
    ]


def _kernel() -> list[Row]:
    from sklearn import kernel_approximation, pipeline, svm

    from hpcml import models

    small = ("a9a", "digits", "breast_cancer", "higgs")
    return [
        Row("SVC, rbf", lambda seed: models.SVC(), lambda seed: svm.SVC(), small),
        Row("SVC, poly", lambda seed: models.SVC(kernel="poly"), lambda seed: svm.SVC(kernel="poly"), small[1:]),
        Row("SVR, rbf", lambda seed: models.SVR(), lambda seed: svm.SVR(), NUMBERS),
        Row(
            "Nystroem, LinearSVC",
            lambda seed: pipeline.make_pipeline(
                models.Nystroem(gamma=0.01, n_components=300, random_state=seed), models.LinearSVC()
            ),
            lambda seed: pipeline.make_pipeline(
                kernel_approximation.Nystroem(gamma=0.01, n_components=300, random_state=seed), svm.LinearSVC()
            ),
            CLASSES,
        ),
        Row(
            "RBFSampler, LinearSVC",
            lambda seed: pipeline.make_pipeline(
                models.RBFSampler(gamma=0.01, n_components=300, random_state=seed), models.LinearSVC()
            ),
            lambda seed: pipeline.make_pipeline(
                kernel_approximation.RBFSampler(gamma=0.01, n_components=300, random_state=seed), svm.LinearSVC()
            ),
            CLASSES,
        ),
    ]


def _trees() -> list[Row]:
    import lightgbm
    from sklearn import ensemble, tree

    from hpcml import models

    classes = (*CLASSES, "higgs")
    quiet = {"verbose": -1, "num_threads": 1}
    return [
        Row(
            "GradientBoosting",
            lambda seed: models.GradientBoostingClassifier(random_state=seed),
            lambda seed: lightgbm.LGBMClassifier(random_state=seed, **quiet),
            classes,
        ),
        Row(
            "GradientBoosting",
            lambda seed: models.GradientBoostingRegressor(random_state=seed),
            lambda seed: lightgbm.LGBMRegressor(random_state=seed, **quiet),
            NUMBERS,
        ),
        Row(
            "RandomForest",
            lambda seed: models.RandomForestClassifier(random_state=seed),
            lambda seed: ensemble.RandomForestClassifier(random_state=seed),
            classes,
        ),
        Row(
            "RandomForest",
            lambda seed: models.RandomForestRegressor(random_state=seed),
            lambda seed: ensemble.RandomForestRegressor(random_state=seed),
            NUMBERS,
        ),
        Row(
            "DecisionTree, depth 8",
            lambda seed: models.DecisionTreeClassifier(max_depth=8, random_state=seed),
            lambda seed: tree.DecisionTreeClassifier(max_depth=8, random_state=seed),
            classes,
        ),
        Row(
            "DecisionTree, depth 8",
            lambda seed: models.DecisionTreeRegressor(max_depth=8, random_state=seed),
            lambda seed: tree.DecisionTreeRegressor(max_depth=8, random_state=seed),
            NUMBERS,
        ),
    ]


#: Group by group, what makes its rows.
ROWS: dict[str, Callable[[], list[Row]]] = {"linear": _linear, "kernel": _kernel, "trees": _trees}


def load(name: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """All rows of a data set, categories one-hot, not scaled."""
    from mpi4py import MPI
    from sklearn import datasets

    from hpcml.data.encoding import fit_encoding
    from hpcml.data.source import read
    from hpcml.data.table import Options

    options = {"higgs": Options(target="0")}
    files = {
        "a9a": ["a9a.t.svm"],
        "adult": ["adult-train.csv", "adult-test.csv"],
        "higgs": ["higgs.train.tsv", "higgs.test.tsv"],
    }
    if name in files:
        X, y, schema, encoding = [], [], None, None
        for file in files[name]:
            table = read(str(folder / file), options.get(name, Options()), MPI.COMM_SELF, schema)
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
            error = (scores[:, 0] - scores[:, 1]).std(ddof=1) / len(scores) ** 0.5
            fine = mean[0] >= mean[1] - max(2 * error, 1e-3)
            said = "within noise" if fine else "WORSE"
            lines.append(
                f"{row.name:26}{name:15}{len(y):7,}{mean[0]:10.4f}{spread[0]:8.4f}{mean[1]:10.4f}{spread[1]:8.4f}"
                f"  {said}"
            )
            print(lines[-1], flush=True)
    (recorded.RESULTS / f"accuracy-{args.group}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
