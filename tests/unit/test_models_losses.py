"""Losses: their values by definition, their gradients by finite differences, at every number of classes."""

import numpy as np
import pytest

from hpcml.models import losses

LOSSES = {"cross_entropy": losses.cross_entropy, "hinge": losses.hinge, "squared_hinge": losses.squared_hinge}


def by_definition(name, scores, codes):
    """The loss from its formula, with the single score f of two classes written as it is defined."""
    two = scores.shape[1] == 1
    if name == "cross_entropy":
        full = np.hstack([np.zeros_like(scores), scores]) if two else scores
        p = np.exp(full) / np.exp(full).sum(axis=1, keepdims=True)
        return -np.log(p[np.arange(len(codes)), codes]).sum()
    y = np.where(codes == 1, 1.0, -1.0)[:, None] if two else np.where(np.eye(scores.shape[1])[codes], 1.0, -1.0)
    return (np.maximum(0, 1 - y * scores) ** (2 if name == "squared_hinge" else 1)).sum()


@pytest.fixture(params=[2, 3, 7])
def problem(request):
    random = np.random.default_rng(request.param)
    columns = losses.outputs(request.param)
    return random.normal(0, 2, (11, columns)), random.integers(0, request.param, 11)


@pytest.mark.parametrize("name", LOSSES)
def test_value(name, problem):
    scores, codes = problem
    assert LOSSES[name](scores.copy(), codes) == pytest.approx(by_definition(name, scores, codes), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_by_finite_differences(name, problem):
    scores, codes = problem
    gradient = scores.copy()
    LOSSES[name](gradient, codes)
    h = 1e-6
    for place in np.ndindex(*scores.shape):
        ends = []
        for sign in (1, -1):
            moved = scores.copy()
            moved[place] += sign * h
            ends.append(by_definition(name, moved, codes))
        # Central differences err by h²·f‴/6 ≈ 1e-12 and by rounding of sums ≈ 50 to 1e-14/h ≈ 1e-8.
        assert gradient[place] == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=1e-7)


def test_hinge_is_flat_beyond_the_margin():
    scores = np.array([[2.0], [-2.0], [0.5], [-0.5]])
    codes = np.array([1, 0, 1, 0])
    assert losses.hinge(scores, codes) == 1.0
    assert scores.ravel().tolist() == [0, 0, -1, 1]


@pytest.mark.parametrize("columns", [1, 3])
def test_cross_entropy_of_huge_scores_is_finite(columns):
    scores = np.array([[1e4] * columns, [-1e4] * columns], "f4")
    scores[:, 0] *= 10
    codes = np.array([0, 1])
    value = losses.cross_entropy(scores, codes)
    assert np.isfinite(value) and np.isfinite(scores).all()
    assert value == pytest.approx(2e5 if columns == 1 else 0.0 + np.log(2), rel=1e-5)


@pytest.mark.parametrize("columns", [1, 4])
def test_probabilities_are_those_of_the_loss(columns):
    random = np.random.default_rng(0)
    scores = random.normal(0, 3, (9, columns))
    p = losses.probabilities(scores.copy())
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    for code in range(p.shape[1]):
        codes = np.full(9, code)
        value = losses.cross_entropy(scores.copy(), codes)
        assert value == pytest.approx(-np.log(p[:, code]).sum(), rel=1e-12)
    assert (p.argmax(axis=1) == losses.decided(scores)).all()


def test_correct_counts_rows():
    assert losses.correct(np.array([[0.1], [-0.1], [0.0]]), np.array([1, 1, 0])) == 2
    assert losses.correct(np.array([[1.0, 2, 0], [1, 0, 0]]), np.array([1, 2])) == 1


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("columns", [1, 3])
def test_no_rows_cost_nothing(name, columns):
    assert LOSSES[name](np.empty((0, columns)), np.empty(0, int)) == 0.0
