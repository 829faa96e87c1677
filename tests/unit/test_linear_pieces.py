"""Pieces of the linear solvers without MPI: losses against their derivatives, descent on the dual, small systems."""

import numpy as np
import pytest

from hpcml.models.descent import along, descend, separable, shuffle, squared_norms
from hpcml.models.logits import Logits, softmax
from hpcml.models.margins import CURVED, PRIMAL, SMOOTHED, UNSMOOTHED, MarginLosses
from hpcml.models.newton import pairs, solved_with_ridge

ROWS = 40


def margin_losses(squared, regression, mu=0.7):
    random = np.random.default_rng(1)
    y = random.normal(size=ROWS) if regression else random.choice([-1.0, 1.0], ROWS)
    upper = random.uniform(0.5, 2, ROWS)
    epsilon = 0.3 if regression else 0.0
    losses = MarginLosses(y, upper, squared=squared, epsilon=epsilon, regression=regression, mu=mu)
    return losses, random.normal(size=(ROWS, 1)) * 1.5


KINDS = [(squared, regression) for squared in (False, True) for regression in (False, True)]
every_kind = pytest.mark.parametrize("squared, regression", KINDS, ids=str)


@every_kind
def test_slopes_are_derivatives_of_what_is_smoothed_and_curvature_theirs(squared, regression):
    losses, scores = margin_losses(squared, regression)
    for _ in range(2):  # without, then with estimates of the dual variables
        slopes, sums = losses.slopes(scores, 0)
        alpha = losses.alpha.copy()
        step = 1e-6
        for i in range(ROWS):
            values, moved = [], []
            for sign in (-1, 1):
                other = scores.copy()
                other[i] += sign * step
                found, values_there = losses.slopes(other, 0)
                values.append(values_there[SMOOTHED])
                moved.append(found[i, 0])
            assert (values[1] - values[0]) / (2 * step) == pytest.approx(slopes[i, 0], abs=1e-6)
            rows, weights, _ = losses.curvature(scores, None)
            bend = weights[rows == i].sum()
            assert (moved[1] - moved[0]) / (2 * step) == pytest.approx(bend, rel=1e-6, abs=1e-9)
        assert sums[CURVED] == len(rows)
        losses.alpha[:] = alpha
        if not squared:
            losses.sharpen(0.3)


@every_kind
def test_the_dual_variables_are_feasible_and_their_bound_holds(squared, regression):
    losses, scores = margin_losses(squared, regression)
    _, sums = losses.slopes(scores, 0)
    upper = np.where(squared, np.inf, losses.upper)
    assert (losses.alpha <= upper).all() and (losses.alpha >= (-upper if regression else 0)).all()
    t = losses.targets - scores[:, 0] if regression else 1 - losses.targets * scores[:, 0]
    beyond = np.maximum(0, np.abs(t) - losses.epsilon) if regression else np.maximum(0, t)
    loss = losses.upper * (beyond**2 if squared else beyond)
    conjugate = losses.epsilon * np.abs(losses.alpha) + (losses.alpha**2 / (4 * losses.upper) if squared else 0)
    assert sums[PRIMAL] == pytest.approx(loss.sum(), rel=1e-12)
    assert sums[UNSMOOTHED] == pytest.approx((loss + conjugate - losses.alpha * t).sum(), abs=1e-9)
    # Fenchel and Young: row by row it is never below zero; for the squared losses it is zero.
    assert (loss + conjugate - losses.alpha * t >= -1e-12).all()
    assert not squared or sums[UNSMOOTHED] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("k", [1, 3])
def test_logits_are_derived_rightly(k):
    random = np.random.default_rng(0)
    codes, weights = random.integers(0, max(k, 2), ROWS), random.uniform(0.5, 2, ROWS)
    losses, scores = Logits(codes, weights, k), random.normal(size=(ROWS, k)) * 3
    slopes, sums = losses.slopes(scores, 0)
    p = softmax(scores)
    p = np.hstack([1 - p, p]) if k == 1 else p
    assert sums[0] == pytest.approx(-(weights * np.log(p[np.arange(ROWS), codes])).sum(), rel=1e-12)
    rows, curvature, _ = losses.curvature(scores, None)
    _, diagonal, times = losses.bender(scores)
    step = 1e-6
    for c in range(k):
        moved = scores.copy()
        moved[:, c] += step
        slopes_there, sums_there = losses.slopes(moved, 0)
        bent = (slopes_there - slopes) / step
        assert (sums_there[0] - sums[0]) / step == pytest.approx(slopes[:, c].sum(), rel=1e-4)
        for column, (a, b) in enumerate(pairs(k)):
            if c in (a, b):
                np.testing.assert_allclose(curvature[:, column], bent[:, a + b - c], atol=1e-5)
        unit = np.tile(np.eye(k)[c], (ROWS, 1))
        np.testing.assert_allclose(times(unit, slice(None)), bent, atol=1e-5)
        np.testing.assert_allclose(diagonal[:, c], bent[:, c], atol=1e-5)


