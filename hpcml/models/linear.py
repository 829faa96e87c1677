"""Linear models that are solved for: what they have in common beside their objectives.

A solver hands on a stage for each of its iterations; `Course` makes a record of it and asks the monitor in.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.models.design import Design
from hpcml.models.estimator import Estimator
from hpcml.models.inputs import features
from hpcml.models.losses import decided
from hpcml.models.rows import Rows, training_rows
from hpcml.models.scoring import Classifier, Regressor
from hpcml.models.training import Monitor


class LinearModel(Estimator):
    """Scores xW + b. Takes dense float32 and float64, and SciPy's sparse matrices, which stay sparse.

    Fitted attributes: ``coef_``, ``intercept_``, ``n_iter_``, ``history_``: a record for each iteration, as `Course` has it.
    """

    takes_sparse = True
    coef_: np.ndarray
    intercept_: Any
    n_iter_: int
    history_: list[dict[str, Any]]

    def _checked(self, X: Any) -> Any:
        """``X`` as the solvers take it; CSR with 32-bit indices where they do."""
        found = features(X, sparse=True)
        if hasattr(found, "indptr") and found.indices.dtype != np.int32 and max(found.shape[1], found.nnz) < 2**31:
            parts = (found.data, found.indices.astype(np.int32), found.indptr.astype(np.int32))
            found = type(found)(parts, shape=found.shape)
        return found

    def _training_rows(self, X: Any, y: Any, sample_weight: Any, comm: MPI.Intracomm) -> Rows:
        self._agree(comm)
        return training_rows(
            X, y, self._checked, comm, classify=isinstance(self, Classifier), sample_weight=sample_weight
        )

    def _scores(self, X: Any) -> np.ndarray:
        """xW + b, (n, k)."""
        self._require_fitted()
        found = features(X, sparse=True)
        self._require_columns(X, found.shape[1])
        return found @ np.atleast_2d(self.coef_).T + self.intercept_

    def _take(self, W: np.ndarray, scale: float | None, rows: Rows) -> None:
        """Set coefficients and intercept from W (D, k)."""
        k, d = W.shape[1], rows.X.shape[1]
        coef = np.ascontiguousarray(W[:d].T)
        intercept = np.zeros(k) if scale is None else scale * W[d]
        single = isinstance(self, Regressor)
        self.coef_, self.intercept_ = (coef[0], float(intercept[0])) if single else (coef, intercept)
        if rows.classes is not None:
            self.classes_ = rows.classes
        self._remember_columns(d, rows.names)

    def _saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        facts = {name: getattr(self, name) for name in ("n_iter_", "gap_", "history_") if hasattr(self, name)}
        arrays = {name: np.asarray(getattr(self, name)) for name in ("coef_", "intercept_", "classes_") if hasattr(self, name)}
        return facts, arrays

    def _restore(self, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        for name, value in {**facts, **arrays}.items():
            setattr(self, name, value)


class LinearClassifier(LinearModel, Classifier):
    """A linear model of classes: ``coef_`` (k, d) and ``intercept_`` (k,), where k is 1 for two classes."""

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores (n, classes) of the rows of ``X``; for two classes (n,), positive for ``classes_[1]``. Local."""
        scores = self._scores(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> np.ndarray:
        """The class (n,) of each row of ``X`` (n, d), from ``classes_``. Local."""
        chosen = decided(self._scores(X))
        return self.classes_[chosen]


class LinearRegressor(LinearModel, Regressor):
    """A linear model of numbers: ``coef_`` (d,) and ``intercept_``."""

    def predict(self, X: Any) -> np.ndarray:
        """The number (n,), float64, for each row of ``X`` (n, d). Local."""
        return self._scores(X)[:, 0].astype(np.float64)


class Course:
    """The records of a fit, as ``Monitor.epoch`` is told of them; an epoch is an iteration.

    epoch, loss (the objective, divided by the weight of the data in it), objective, gap (the relative duality gap, or what
    the solver stops by in its place), accuracy of classifiers, validation_loss and validation_accuracy where there are
    validation rows, seconds, compute_seconds, communication_seconds (mean over the ranks), samples_per_second.
    """

    def __init__(
        self, design: Design, rows: Rows, weight: float, validation: Rows | None, monitor: Monitor | None, verbose: bool
    ) -> None:
        """weight: of the data in the objective: C times the number of rows, or the sum of their weights."""
        self.design, self.rows, self.weight, self.monitor = design, rows, weight, monitor
        self.validation, self.verbose = validation, verbose
        self.history: list[dict[str, Any]] = []
        self._began, self._waited = perf_counter(), 0.0

    def note(self, objective: float, gap: float, scores: np.ndarray, W: np.ndarray, losses: Any = None) -> None:
        """Record an iteration. Collective. losses: takes scores and codes, and returns the sum of the losses."""
        comm, codes = self.design.comm, self.rows.y
        hits = float(np.count_nonzero(decided(scores) == codes)) if self.rows.classes is not None else 0.0
        seconds, waited = perf_counter() - self._began, self.design.waited - self._waited
        judged = [0.0, 0.0]
        if self.validation is not None:
            X = self.validation.X
            found = X @ W[: X.shape[1]] + (0 if self.design.scale is None else self.design.scale * W[-1])
            judged = [float(np.count_nonzero(decided(found) == self.validation.y)), losses(found, self.validation.y)]
        local = np.array([hits, seconds, waited, *judged])
        hits, seconds, waited, valid, loss = hc.allreduce(local, op="sum", comm=comm).tolist()
        seconds, waited = seconds / comm.size, waited / comm.size
        record: dict[str, Any] = {"epoch": len(self.history) + 1, "loss": objective / self.weight}
        record |= {"objective": objective, "gap": gap}
        if self.rows.classes is not None:
            record["accuracy"] = hits / self.rows.total
        if self.validation is not None:
            record["validation_loss"] = loss / self.validation.total
            record["validation_accuracy"] = valid / self.validation.total
        record |= {
            "seconds": seconds,
            "compute_seconds": seconds - waited,
            "communication_seconds": waited,
            "samples_per_second": self.rows.total / max(seconds, 1e-9),
        }
        self.history.append(record)
        if self.monitor is not None:
            self.monitor.epoch(dict(record))
        if self.verbose and comm.rank == 0:
            share = waited / max(seconds, 1e-9)
            print(
                f"iteration {record['epoch']:3}  objective {objective:.6g}  gap {gap:.2e}  {seconds:.3f} s  "
                f"{share:.0%} communication",
                flush=True,
            )
        self._began, self._waited = perf_counter(), self.design.waited


def class_factors(rows: Rows, class_weight: Any, comm: MPI.Intracomm) -> np.ndarray:
    """The weight (k,) of each class. Collective.

    class_weight: None, a mapping from labels, others being 1, or "balanced": the total weight, divided by the number of
    classes and the weight of the class.
    """
    assert rows.classes is not None
    if class_weight is None:
        return np.ones(len(rows.classes))
    if isinstance(class_weight, str) and class_weight == "balanced":
        weights = np.ones(len(rows.y)) if rows.weights is None else rows.weights
        belongs = (rows.y[:, None] == np.arange(len(rows.classes))) * weights[:, None]
        sums = hc.allreduce(belongs, op="sum", comm=comm, reproducible=True, axis=0)
        return sums.sum() / (len(sums) * np.maximum(sums, 1e-300))
    with hc.all_or_none(comm):
        return factors_of(class_weight, rows.classes)


def factors_of(class_weight: Any, classes: np.ndarray) -> np.ndarray:
    """(k,), from a mapping from labels; raises for what is none."""
    if not isinstance(class_weight, Mapping):
        raise ValueError(f"class_weight={class_weight!r}; expected None, 'balanced' or a mapping from labels to weights")
    known = {label.item() for label in classes}
    if unknown := [label for label in class_weight if label not in known]:
        raise ValueError(f"class_weight names {unknown[0]!r}, which is no label; they are {sorted(known)}")
    factors = np.array([float(class_weight.get(label.item(), 1.0)) for label in classes])
    if not (np.isfinite(factors).all() and (factors >= 0).all()):
        raise ValueError(f"class_weight={class_weight!r}; expected weights of 0 or more")
    return factors


def warn_unfinished(name: str, iterations: int, left: str) -> None:
    """Say that a solver ended early."""
    try:
        from sklearn.exceptions import ConvergenceWarning as Unfinished
    except ImportError:
        Unfinished = UserWarning  # type: ignore[misc,assignment]
    message = f"{name} ended after {iterations} iterations with {left}: raise max_iter or tol, or scale the features"
    warnings.warn(message, Unfinished, stacklevel=3)
