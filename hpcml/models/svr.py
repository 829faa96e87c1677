"""Kernel support vector regression on the rows of all ranks: SVR."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcml.models.rows import training_rows
from hpcml.models.scoring import Regressor
from hpcml.models.settings import number
from hpcml.models.svm.course import Course
from hpcml.models.svm.machine import KernelMachine, shard_of
from hpcml.models.training import Monitor


class SVR(KernelMachine, Regressor):
    """ε-support vector regression with scikit-learn's (LIBSVM's) objective.

        minimise ½ (α − α*)ᵀ K (α − α*) + ε Σ (α + α*) − Σ z (α − α*)
        subject to Σ (α − α*) = 0,  0 ≤ α, α* ≤ C

    A prediction is Σ (α − α*)_s k(x_s, x) + b. Parameters are those of `SVC`; epsilon: misses up to it cost nothing.

    Fitted attributes: ``support_`` (global row numbers), ``support_vectors_``, ``dual_coef_`` (1, support vectors),
    ``intercept_`` (1,), ``n_support_``, ``n_iter_`` (steps of SMO), ``fit_status_`` and ``history_``, as in `SVC`.

    Example::

        model = SVR(C=10, epsilon=0.1).fit(X_local, z_local)     # each rank passes its own rows
        model.predict(X)
    """

    def __init__(
        self,
        C: float = 1.0,
        epsilon: float = 0.1,
        *,
        kernel: str = "rbf",
        degree: int = 3,
        gamma: float | str = "scale",
        coef0: float = 0.0,
        tol: float = 1e-3,
        cache_size: float = 500,
        max_iter: int = -1,
        reproducible: bool = False,
        comm: Any = None,
    ) -> None:
        self.C = C
        self.epsilon = epsilon
        self.kernel = kernel
        self.degree = degree
        self.gamma = gamma
        self.coef0 = coef0
        self.tol = tol
        self.cache_size = cache_size
        self.max_iter = max_iter
        self.reproducible = reproducible
        self.comm = comm

    def _check(self) -> None:
        super()._check()
        number("epsilon", self.epsilon, least=0)

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, monitor: Monitor | None = None) -> SVR:
        """Train on the rows of all ranks and return the estimator. Collective over ``comm``.

        ``X`` (n, d), dense or sparse, and ``y`` (n,), numbers, are this rank's rows, n ≥ 0; ``sample_weight`` (n,)
        scales C row by row; ``monitor.epoch`` is told of each iteration. Raises CollectiveError on every rank for
        parameters or rows that are wrong on any.
        """
        comm = self._world()
        self._agree(comm)
        rows = training_rows(X, y, self._checked, comm, classify=False, sample_weight=sample_weight)
        self._require_square(rows)
        shard = shard_of(rows, comm.rank)
        course = Course(monitor)
        with self._cores(comm):
            kernel, prepared = self._prepared(shard, comm)
            points = self._points(kernel, prepared, shard.numbers, comm)
            weight = self.C * comm.allreduce(float(shard.weights.sum()))
            C, z, nothing = self.C * shard.weights, shard.y, np.zeros(len(shard.y))
            solution = self._solve(
                points,
                np.stack([self.epsilon - z, -self.epsilon - z], axis=1),
                np.stack([nothing, -C], axis=1),
                np.stack([C, nothing], axis=1),
                comm,
                course.of(rows.total, weight),
            )
        # What a support vector weighs may be 0 where both of its sides are equal.
        real = solution.coefficients != 0
        everyones = np.concatenate(comm.allgather(shard.numbers))
        self._kernel, self.history_ = kernel, course.history
        self.dual_coef_ = solution.coefficients[real][None]
        self.intercept_ = np.array([solution.intercept])
        self._remember_support(shard, everyones[solution.numbers[real]], comm)
        self.n_iter_ = solution.steps
        self._settle([solution])
        self._remember_columns(rows.X.shape[1], rows.names)
        return self

    @property
    def n_support_(self) -> np.ndarray:
        return np.array([len(self.support_)])

    def predict(self, X: Any) -> np.ndarray:
        """The number (n,), float64, for each row of ``X`` (n, d). Local."""
        self._require_fitted()
        return self._sums(X, self.dual_coef_)[:, 0] + self.intercept_[0]

    def _saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        facts, arrays = super()._saved()
        return {**facts, "n_iter": self.n_iter_}, arrays

    def _restore(self, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        super()._restore(facts, arrays)
        self.n_iter_ = facts["n_iter"]
