"""Losses of support vector machines, smoothed, for Newton's method, and the dual variables that they imply.

For a row with target y and score f, let t = 1 − y·f in classification (y = ±1), or t = y − f in regression. The loss is
the largest of α·t − ε|α| − α²/(4U) over α in the dual's box, for the squared losses (U = C·weight), and without the last
term for the others, whose corner is smoothed with a proximal term::

    ψ(t) = max_α  α·t − ε|α| − μ/(2U)·(α − a)²,    0 ≤ α ≤ U in classification, |α| ≤ U in regression, ε = 0 or given

which is a Huber function for a = 0 (Chapelle 2007) and a step of the proximal method of multipliers, with estimates a of
the dual variables (Rockafellar 1976), otherwise. The squared losses are the same with no upper bound, a = 0 and μ = ½.
The maximal α is feasible in the dual at any W, so that, with u = Aᵀ(∂t/∂f α) the dual's primal part, there is a bound::

    P(W) − D(α) = ½ ‖W + u‖² + Σ_i (loss_i(t_i) + loss_i*(α_i) − α_i·t_i) ≥ P(W) − min P
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from hpcml.models.newton import Bender, Curvature

#: What `MarginLosses.slopes` adds up.
SMOOTHED, PRIMAL, UNSMOOTHED, CURVED = range(4)


class Stage(NamedTuple):
    """Where a solver is: W (D, 1), its scores (n, 1) on this rank's rows, P(W), the relative gap, iterations so far."""

    W: np.ndarray
    scores: np.ndarray
    primal: float
    gap: float
    iterations: int


class MarginLosses:
    """Such losses of this rank's rows, for one score a row: `newton.Losses`."""

    values = 4

    def __init__(
        self, targets: np.ndarray, upper: np.ndarray, *, squared: bool, epsilon: float, regression: bool, mu: float = 2.0
    ) -> None:
        """targets: y (n,), ±1 in classification. upper: U (n,)."""
        self.targets, self.upper, self.squared, self.epsilon = targets, upper, squared, epsilon
        self.regression = regression
        self.mu = 0.5 if squared else mu
        self.centre, self.alpha = np.zeros(len(targets)), np.zeros(len(targets))

    def slopes(self, scores: np.ndarray, at: int) -> tuple[np.ndarray, np.ndarray]:
        here = slice(at, at + len(scores))
        slopes, sums = np.empty((len(scores), 1)), np.empty(self.values)
        _slopes(
            scores[:, 0],
            self.targets[here],
            self.upper[here],
            self.centre[here],
            self.mu,
            self.epsilon,
            self.squared,
            self.regression,
            self.alpha[here],
            slopes[:, 0],
            sums,
        )
        return slopes, sums

    def curvature(self, scores: np.ndarray, chosen: np.ndarray | None) -> Curvature:
        bent = self._bent(scores)
        rows = np.flatnonzero(bent if chosen is None else bent & chosen)
        return Curvature(rows, (self.upper[rows] / self.mu)[:, None])

    def bender(self, scores: np.ndarray) -> Bender:
        rows, weights, _ = self.curvature(scores, None)
        return Bender(rows, weights, lambda along, here: weights[here] * along)

    def curved(self, values: np.ndarray) -> float:
        return float(values[CURVED])

    def each(self, scores: np.ndarray) -> np.ndarray:
        """The losses (n,) of the rows, not smoothed."""
        found = np.empty(len(scores))
        _each(scores, self.targets, self.upper, self.epsilon, self.squared, self.regression, found)
        return found

    def sharpen(self, mu: float) -> None:
        """Take the dual variables of the last pass for the estimates, and smooth less."""
        self.centre, self.mu = self.alpha.copy(), mu

    def _bent(self, scores: np.ndarray) -> np.ndarray:
        bent = np.empty(len(scores), np.bool_)
        _bends(
            scores[:, 0],
            self.targets,
            self.upper,
            self.centre,
            self.mu,
            self.epsilon,
            self.squared,
            self.regression,
            bent,
        )
        return bent


@njit(cache=True, nogil=True)
def _maximal(t, upper, centre, mu, epsilon, squared, regression):
    """The maximal α, and whether it moves with t."""
    if upper == 0.0:
        return 0.0, False
    alpha = centre + upper * t / mu
    if regression:
        shift = epsilon * upper / mu
        if abs(alpha) <= shift:
            return 0.0, False
        alpha -= shift if alpha > 0 else -shift
        if not squared and abs(alpha) >= upper:
            return (upper if alpha > 0 else -upper), False
        return alpha, True
    if alpha <= 0.0:
        return 0.0, False
    if not squared and alpha >= upper:
        return upper, False
    return alpha, True


@njit(cache=True, nogil=True)
def _slopes(scores, targets, upper, centre, mu, epsilon, squared, regression, alphas, slopes, sums):
    smoothed, primal, unsmoothed, curved = 0.0, 0.0, 0.0, 0.0
    for i in range(len(scores)):
        f, y, u = scores[i], targets[i], upper[i]
        t = y - f if regression else 1.0 - y * f
        alpha, moves = _maximal(t, u, centre[i], mu, epsilon, squared, regression)
        alphas[i] = alpha
        slopes[i] = -alpha if regression else -y * alpha
        beyond = max(0.0, abs(t) - epsilon) if regression else max(0.0, t)
        loss = u * beyond * beyond if squared else u * beyond
        dual = alpha * t - epsilon * abs(alpha)
        if squared and u > 0.0:
            dual -= alpha * alpha / (4.0 * u)
            smoothed += loss
        elif u > 0.0:
            smoothed += dual - 0.5 * mu / u * (alpha - centre[i]) ** 2
        primal += loss
        unsmoothed += loss - dual
        if moves:
            curved += 1.0
    sums[0], sums[1], sums[2], sums[3] = smoothed, primal, unsmoothed, curved


@njit(cache=True, nogil=True)
def _bends(scores, targets, upper, centre, mu, epsilon, squared, regression, bent):
    for i in range(len(scores)):
        t = targets[i] - scores[i] if regression else 1.0 - targets[i] * scores[i]
        bent[i] = _maximal(t, upper[i], centre[i], mu, epsilon, squared, regression)[1]


@njit(cache=True, nogil=True)
def _each(scores, targets, upper, epsilon, squared, regression, found):
    for i in range(len(scores)):
        beyond = max(0.0, abs(targets[i] - scores[i]) - epsilon) if regression else 1.0 - targets[i] * scores[i]
        beyond = max(0.0, beyond)
        found[i] = upper[i] * beyond * beyond if squared else upper[i] * beyond