def test_scores_beyond_any_exponent_stay_finite():
    for scores in (np.array([[800.0], [-800.0]]), np.array([[800.0, -800.0, 0.0], [-800.0, 800.0, 799.0]])):
        slopes, sums = Logits(np.array([0, 1]), np.ones(2), scores.shape[1]).slopes(scores, 0)
        assert np.isfinite(slopes).all() and np.isfinite(sums).all() and np.isfinite(softmax(scores)).all()


def go(X, y, upper, epsilon, squared, regression, passes, norms=None):
    """Passes over all rows with shrinking; the dual variables and w, without an intercept."""
    rows, columns = len(y), 5
    alpha, w, order = np.zeros(rows), np.zeros(columns), np.arange(rows)
    bounds, state = np.array([np.inf, -np.inf]), np.array([7], np.uint64)
    norms = squared_norms(X, rows, 0.0)
    active = rows
    for _ in range(passes):
        found = np.array([-np.inf, np.inf])
        shuffle(order, active, state)
        active = descend(
            X, y, upper, norms, alpha, w, 0.0, epsilon, squared, regression,
            order, 0, active, active, bounds, found, 1.0,
        )  # fmt: skip
        assert sorted(order) == list(range(rows))
        bounds[:] = found if active < rows else (np.inf, -np.inf)
        if found[0] - found[1] < 1e-9:
            active, bounds[:] = rows, (np.inf, -np.inf)
    return alpha, w


@every_kind
def test_descent_ends_where_no_variable_can_improve(squared, regression):
    sparse = pytest.importorskip("scipy.sparse")
    random = np.random.default_rng(3)
    X = random.normal(size=(ROWS, 5)) * (random.random((ROWS, 5)) < 0.6)
    y = X @ np.arange(5.0) + random.normal(size=ROWS)
    y = y if regression else np.where(y > 0, 1.0, -1.0)
    upper, epsilon = random.uniform(0.1, 1, ROWS), 0.2 if regression else 0.0
    csr = sparse.csr_array(X)
    results = [
        go(matrix, y, upper, epsilon, squared, regression, 4000) for matrix in (X, (csr.data, csr.indices, csr.indptr))
    ]
    for alpha, w in results:
        signed = alpha if regression else alpha * y
        np.testing.assert_allclose(w, X.T @ signed, atol=1e-9)
        P = np.maximum(0, np.abs(y - X @ w) - epsilon) if regression else np.maximum(0, 1 - y * (X @ w))
        primal = 0.5 * w @ w + (upper * (P**2 if squared else P)).sum()
        dual = -0.5 * w @ w - separable(alpha, y, upper, epsilon, squared, regression)
        assert -1e-9 <= primal - dual <= 1e-5 * primal
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-5)


@every_kind
def test_along_the_way_the_dual_lies_below_its_model(squared, regression):
    random = np.random.default_rng(0)
    y, upper = random.choice([-1.0, 1.0], ROWS), np.ones(ROWS)
    before, after = random.random(ROWS), random.random(ROWS)
    epsilon = 0.3 if regression else 0.0
    if regression:
        before, after = 2 * before - 1, 2 * after - 1
    slope, bend = along(after, before, y, upper, epsilon, squared, regression)
    start = separable(before, y, upper, epsilon, squared, regression)
    for share in (0.1, 0.5, 1.0):
        value = separable(before + share * (after - before), y, upper, epsilon, squared, regression)
        model = start + share * slope + 0.5 * share**2 * bend
        assert value <= model + 1e-12
    assert value == pytest.approx(model), "at its end it is the dual itself"


def test_systems_that_are_singular_by_rounding_are_solved():
    a = np.ones((3, 3))
    found = solved_with_ridge(a, np.zeros(3), np.full(3, 6.0))
    np.testing.assert_allclose(a @ found, 6.0, rtol=1e-5)
