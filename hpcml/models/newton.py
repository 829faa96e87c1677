"""Newton's method for linear models over ranks.

Minimises, over W (D, k), for a design A = [X, s·1] whose rows are spread over the ranks::

    F(W) = ½ Σ_jc r_j W_jc² + Σ_i ℓ_i(a_i W),    ℓ_i convex

A step costs one pass over the rows and one all-reduce of D·k + some numbers. The Hessian is::

    H = diag(r) + Aᵀ ∇²ℓ A

Few columns: H is formed, of a sample of the rows where there are many more rows than columns (Byrd, Chin, Neveitt,
Nocedal 2011), and the step is solved for. A sample of 100 D rows of curvature foresees H within about 10 %, so that
each step shortens the way to the minimum about tenfold, where the whole H costs D/4 passes. Where a step does less, the
sample grows. Many columns: conjugate gradients with products H v (truncated Newton, as TRON in LIBLINEAR: Lin, Weng,
Keerthi 2008), with the diagonal of H as preconditioner.

Where the full step does not decrease F enough, the best step along it is found from the scores at both its ends, for
scores are linear in W; that needs no pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from hpcml.models.design import Design

#: D·k up to which H is formed.
DIRECT = 1200
#: Rows of curvature in the sample of the Hessian, for each of the D columns.
SAMPLE = 100
#: A step that leaves more than this share of the gradient wants a larger sample, if it starts near the minimum: where
#: it takes less than that share off F. Farther away the whole Hessian would not do better.
SLOW, NEAR = 0.35, 0.02
SUFFICIENT = 1e-4
#: Of the square of the residual, where conjugate gradients end.
ENOUGH = 0.01


class Curvature(NamedTuple):
    """∇²ℓ: of local ``rows`` (m,), ascending, the second derivatives ``weights``: (m, k), no class with another, or,
    for all pairs c ≤ e of the k classes, in the order of `pairs`, where ``crossed``."""

    rows: np.ndarray
    weights: np.ndarray
    crossed: bool = False


class Bender(NamedTuple):
    """∇²ℓ as products: of local ``rows`` (m,), ascending, the ``diagonal`` (m, k), and what it makes of the scores (.,
    k) of those of them that a slice of m selects."""

    rows: np.ndarray
    diagonal: np.ndarray
    times: Callable[[np.ndarray, slice], np.ndarray]


class Losses(Protocol):
    """ℓ over this rank's rows."""

    #: Of the values that `slopes` returns; the first is Σ ℓ.
    values: int

    def slopes(self, scores: np.ndarray, at: int) -> tuple[np.ndarray, np.ndarray]:
        """∂ℓ/∂score (n, k) of the rows from number ``at``, and values (m,) summed over them."""

    def curvature(self, scores: np.ndarray, chosen: np.ndarray | None) -> Curvature:
        """At all scores; of the ``chosen`` rows (n,), bool, only."""

    def bender(self, scores: np.ndarray) -> Bender:
        """The same of all rows, for products."""

    def curved(self, values: np.ndarray) -> float:
        """How many rows, over all ranks, bend the loss, by the values that were summed."""


class Point(NamedTuple):
    """W, its scores on this rank's rows, F, ∇F and the values of the losses."""

    W: np.ndarray
    scores: np.ndarray
    value: float
    gradient: np.ndarray
    values: np.ndarray


