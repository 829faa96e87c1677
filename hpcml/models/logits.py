"""Losses of logistic regression for Newton's method: value, slopes and curvature, for two classes and for more.

Two classes, with one score f and y = ±1; more, with a score for each and p = softmax(f)::

    ℓ = −u·log p(y),    1/(1 + exp(−y·f)):  ℓ' = −u·y·(1 − p),   ℓ'' = u·p(1 − p)
                                softmax:  ∇ℓ = u·(p − e_y),     ∇²ℓ = u·(diag p − p pᵀ)

u is C times the weight of the row. Exponentials are taken one by one, so that no vector loop has a remainder of its own.
"""

from __future__ import annotations

from math import exp, log, log1p

import numpy as np
from numba import njit

from hpcml.models.newton import Bender, Curvature, pairs


class Logits:
    """`newton.Losses` of this rank's rows, which belong to the classes ``codes`` (n,) of k; k = 1 for two classes."""

    values = 2

    def __init__(self, codes: np.ndarray, weights: np.ndarray, k: int) -> None:
        self.codes, self.weights, self.k = codes, weights, k

    def slopes(self, scores: np.ndarray, at: int) -> tuple[np.ndarray, np.ndarray]:
        here = slice(at, at + len(scores))
        slopes, sums = np.empty((len(scores), self.k)), np.empty(self.values)
        _slopes(scores, self.codes[here], self.weights[here], slopes, sums)
        return slopes, sums

    def curvature(self, scores: np.ndarray, chosen: np.ndarray | None) -> Curvature:
        rows = np.arange(len(scores)) if chosen is None else np.flatnonzero(chosen)
        p, u = softmax(scores[rows]), self.weights[rows, None]
        if self.k == 1:
            return Curvature(rows, u * p * (1 - p))
        weights = [u[:, 0] * p[:, c] * ((c == e) - p[:, e]) for c, e in pairs(self.k)]
        return Curvature(rows, np.stack(weights, axis=1), True)

    def bender(self, scores: np.ndarray) -> Bender:
        p, u = softmax(scores), self.weights[:, None]
        diagonal = u * p * (1 - p)

        def times(along: np.ndarray, here: slice) -> np.ndarray:
            if self.k == 1:
                return diagonal[here] * along
            mean = (p[here] * along).sum(axis=1, keepdims=True)
            return u[here] * p[here] * (along - mean)

        return Bender(np.arange(len(scores)), diagonal, times)

    def curved(self, values: np.ndarray) -> float:
        return float(values[1])


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities (n, k); of one score the probability of the second class."""
    p = np.empty(scores.shape)
    _probabilities(np.ascontiguousarray(scores, np.float64), p)
    return p


@njit(cache=True, nogil=True)
def _probabilities(scores, p):
    n, k = scores.shape
    for i in range(n):
        if k == 1:
            small = exp(-abs(scores[i, 0]))
            p[i, 0] = 1.0 / (1.0 + small) if scores[i, 0] > 0.0 else small / (1.0 + small)
        else:
            highest, total = scores[i, 0], 0.0
            for c in range(1, k):
                highest = max(highest, scores[i, c])
            for c in range(k):
                p[i, c] = exp(scores[i, c] - highest)
                total += p[i, c]
            for c in range(k):
                p[i, c] /= total


@njit(cache=True, nogil=True)
def _slopes(scores, codes, weights, slopes, sums):
    n, k = scores.shape
    loss, counted = 0.0, 0.0
    for i in range(n):
        u = weights[i]
        counted += 1.0 if u > 0.0 else 0.0
        if k == 1:
            y = 1.0 if codes[i] == 1 else -1.0
            margin = y * scores[i, 0]
            small = exp(-abs(margin))
            loss += u * (log1p(small) + max(0.0, -margin))
            wrong = small / (1.0 + small) if margin > 0.0 else 1.0 / (1.0 + small)
            slopes[i, 0] = -y * u * wrong
        else:
            highest, total = scores[i, 0], 0.0
            for c in range(1, k):
                highest = max(highest, scores[i, c])
            for c in range(k):
                slopes[i, c] = exp(scores[i, c] - highest)
                total += slopes[i, c]
            loss += u * (log(total) + highest - scores[i, codes[i]])
            for c in range(k):
                slopes[i, c] *= u / total
            slopes[i, codes[i]] -= u
    sums[0], sums[1] = loss, counted
