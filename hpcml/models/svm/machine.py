"""What SVC and SVR share: parameters, the kernel, problems over ranks, sums over support vectors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.models.estimator import Estimator
from hpcml.models.inputs import features
from hpcml.models.rows import Rows
from hpcml.models.settings import choice, number, whole
from hpcml.models.svm.kernels import NAMES, Kernel
from hpcml.models.svm.points import Dense, Points, Precomputed, Sparse
from hpcml.models.svm.solver import Problem, Solution, optimise
from hpcml.models.threads import own_cores

#: Rows to predict for at once.
BLOCK = 1024


class Shard(NamedTuple):
    """This rank's rows of positive weight: X, y as they were given, weights, and their global numbers."""

    X: Any
    y: np.ndarray
    weights: np.ndarray
    numbers: np.ndarray

    def where(self, mask: np.ndarray) -> Shard:
        places = np.flatnonzero(mask)
        return Shard(self.X[places], self.y[places], self.weights[places], self.numbers[places])


def shard_of(rows: Rows, rank: int) -> Shard:
    numbers = rows.first(rank) + np.arange(len(rows.y))
    heavy = np.ones(len(rows.y)) if rows.weights is None else rows.weights
    shard = Shard(rows.X, rows.y, heavy, numbers)
    return shard if rows.weights is None else shard.where(heavy > 0)