class Newton:
    """The way to the minimum, a step at a time. Collective over the ranks of the design."""

    def __init__(self, design: Design, losses: Losses, ridge: np.ndarray, most: int | None = None) -> None:
        """ridge: r (D,). most: rows of curvature in the sample; None for `SAMPLE` · D."""
        self.design, self.losses, self.ridge = design, losses, ridge[:, None]
        self.sample = SAMPLE * design.columns if most is None else most
        self.direct = False

    def at(self, W: np.ndarray) -> Point:
        """The point W. One pass."""
        scores = np.empty((self.design.rows, W.shape[1]))
        values, product = self.design.sweep(W, self.losses.slopes, self.losses.values, scores)
        return self._point(W, scores, values, product)

    def again(self, point: Point) -> Point:
        """The same point, for losses that have changed since."""
        values, product = self.design.again(point.scores, self.losses.slopes, self.losses.values)
        return self._point(point.W, point.scores, values, product)

    def step(self, point: Point) -> Point:
        """From a point to one with a lower F; the same one where rounding leaves none."""
        way = self._direction(point)
        slope = float((way * point.gradient).sum())
        if not slope < 0:
            return point
        there = self.at(point.W + way)
        if there.value <= point.value + SUFFICIENT * slope:
            self._judge(point, there)
            return there
        share = self._search(point, there, way)
        self._judge(point, point)
        scores = point.scores + share * (there.scores - point.scores)
        values, product = self.design.again(scores, self.losses.slopes, self.losses.values)
        found = self._point(point.W + share * way, scores, values, product)
        return found if found.value < point.value else point

    def _judge(self, before: Point, after: Point) -> None:
        near = before.value - after.value < NEAR * abs(before.value)
        if self.direct and near and np.linalg.norm(after.gradient) > SLOW * np.linalg.norm(before.gradient):
            self.sample *= 4

    def _point(self, W: np.ndarray, scores: np.ndarray, values: np.ndarray, product: np.ndarray) -> Point:
        value = float(values[0]) + 0.5 * float((self.ridge * W * W).sum())
        return Point(W, scores, value, product + self.ridge * W, values)

    def _direction(self, point: Point) -> np.ndarray:
        D, k = point.W.shape
        self.direct = D * k <= DIRECT
        if not self.direct:
            return self._truncated(point)
        curved = self.losses.curved(point.values)
        share = self.sample / max(curved, 1.0)
        share = 1.0 if share > 0.5 else share
        chosen = None if share == 1.0 else self.design.drawn(share)
        rows, weights, crossed = self.losses.curvature(point.scores, chosen)
        grams = self.design.gram(rows, list(weights.T)) / share
        if not crossed:
            way = np.empty_like(point.W)
            for c in range(k):
                way[:, c] = -solved_with_ridge(grams[c], self.ridge[:, 0], point.gradient[:, c])
            return way
        H = np.zeros((k, D, k, D))
        for gram, (c, e) in zip(grams, pairs(k), strict=True):
            H[c, :, e] = H[e, :, c] = gram
        ridge = np.tile(self.ridge[:, 0], k)
        return -solved_with_ridge(H.reshape(k * D, k * D), ridge, point.gradient.T.ravel()).reshape(k, D).T

    def _truncated(self, point: Point) -> np.ndarray:
        """Conjugate gradients on H p = −∇F, until the residual is a tenth of ∇F, in the norm of the preconditioner."""
        rows, diagonal, times = self.losses.bender(point.scores)
        hessian = self.design.product(rows, times)
        scale = self.ridge + self.design.diagonal(rows, diagonal)
        scale[scale <= 0] = 1.0
        way, residual = np.zeros_like(point.W), -point.gradient
        conditioned = residual / scale
        ahead, size = conditioned, float((residual * conditioned).sum())
        enough = ENOUGH * size
        for _ in range(250):
            if size <= enough:
                break
            bent = hessian(ahead) + self.ridge * ahead
            curvature = float((ahead * bent).sum())
            if curvature <= 0:
                break
            length = size / curvature
            way, residual = way + length * ahead, residual - length * bent
            conditioned = residual / scale
            before, size = size, float((residual * conditioned).sum())
            ahead = conditioned + size / before * ahead
        return way

    def _search(self, point: Point, there: Point, way: np.ndarray) -> float:
        """Where between both the derivative of F along the way is zero: by bisection, narrowed by secants."""
        change = there.scores - point.scores
        first = float((self.ridge * point.W * way).sum())
        second = float((self.ridge * way * way).sum())

        def slope(share: float) -> float:
            scores = point.scores + share * change
            slopes, _ = self.losses.slopes(scores, 0)
            along = self.design.total(self.design.by_unit((slopes * change).sum(axis=1)))
            return float(along) + first + share * second

        low, high = 0.0, 1.0
        at_low, at_high = float((point.gradient * way).sum()), float((there.gradient * way).sum())
        if at_high <= 0:  # F falls all the way: the step was judged by rounding
            return 1.0
        for turn in range(30):
            middle = 0.5 * (low + high)
            if turn % 3 < 2:
                middle = low - at_low * (high - low) / (at_high - at_low)
            found = slope(middle)
            if abs(found) <= 0.02 * -float((point.gradient * way).sum()):
                return middle
            low, at_low, high, at_high = (middle, found, high, at_high) if found < 0 else (low, at_low, middle, found)
        return low if low > 0 else middle


def pairs(k: int) -> Iterator[tuple[int, int]]:
    """(0, 0), (0, 1), … (0, k − 1), (1, 1), …"""
    return ((c, e) for c in range(k) for e in range(c, k))


def solved_with_ridge(gram: np.ndarray, ridge: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(gram + diag(ridge))⁻¹ right; where that is singular by rounding, with a little more on the diagonal."""
    H = gram + np.diag(ridge)
    largest = max(float(np.abs(np.diag(H)).max()), 1e-300)
    more = 1e-14 * largest
    while True:
        try:
            lower = np.linalg.cholesky(H + more * np.eye(len(H)))
        except np.linalg.LinAlgError:
            more *= 100
            continue
        return np.linalg.solve(lower.T, np.linalg.solve(lower, right))
