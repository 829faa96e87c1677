"""Linear support vector machines by Newton's method on the primal problem; see `margins` for the smoothing.

The loss is smoothed by μ, which leaves a gap of about μ²; whenever the rest of the gap has become smaller than that, μ
is lowered, and the dual variables become the estimates about which it is smoothed. So a few ten passes over the data
reach any gap, as many on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hpcml.models.design import Design
from hpcml.models.margins import PRIMAL, UNSMOOTHED, MarginLosses, Stage
from hpcml.models.newton import Newton, Point


def minimised(design: Design, losses: MarginLosses, tol: float, max_iter: int) -> Iterator[Stage]:
    """The way to a relative duality gap (P − D)/P of at most ``tol``, a stage for each iteration. Collective."""
    newton = Newton(design, losses, np.ones(design.columns))
    point = newton.at(np.zeros((design.columns, 1)))
    for turn in range(max_iter + 1):
        primal, gap, left, smoothing = _bounds(point)
        yield Stage(point.W, point.scores, primal, gap, turn)
        if gap <= tol:
            return
        if not losses.squared and left <= 0.5 * smoothing:
            # The gap is as μ²: what a third of the tolerance takes, but no more than a tenth at once.
            shorter = np.sqrt(tol * primal / (3 * smoothing))
            losses.sharpen(losses.mu * min(0.5, max(0.1, shorter)))
            point = newton.again(point)
        after = newton.step(point)
        if after is point and (losses.squared or left > 0.5 * smoothing):
            return  # rounding leaves no lower point
        point = after


def _bounds(point: Point) -> tuple[float, float, float, float]:
    """P(W), the relative gap, and its two summands: of the gradient, and of smoothing."""
    primal = 0.5 * float((point.W * point.W).sum()) + float(point.values[PRIMAL])
    # ∇F = W + u, whatever the smoothing.
    left, smoothing = 0.5 * float((point.gradient * point.gradient).sum()), float(point.values[UNSMOOTHED])
    return primal, (left + smoothing) / max(primal, 1e-300), left, max(smoothing, 1e-300)