class KernelMachine(Estimator):
    """An estimator that predicts Σ v_s k(x_s, x) + b, over support vectors x_s. Its subclasses say which problem."""

    takes_sparse = True

    C: float
    kernel: str
    degree: int
    gamma: Any
    coef0: float
    tol: float
    cache_size: float
    max_iter: int
    reproducible: bool

    support_: np.ndarray
    support_vectors_: Any
    dual_coef_: np.ndarray
    intercept_: np.ndarray
    fit_status_: int
    history_: list[dict[str, Any]]
    _kernel: Kernel

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = self.kernel == "precomputed"
        tags.input_tags.sparse = self.kernel != "precomputed"
        return tags

    def _check(self) -> None:
        number("C", self.C, above=0)
        choice("kernel", self.kernel, (*NAMES, "precomputed"))
        whole("degree", self.degree, least=0)
        if isinstance(self.gamma, str):
            choice("gamma", self.gamma, ("scale", "auto"))
        else:
            number("gamma", self.gamma, least=0)
        number("coef0", self.coef0)
        number("tol", self.tol, above=0)
        number("cache_size", self.cache_size, above=0)
        whole("max_iter", self.max_iter, least=-1)

    def _checked(self, X: Any) -> Any:
        return features(X, sparse=self.kernel != "precomputed")

    def _require_square(self, rows: Rows) -> None:
        if self.kernel == "precomputed" and rows.X.shape[1] != rows.total:
            raise hc.ArgumentError(
                f"X has {rows.X.shape[1]} columns; the precomputed kernel of {rows.total} rows (over all ranks) is a "
                "square matrix: expected one column for each"
            )

    @contextmanager
    def _cores(self, comm: MPI.Intracomm) -> Iterator[None]:
        with own_cores(comm, most=1 if self.reproducible else None):
            yield

    def _prepared(self, shard: Shard, comm: MPI.Intracomm) -> tuple[Kernel, Any]:
        """The kernel, and X as it is computed with: moved to its mean, where that does not change the kernel.

        Distances are differences of squares, which cancel least around 0.
        """
        if self.kernel == "precomputed":
            return Kernel("precomputed"), shard.X
        X, found = shard.X, None
        if self.gamma == "scale" or (self.kernel == "rbf" and not _sparse(X)):
            found = moments(X, shard.weights, comm, self.reproducible)
        gamma = self.gamma
        if gamma == "scale":
            assert found is not None
            spread = found[1] * X.shape[1]
            gamma = 1.0 / spread if spread > 0 else 1.0
        elif gamma == "auto":
            gamma = 1.0 / X.shape[1]
        kernel = Kernel(self.kernel, float(gamma), float(self.coef0), int(self.degree))
        if found is not None and kernel.shift_invariant and not _sparse(X):
            X = X - found[0].astype(X.dtype)
        return kernel, X

    def _points(self, kernel: Kernel, X: Any, numbers: np.ndarray, comm: MPI.Intracomm) -> Points:
        if kernel.name == "precomputed":
            return Precomputed(X, hc.allgather(numbers, comm=comm))
        return Sparse(X, kernel) if _sparse(X) else Dense(X, kernel, self.reproducible)

    def _solve(
        self,
        points: Points,
        cost: np.ndarray,
        lo: np.ndarray,
        hi: np.ndarray,
        comm: MPI.Intracomm,
        note: Callable[[dict[str, Any]], None] | None = None,
    ) -> Solution:
        counts = comm.allgather(points.count)
        problem = Problem(points, cost, lo, hi, counts)
        return optimise(problem, comm, tol=self.tol, nbytes=self.cache_size * 1e6, most=self.max_iter, note=note)

    def _settle(self, solutions: list[Solution]) -> None:
        """Set ``fit_status_``, and warn where a solution is none yet."""
        self.fit_status_ = int(not all(solution.converged for solution in solutions))
        if self.fit_status_:
            worst = max(solution.violation for solution in solutions)
            warnings.warn(
                f"the solver stopped at a violation of {worst:.3g}, above tol={self.tol:g}: raise max_iter, scale the "
                "columns of X, or bear a larger tol",
                _convergence_warning(),
                stacklevel=3,
            )

    def _remember_support(self, shard: Shard, numbers: np.ndarray, comm: MPI.Intracomm) -> np.ndarray:
        """Set ``support_vectors_`` to the rows of those global ``numbers``, sorted; returns their y. Collective."""
        mine = np.searchsorted(shard.numbers, np.intersect1d(numbers, shard.numbers))
        y = hc.allgather(shard.y[mine], comm=comm)
        if self.kernel == "precomputed":
            self.support_vectors_ = np.empty((0, 0), shard.X.dtype)
        elif _sparse(shard.X):
            from scipy.sparse import csr_array

            part = shard.X[mine]
            lengths, columns, values = hc.allgather(
                [np.diff(part.indptr).astype(np.int64), part.indices.astype(np.int64), part.data], comm=comm
            )
            shape = (len(numbers), shard.X.shape[1])
            self.support_vectors_ = csr_array((values, columns, np.concatenate([[0], np.cumsum(lengths)])), shape=shape)
        else:
            self.support_vectors_ = hc.allgather(shard.X[mine], comm=comm)
        self.support_ = numbers
        return y

    def _sums(self, X: Any, coefficients: np.ndarray) -> np.ndarray:
        """Σ_s coefficients[t, s] k(x_s, x) for the rows of ``X``: (n, t), float64. Local."""
        self._require_fitted()
        given, precomputed = X, self.kernel == "precomputed"
        X = features(X, self.dual_coef_.dtype if precomputed else self.support_vectors_.dtype, sparse=not precomputed)
        self._require_columns(given, X.shape[1])
        support, kernel = self.support_vectors_, self._kernel
        if not precomputed and _sparse(X) != _sparse(support):
            from scipy.sparse import csr_array

            X = csr_array(X) if _sparse(support) else X.toarray()
        borrowed: Any = self.support_
        if precomputed:
            pass
        elif _sparse(support):
            everything = Sparse(support, kernel).rows
            borrowed = everything
        elif kernel.shift_invariant and len(support):
            centre = support.mean(axis=0)
            borrowed, X = support - centre, X - centre
        else:
            borrowed = support
        sums = np.empty((X.shape[0], len(coefficients)))
        slots = np.arange(len(self.support_))
        for first in range(0, X.shape[0], BLOCK):
            part = X[first : first + BLOCK]
            points: Points
            if precomputed:
                points = Precomputed(part, self.support_)
            else:
                points = Sparse(part, kernel) if _sparse(part) else Dense(part, kernel, False)
            values = np.empty((len(slots), points.count), points.dtype)
            points.fill(borrowed, values, slots)
            sums[first : first + BLOCK] = (coefficients @ values.astype(np.float64)).T
        return sums

    def _saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        facts: dict[str, Any] = {
            "history": self.history_,
            "fit_status": self.fit_status_,
            "kernel": list(self._kernel),
            "sparse": _sparse(self.support_vectors_),
        }
        arrays = {"support": self.support_, "dual_coef": self.dual_coef_, "intercept": self.intercept_}
        if facts["sparse"]:
            rows = self.support_vectors_
            arrays |= {"indptr": rows.indptr, "indices": rows.indices, "data": rows.data}
            facts["columns"] = rows.shape[1]
        else:
            arrays["support_vectors"] = self.support_vectors_
        return facts, arrays

    def _restore(self, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.history_, self.fit_status_ = facts["history"], facts["fit_status"]
        self._kernel = Kernel(*facts["kernel"])
        self.support_, self.dual_coef_ = arrays["support"], arrays["dual_coef"]
        self.intercept_ = arrays["intercept"]
        if facts["sparse"]:
            from scipy.sparse import csr_array

            parts = arrays["data"], arrays["indices"], arrays["indptr"]
            self.support_vectors_ = csr_array(parts, shape=(len(self.support_), facts["columns"]))
        else:
            self.support_vectors_ = arrays["support_vectors"]


def _sparse(X: Any) -> bool:
    return hasattr(X, "toarray")


def moments(X: Any, weights: np.ndarray, comm: MPI.Intracomm, reproducible: bool) -> tuple[np.ndarray, float]:
    """The mean (d,) of each column and the variance of all numbers of X, over all ranks, rows by weight. Collective."""
    total = float(hc.allreduce(weights[:, None], axis=0, reproducible=reproducible, comm=comm)[0])
    if _sparse(X):
        squared = X.multiply(X)
        rows = np.stack([X.sum(axis=1), squared.sum(axis=1)], axis=1).astype(np.float64) * weights[:, None]
        first, second = hc.allreduce(rows, axis=0, reproducible=reproducible, comm=comm) / (total * X.shape[1])
        return np.zeros(0), float(second - first * first)
    mean = hc.allreduce(X * weights[:, None], axis=0, reproducible=reproducible, comm=comm) / total
    squares = (X - mean) ** 2 * weights[:, None]
    variance = hc.allreduce(squares, axis=0, reproducible=reproducible, comm=comm) / total
    return mean, float(variance.mean() + mean.var())


def _convergence_warning() -> type[Warning]:
    try:
        from sklearn.exceptions import ConvergenceWarning
    except ImportError:
        return UserWarning
    return ConvergenceWarning
