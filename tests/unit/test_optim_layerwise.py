"""LARS and LAMB make the steps of their papers' formulas, written down in NumPy and reckoned in float64."""

import numpy as np
import pytest
from optim_cases import CASES, gradients, parameters

from hpcml import optim

STEPS = 200


def norm(array):
    return np.sqrt(np.sum(np.square(array)))


def lars(theta, g, state, t, *, lr, momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=False,
         trust_coefficient=1e-3, eps=0.0, maximize=False):  # fmt: skip
    """You, Gitman & Ginsburg 2017, Algorithm 1; the options that it does not have as in torch.optim.SGD."""
    g = -g if maximize else g
    local = trust_coefficient * norm(theta) / (norm(g) + weight_decay * norm(theta) + eps) if norm(g) else 1.0
    d = (local if trust_coefficient else 1.0) * (g + weight_decay * theta)
    v = d if t == 1 or momentum == 0 else momentum * state["v"] + (1 - dampening) * d
    state["v"] = v
    return theta - lr * (d + momentum * v if nesterov else v)


def lamb(theta, g, state, t, *, lr, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, maximize=False):
    """You et al. 2020, Algorithm 2."""
    g = -g if maximize else g
    beta1, beta2 = betas
    m = beta1 * state.get("m", 0) + (1 - beta1) * g
    v = beta2 * state.get("v", 0) + (1 - beta2) * g**2
    state.update(m=m, v=v)
    r = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
    u = r + weight_decay * theta
    return theta - lr * (norm(theta) / norm(u) if norm(u) else 1.0) * u


FORMULAS = {"LARS": lars, "LAMB": lamb}
every_case = pytest.mark.parametrize("case", [case for case in CASES if case.name in FORMULAS], ids=str)


def largest_deviation(case, dtype):
    """Over 200 steps, all parameters: the largest deviation from the formulas, relative to the larger of those and 1.

    Each side forms its gradients at its own parameters, so a deviation in one step is carried into the next.
    """
    ours, theirs = parameters(dtype), {name: array.astype("f8") for name, array in parameters(dtype).items()}
    optimizer, states, worst = case.optimizer(ours), {name: {} for name in ours}, 0.0
    for step in range(STEPS):
        optimizer.step(gradients(ours, step))
        for name, gradient in gradients(theirs, step).items():
            theta = FORMULAS[case.name](theirs[name], gradient, states[name], step + 1, **case.options)
            theirs[name] = np.asarray(theta)
            deviation = np.abs(ours[name] - theta) / np.maximum(np.abs(theta), 1)
            worst = np.maximum(worst, deviation.max(initial=0.0))  # NaN if one of them is
    return worst


@every_case
def test_float64_trajectory_is_that_of_the_formulas(case):
    assert largest_deviation(case, "f8") <= 1e-12


@every_case
def test_float32_trajectory_is_that_of_the_formulas(case):
    # Some ten roundings of 2⁻²⁴ per step, in a problem that contracts or keeps deviations: 200 · 10 · 2⁻²⁴ = 1.2e-4.
    assert largest_deviation(case, "f4") <= 1.2e-4


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("size", [1023, 1024, 1025, 5000])
def test_the_norm_is_that_of_the_whole_array(name, size):
    random = np.random.default_rng(size)
    theta, gradient = random.normal(size=size), random.normal(size=size)
    expected = FORMULAS[name](theta, gradient, {}, 1, lr=0.5, weight_decay=0.1)
    getattr(optim, name)([theta], lr=0.5, weight_decay=0.1).step([gradient])
    np.testing.assert_allclose(theta, expected, rtol=1e-12)


@pytest.mark.parametrize("rule", [optim.LARS, optim.LAMB])
def test_an_array_of_norm_0_takes_an_unscaled_step(rule):
    theta = [np.zeros(3)]
    optimizer = rule(theta, lr=0.5, eps=0.0)
    optimizer.step([np.full(3, 2.0)])
    assert theta[0].tolist() == [-1.0 if rule is optim.LARS else -0.5] * 3


@pytest.mark.parametrize("rule", [optim.LARS, optim.LAMB])
def test_without_a_gradient_what_remains_is_the_decay(rule):
    theta = [np.full(4, 2.0)]
    rule(theta, lr=0.5, weight_decay=0.25).step([np.zeros(4)])
    # LARS: 2 − 0.5 · 0.25 · 2. LAMB: the update is λθ, of which the trust ratio makes θ.
    assert theta[0].tolist() == [1.75 if rule is optim.LARS else 1.0] * 4


def test_a_group_without_trust_takes_the_steps_of_momentum():
    scaled, plain = parameters(), parameters()
    others = {"params": lambda name, array: array.ndim < 2, "trust_coefficient": 0.0, "weight_decay": 0.0, "lr": 0.05}
    one = optim.LARS(scaled, lr=1.0, trust_coefficient=0.02, weight_decay=0.1, groups=[others])
    two = optim.SGD(plain, lr=0.05, momentum=0.9)
    for step in range(20):
        grads = gradients(plain, step)
        one.step(grads)
        two.step(grads)
        for name in plain:
            if plain[name].ndim < 2:
                np.testing.assert_array_equal(scaled[name], plain[name])
    assert (scaled["w"] != plain["w"]).all()
