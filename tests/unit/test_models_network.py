"""The network: gradients by finite differences through all layers, and buffers that are used again."""

import numpy as np
import pytest

from hpcml.models.losses import cross_entropy, hinge, squared_hinge
from hpcml.models.network import Passes, initial


def problem(hidden, classes=3, rows=6, dtype="f8", seed=0):
    random = np.random.default_rng(seed)
    outputs = 1 if classes == 2 else classes
    parameters = initial([4, *hidden, outputs], np.dtype(dtype), seed)
    for array in parameters.values():  # a linear model starts at zero, where ReLU's and hinge's kinks are
        array += random.normal(0, 0.5, array.shape).astype(dtype)
    return parameters, random.normal(size=(rows, 4)).astype(dtype), random.integers(0, classes, rows)


@pytest.mark.parametrize("loss", [cross_entropy, hinge, squared_hinge], ids=lambda f: f.__name__)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("hidden", [(), (5,), (7, 3), (4, 6, 5)], ids=str)
def test_gradients_by_finite_differences(hidden, classes, loss):
    parameters, X, codes = problem(hidden, classes)
    passes = Passes(parameters, rows=8)

    def value():
        return loss(passes.forward(X).copy(), codes)

    loss(passes.forward(X), codes)
    gradients = {name: array.copy() for name, array in passes.backward(X).items()}
    h = 1e-6
    for name, array in parameters.items():
        for place in np.ndindex(*array.shape):
            kept = array[place]
            array[place] = kept + h
            above = value()
            array[place] = kept - h
            below = value()
            array[place] = kept
            # Central differences are good to 1e-8 or so of the value; no unit here lies within h of its kink.
            assert gradients[name][place] == pytest.approx((above - below) / (2 * h), rel=1e-6, abs=1e-6)


def test_passes_of_other_sizes_leave_no_trace():
    parameters, X, codes = problem((5, 4), rows=8)
    passes, fresh = Passes(parameters, rows=8), Passes(parameters, rows=3)
    cross_entropy(passes.forward(X), codes)
    passes.backward(X)
    for p in (passes, fresh):
        cross_entropy(p.forward(X[:3]), codes[:3])
        p.backward(X[:3])
    for name in parameters:
        np.testing.assert_array_equal(passes.gradients[name], fresh.gradients[name])


def test_steps_allocate_no_gradients():
    parameters, X, codes = problem((5,))
    passes = Passes(parameters, rows=8)
    before = {name: id(array) for name, array in passes.gradients.items()}
    first = passes.forward(X)
    cross_entropy(first, codes)
    assert {name: id(array) for name, array in passes.backward(X).items()} == before
    assert np.shares_memory(passes.forward(X), first)


def test_initial_weights_are_he_normal_and_follow_the_seed():
    parameters = initial([400, 300, 10], np.dtype("f4"), seed=1)
    assert parameters["W0"].std() == pytest.approx(np.sqrt(2 / 400), rel=0.02)
    assert parameters["W1"].std() == pytest.approx(np.sqrt(2 / 300), rel=0.05)
    assert abs(parameters["W0"].mean()) < 5 * np.sqrt(2 / 400 / 120_000)
    assert not parameters["b0"].any() and parameters["W0"].dtype == "f4"
    again, other = initial([400, 300, 10], np.dtype("f4"), 1), initial([400, 300, 10], np.dtype("f4"), 2)
    assert (again["W0"] == parameters["W0"]).all() and (other["W0"] != parameters["W0"]).any()


def test_a_linear_model_starts_at_zero():
    assert not any(array.any() for array in initial([5, 3], np.dtype("f8"), seed=1).values())


@pytest.mark.parametrize("hidden", [(), (5,)])
def test_no_rows_make_no_gradient(hidden):
    parameters, X, codes = problem(hidden)
    passes = Passes(parameters, rows=0)
    cross_entropy(passes.forward(X[:0]), codes[:0])
    assert not any(array.any() for array in passes.backward(X[:0]).values())
