"""What boosting minimises: losses with their derivatives by the scores, and where boosting starts.

For scores s of a row: *squared_error* ½(y − s)²; *absolute_error* |y − s|; *quantile* α(y − s) above s and
(1 − α)(s − y) below it; *log_loss* log(1 + e^s) − ys for two classes, y in {0, 1}, and log Σ_k e^{s_k} − s_y for more.

Gradients and hessians are float32 and times the row's weight. The absolute error and the quantile have no curvature;
for them a hessian of 1 grows the tree, and a leaf's value is then the quantile of what is left of its rows' targets
(Friedman 2001, "Greedy function approximation", algorithm 3).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from mpi4py import MPI
from numba import njit

from hpcml import collectives as hc
from hpcml.models.rows import Rows
from hpcml.models.trees.elementary import exp, log
from hpcml.models.trees.quantiles import quantiles


class Loss(Protocol):
    """scores (outputs, n) float64; y (n,): targets, or positions of classes (int64).

    ``constant``: the hessian of a row is its weight. ``level``: of the quantile that a leaf's value is, or None.
    """

    @property
    def constant(self) -> bool: ...

    @property
    def level(self) -> float | None: ...

    def start(self, rows: Rows, outputs: int, comm: MPI.Intracomm) -> np.ndarray:
        """The scores (outputs,) of the best constant model, the same on every rank. Collective."""
        ...

    def derivatives(self, scores: np.ndarray, y: np.ndarray, output: int, g: np.ndarray, h: np.ndarray) -> None:
        """Fill g (n,), and h (n,) unless ``constant``, by the scores of one output."""
        ...

    def values(self, scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The loss of each row (n,)."""
        ...


def mean(numbers: np.ndarray, weights: np.ndarray | None, comm: MPI.Intracomm) -> float:
    """The weighted mean over all ranks: the same bits however the rows are spread. Collective."""
    weights = np.ones(len(numbers)) if weights is None else weights
    pairs = np.stack([numbers * weights, weights], axis=1)
    total, weight = hc.allreduce(pairs, op="sum", comm=comm, reproducible=True, axis=0).tolist()
    return total / weight


class SquaredError(NamedTuple):
    constant: bool = True
    level: float | None = None

    def start(self, rows: Rows, outputs: int, comm: MPI.Intracomm) -> np.ndarray:
        return np.array([mean(rows.y, rows.weights, comm)])

    def derivatives(self, scores: np.ndarray, y: np.ndarray, output: int, g: np.ndarray, h: np.ndarray) -> None:
        np.subtract(scores[0], y, out=g, casting="unsafe")

    def values(self, scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 0.5 * (scores[0] - y) ** 2


class Quantile(NamedTuple):
    """``level`` 0.5 with ``factor`` 2 is the absolute error."""

    level: float = 0.5
    factor: float = 1.0
    constant: bool = True

    def start(self, rows: Rows, outputs: int, comm: MPI.Intracomm) -> np.ndarray:
        return quantiles(rows.y, np.zeros(len(rows.y), np.int64), 1, self.level, rows.weights, comm)

    def derivatives(self, scores: np.ndarray, y: np.ndarray, output: int, g: np.ndarray, h: np.ndarray) -> None:
        above, below = np.float32(-self.level * self.factor), np.float32((1 - self.level) * self.factor)
        g[:] = np.where(y > scores[0], above, np.where(y < scores[0], below, np.float32(0)))

    def values(self, scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        left = y - scores[0]
        return self.factor * np.where(left > 0, self.level * left, (self.level - 1) * left)


class LogLoss(NamedTuple):
    constant: bool = False
    level: float | None = None

    def start(self, rows: Rows, outputs: int, comm: MPI.Intracomm) -> np.ndarray:
        assert rows.classes is not None
        of_class = (rows.y == k for k in range(len(rows.classes)))
        shares = np.array([mean(one.astype(np.float64), rows.weights, comm) for one in of_class])
        tiny = np.finfo(np.float64).tiny
        if outputs == 1:
            return np.array([np.log(max(shares[1], tiny) / max(shares[0], tiny))])
        return np.log(np.maximum(shares, tiny))

    def derivatives(self, scores: np.ndarray, y: np.ndarray, output: int, g: np.ndarray, h: np.ndarray) -> None:
        if len(scores) == 1:
            _logistic(scores[0], y, g, h)
        else:
            _softmax(scores, y, output, g, h)

    def values(self, scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        found = np.empty(scores.shape[1])
        _log_losses(scores, y, found)
        return found

    @staticmethod
    def probabilities(scores: np.ndarray) -> np.ndarray:
        """Of classes (n, classes), for scores (outputs, n)."""
        found = np.empty((scores.shape[1], max(2, len(scores))))
        _probabilities(scores, found)
        return found


@njit(nogil=True, cache=True)
def _logistic(scores, y, g, h):
    for i in range(len(scores)):
        p = 1.0 / (1.0 + exp(-scores[i]))
        g[i] = p - y[i]
        h[i] = p * (1.0 - p)


@njit(nogil=True, cache=True)
def _softmax(scores, y, output, g, h):
    outputs, n = scores.shape
    for i in range(n):
        top = scores[0, i]
        for k in range(1, outputs):
            top = max(top, scores[k, i])
        total = 0.0
        for k in range(outputs):
            total += exp(scores[k, i] - top)
        p = exp(scores[output, i] - top) / total
        g[i] = p - (1.0 if y[i] == output else 0.0)
        h[i] = p * (1.0 - p)


@njit(nogil=True, cache=True)
def _log_losses(scores, y, found):
    outputs, n = scores.shape
    for i in range(n):
        if outputs == 1:
            s = scores[0, i]
            found[i] = max(s, 0.0) - s * y[i] + log(1.0 + exp(-abs(s)))
        else:
            top = scores[0, i]
            for k in range(1, outputs):
                top = max(top, scores[k, i])
            total = 0.0
            for k in range(outputs):
                total += exp(scores[k, i] - top)
            found[i] = log(total) + top - scores[y[i], i]


@njit(nogil=True, cache=True)
def _probabilities(scores, found):
    outputs, n = scores.shape
    for i in range(n):
        if outputs == 1:
            p = 1.0 / (1.0 + exp(-scores[0, i]))
            found[i, 0], found[i, 1] = 1.0 - p, p
        else:
            top = scores[0, i]
            for k in range(1, outputs):
                top = max(top, scores[k, i])
            total = 0.0
            for k in range(outputs):
                found[i, k] = exp(scores[k, i] - top)
                total += found[i, k]
            for k in range(outputs):
                found[i, k] /= total
