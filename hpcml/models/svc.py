"""Kernel support vector classification on the rows of all ranks: SVC."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.models.rows import Rows, training_rows, validation_rows
from hpcml.models.scoring import Classifier
from hpcml.models.settings import choice, number, whole
from hpcml.models.svm.course import Course
from hpcml.models.svm.kernels import Kernel
from hpcml.models.svm.machine import KernelMachine, Shard, shard_of
from hpcml.models.svm.platt import coupled, pair_probabilities, sigmoid
from hpcml.models.svm.points import Points
from hpcml.models.svm.solver import Solution
from hpcml.models.training import Monitor

#: Of the cross-validation that probabilities come from.
FOLDS = 5


class SVC(KernelMachine, Classifier):
    """C-support vector classification with scikit-learn's (LIBSVM's) objective.

        minimise ½ Σ y_s y_t α_s α_t k(x_s, x_t) − Σ α   subject to Σ y α = 0,  0 ≤ α ≤ C · weight

    Binary, or one classifier for each pair of classes, on the rows of those two. Rows stay where they are: an iteration
    sends at most 512 of them, and some 50 KB per rank.

    Parameters:
        kernel: "rbf", "poly", "linear", "sigmoid" (see `hpcml.models.svm.kernels`), or "precomputed": X is then this
            rank's rows of the matrix of kernel values, with a column for each row of all ranks.
        gamma: "scale", 1 / (columns × variance of X, rows by weight), "auto", 1 / columns, or a number.
        tol: the largest violation of the optimality conditions that will do, as LIBSVM's.
        probability: fit Platt's sigmoid on the decision values of a 5-fold cross-validation, for ``predict_proba``.
        cache_size: MB for columns of the kernel, on each rank.
        max_iter: steps of SMO, at most, for each pair; −1: as many as it takes.
        class_weight: factors of C by class, or "balanced": inversely to the weight of the rows of each.
        decision_function_shape: "ovr": a column for each class, or "ovo": for each pair.
        random_state: of the folds.
        reproducible: the same bits on any number of ranks, however the rows are spread, as long as their global order
            is the same. Kernel values are then summed feature by feature, not by a GEMM, and BLAS has one thread.

    Fitted attributes, the same on every rank: ``classes_``; ``support_`` (global row numbers, class by class),
    ``support_vectors_``, ``n_support_``, ``dual_coef_``, ``intercept_``, as in scikit-learn; ``n_iter_`` (steps of SMO
    of each pair), ``fit_status_`` (0: converged), ``probA_``, ``probB_``; ``history_``: of each iteration the pair,
    objective, primal (its dual's), violation, gap (between the two, relative), support_vectors, steps, seconds,
    communication_seconds and communication (their share, on this rank), and what
    `hpcml.models.svm.course` adds.

    Example::

        model = SVC(C=10, gamma=0.1).fit(X_local, y_local)     # each rank passes its own rows
        model.predict(X)
    """

    n_support_: np.ndarray
    n_iter_: np.ndarray
    probA_: np.ndarray
    probB_: np.ndarray

    def __init__(
        self,
        C: float = 1.0,
        *,
        kernel: str = "rbf",
        degree: int = 3,
        gamma: float | str = "scale",
        coef0: float = 0.0,
        tol: float = 1e-3,
        probability: bool = False,
        cache_size: float = 500,
        max_iter: int = -1,
        class_weight: Any = None,
        decision_function_shape: str = "ovr",
        random_state: int | None = 0,
        reproducible: bool = False,
        comm: Any = None,
    ) -> None:
        self.C = C
        self.kernel = kernel
        self.degree = degree
        self.gamma = gamma
        self.coef0 = coef0
        self.tol = tol
        self.probability = probability
        self.cache_size = cache_size
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.decision_function_shape = decision_function_shape
        self.random_state = random_state
        self.reproducible = reproducible
        self.comm = comm

    def _check(self) -> None:
        super()._check()
        choice("decision_function_shape", self.decision_function_shape, ("ovr", "ovo"))
        if self.random_state is not None:
            whole("random_state", self.random_state, least=0)
        if isinstance(self.class_weight, dict):
            for label, weight in self.class_weight.items():
                number(f"class_weight[{label!r}]", weight, above=0)
        elif self.class_weight is not None and self.class_weight != "balanced":
            raise ValueError(f"class_weight={self.class_weight!r}; expected None, 'balanced' or a dict by class")

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        validation: tuple[Any, Any] | None = None,
        monitor: Monitor | None = None,
    ) -> SVC:
        """Train on the rows of all ranks and return the estimator. Collective over ``comm``.

        ``X`` (n, d), dense or sparse, and ``y`` (n,), whole numbers or strings, are this rank's rows, n ≥ 0;
        ``sample_weight`` (n,) scales C row by row. ``monitor.epoch`` is told of each iteration, and at the end of the
        accuracy on the training rows and on ``validation``, a pair (X, y); pass it on every rank, or on none.

        Raises CollectiveError on every rank for parameters or rows that are wrong on any, or differ between ranks; a
        model that was fitted before is then left as it was.
        """
        comm = self._world()
        self._agree(comm)
        rows = training_rows(X, y, self._checked, comm, sample_weight=sample_weight)
        assert rows.classes is not None
        self._require_square(rows)
        watched = validation_rows(validation, rows, self._checked, comm)
        shard = shard_of(rows, comm.rank)
        cost = self.C * self._class_weights(shard, rows.classes, comm)
        pairs = list(combinations(range(len(rows.classes)), 2))
        course = Course(monitor)
        solutions, numbers, sigmoids = [], [], []
        with self._cores(comm):
            kernel, prepared = self._prepared(shard, comm)
            everything = shard._replace(X=prepared)
            for pair in pairs:
                part = everything.where((shard.y == pair[0]) | (shard.y == pair[1])) if len(pairs) > 1 else everything
                # LIBSVM's first class is the positive one, but scikit-learn turns its sign where there are but two.
                positive = part.y == (pair[0] if len(pairs) > 1 else 1)
                points = self._points(kernel, part.X, part.numbers, comm)
                costs = cost[part.y] * part.weights
                size, weight = comm.allreduce(np.array([len(costs), costs.sum()])).tolist()
                note = course.of(int(size), weight, pair=list(pair))
                solution = self._pair(points, positive, costs, comm, note)
                numbers.append(np.concatenate(comm.allgather(part.numbers))[solution.numbers])
                solutions.append(solution)
                if self.probability:
                    sigmoids.append(self._sigmoid(kernel, part, positive, cost, comm))
        self.classes_, self._kernel, self.history_ = rows.classes, kernel, course.history
        self._remember_pairs(shard, pairs, solutions, numbers, comm)
        for name in ("probA_", "probB_"):
            self.__dict__.pop(name, None)
        if self.probability:
            self.probA_, self.probB_ = np.array(sigmoids).T.copy()
        self._settle(solutions)
        self._remember_columns(rows.X.shape[1], rows.names)
        if monitor is not None:
            course.close(lambda: self._accuracies(rows, watched, comm), rows.total)
        return self

    def _accuracies(self, rows: Rows, watched: Rows | None, comm: MPI.Intracomm) -> dict[str, float]:
        """Of the rows trained on, and of those to validate on. Collective."""
        found = {}
        for name, part in (("accuracy", rows), ("validation_accuracy", watched)):
            if part is not None:
                right = np.count_nonzero(self.predict(part.X) == self.classes_[part.y])
                found[name] = comm.allreduce(int(right)) / part.total
        return found

    def _class_weights(self, shard: Shard, classes: np.ndarray, comm: MPI.Intracomm) -> np.ndarray:
        """The factor (classes,) of C of each class. Collective."""
        per_class = (shard.y[:, None] == np.arange(len(classes))) * shard.weights[:, None]
        found = hc.allreduce(per_class, axis=0, reproducible=self.reproducible, comm=comm)
        if not (found > 0).all():
            raise hc.ArgumentError(
                f"sample_weight is zero for every row of class {classes[np.argmin(found)].item()!r}; leave it out"
            )
        if self.class_weight is None:
            return np.ones(len(classes))
        if self.class_weight == "balanced":
            return found.sum() / (len(classes) * found)
        known = [label.item() for label in classes]
        if unknown := [label for label in self.class_weight if label not in known]:
            raise hc.ArgumentError(f"class_weight has the class {unknown[0]!r}, which occurs on no rank")
        return np.array([float(self.class_weight.get(label, 1.0)) for label in known])

    def _pair(
        self, points: Points, positive: np.ndarray, cost: np.ndarray, comm: MPI.Intracomm, note: Any = None
    ) -> Solution:
        """The classifier of two classes."""
        zero = np.zeros(len(cost))
        lo, hi = np.where(positive, zero, -cost), np.where(positive, cost, zero)
        return self._solve(points, np.where(positive, -1.0, 1.0)[:, None], lo[:, None], hi[:, None], comm, note)

    def _remember_pairs(
        self,
        shard: Shard,
        pairs: list[tuple[int, int]],
        solutions: list[Solution],
        numbers: list[np.ndarray],
        comm: MPI.Intracomm,
    ) -> None:
        """Set the fitted attributes of LIBSVM's model: support vectors class by class, each with a coefficient for
        each other class."""
        support = np.unique(np.concatenate(numbers)).astype(np.int64)
        codes = self._remember_support(shard, support, comm)
        coefficients = np.zeros((len(self.classes_) - 1, len(support)))
        for (i, j), solution, theirs in zip(pairs, solutions, numbers, strict=True):
            at = np.searchsorted(support, theirs)
            coefficients[np.where(codes[at] == i, j - 1, i), at] = solution.coefficients
        order = np.argsort(codes, kind="stable")
        self.support_, self.dual_coef_ = support[order], np.ascontiguousarray(coefficients[:, order])
        if self.kernel != "precomputed":
            self.support_vectors_ = self.support_vectors_[order]
        self.n_support_ = np.bincount(codes, minlength=len(self.classes_))
        self.intercept_ = np.array([solution.intercept for solution in solutions])
        self.n_iter_ = np.array([solution.steps for solution in solutions])

    def _sigmoid(
        self, kernel: Kernel, part: Shard, positive: np.ndarray, cost: np.ndarray, comm: MPI.Intracomm
    ) -> tuple[float, float]:
        """Platt's A and B of two classes, from decision values of rows that the classifier has not seen. Collective."""
        values = np.zeros(len(part.y))
        fold = _folds(part.numbers, self.random_state or 0)
        for held in range(FOLDS):
            seen = fold != held
            training, out = part.where(seen), part.where(~seen)
            counts = np.array([np.count_nonzero(positive[seen]), np.count_nonzero(~positive[seen])])
            ones, zeros = hc.allreduce(counts, comm=comm).tolist()
            if not (ones and zeros):
                values[~seen] = float(bool(ones)) - float(bool(zeros))
                continue
            points = self._points(kernel, training.X, training.numbers, comm)
            solution = self._pair(points, positive[seen], cost[training.y] * training.weights, comm)
            starts = np.concatenate([[0], np.cumsum(comm.allgather(points.count))])
            cuts = np.searchsorted(solution.numbers, starts)
            mine = solution.numbers[cuts[comm.rank] : cuts[comm.rank + 1]] - starts[comm.rank]
            support = points.borrow(mine, np.diff(cuts).tolist(), solution.numbers, comm)
            unseen = self._points(kernel, out.X, out.numbers, comm)
            block = np.empty((len(solution.numbers), unseen.count), unseen.dtype)
            unseen.fill(support, block, np.arange(len(block)))
            sums = np.zeros(unseen.count)
            _add(block, solution.coefficients, sums)
            values[~seen] = sums + solution.intercept
        return sigmoid(values, positive, comm, self.reproducible)

    def _pairs(self, X: Any) -> np.ndarray:
        """Decision values (n, pairs) of each pair of classes, positive for the first; of two classes, the second."""
        self._require_fitted()
        if len(self.classes_) == 2:
            return self._sums(X, self.dual_coef_) + self.intercept_
        codes = np.repeat(np.arange(len(self.classes_)), self.n_support_)
        rows = []
        for i, j in combinations(range(len(self.classes_)), 2):
            first, second = self.dual_coef_[j - 1] * (codes == i), self.dual_coef_[i] * (codes == j)
            rows.append(first + second)
        return self._sums(X, np.array(rows)) + self.intercept_

    def decision_function(self, X: Any) -> np.ndarray:
        """(n,) for two classes, positive for ``classes_[1]``; else (n, classes), or (n, pairs) for "ovo". Local.

        For each class it is scikit-learn's sum: the votes of its pairs, and below 1/3 what tells equal votes apart.
        """
        values = self._pairs(X)
        if len(self.classes_) == 2:
            return values[:, 0]
        if self.decision_function_shape == "ovo":
            return values
        votes = self._votes(values)
        confidence = np.zeros(votes.shape)
        for (i, j), column in zip(combinations(range(len(self.classes_)), 2), values.T, strict=True):
            confidence[:, i] += column
            confidence[:, j] -= column
        return votes + confidence / (3 * (np.abs(confidence) + 1))

    def predict(self, X: Any) -> np.ndarray:
        """The class (n,) of each row of ``X`` (n, d): of most votes, of those the first. Local."""
        values = self._pairs(X)
        if len(self.classes_) == 2:
            return self.classes_[(values[:, 0] > 0).astype(int)]
        return self.classes_[self._votes(values, strict=True).argmax(axis=1)]

    def _votes(self, values: np.ndarray, strict: bool = False) -> np.ndarray:
        """Votes (n, classes). A value of 0 is for the second class if ``strict``, as in LIBSVM; else for the first."""
        votes = np.zeros((len(values), len(self.classes_)))
        for (i, j), column in zip(combinations(range(len(self.classes_)), 2), values.T, strict=True):
            won = column > 0 if strict else column >= 0
            votes[:, i] += won
            votes[:, j] += ~won
        return votes

    def _require_probability(self) -> None:
        if not self.probability:
            raise AttributeError("predict_proba is not available when probability=False")
        if self.__sklearn_is_fitted__() and not hasattr(self, "probA_"):
            raise AttributeError("predict_proba is not available: the model was fitted with probability=False")

    @property
    def predict_proba(self) -> Any:
        """Probabilities (n, classes) for rows ``X`` (n, d), in the order of ``classes_``, if ``probability``. Local.

        They come from cross-validation, and may disagree with ``predict``.
        """
        self._require_probability()
        return self._predict_proba

    @property
    def predict_log_proba(self) -> Any:
        """The logarithm of ``predict_proba``."""
        self._require_probability()
        return self._predict_log_proba

    def _predict_proba(self, X: Any) -> np.ndarray:
        values = self._pairs(X)
        found = pair_probabilities(values, self.probA_, self.probB_)
        if len(self.classes_) == 2:
            return np.concatenate([1 - found, found], axis=1)
        return coupled(found, len(self.classes_))

    def _predict_log_proba(self, X: Any) -> np.ndarray:
        return np.log(self._predict_proba(X))

    def _saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        facts, arrays = super()._saved()
        arrays |= {"classes": self.classes_, "n_support": self.n_support_, "n_iter": self.n_iter_}
        if hasattr(self, "probA_"):
            arrays |= {"probA": self.probA_, "probB": self.probB_}
        return facts, arrays

    def _restore(self, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        super()._restore(facts, arrays)
        self.classes_, self.n_support_, self.n_iter_ = arrays["classes"], arrays["n_support"], arrays["n_iter"]
        if "probA" in arrays:
            self.probA_, self.probB_ = arrays["probA"], arrays["probB"]


def _add(block: np.ndarray, coefficients: np.ndarray, sums: np.ndarray) -> None:
    from hpcml.models.svm.columns import add_columns

    add_columns(block, np.arange(len(block)), coefficients, sums)


def _folds(numbers: np.ndarray, seed: int) -> np.ndarray:
    """The fold of each row, from a hash of its global number (SplitMix64's)."""
    mixed = numbers.astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) % np.uint64(FOLDS)).astype(np.int64)
