"""Trajectories equal those of torch.optim, for every rule and option."""

import numpy as np
import pytest
from optim_cases import CASES, gradients, parameters

torch = pytest.importorskip("torch", reason="torch is the oracle of these tests")

STEPS = 200


def largest_deviation(case, dtype):
    """Over 200 steps, all parameters: the largest |ours − torch's| relative to the larger of |torch's| and 1.

    Each side forms its gradients at its own parameters, so a deviation in one step is carried into the next.
    """
    ours = parameters(dtype)
    theirs = {name: torch.tensor(array.copy()) for name, array in ours.items()}
    optimizer = case.optimizer(ours)
    oracle = getattr(torch.optim, case.name)(theirs.values(), **case.options)
    worst = 0.0
    for step in range(STEPS):
        optimizer.step(gradients(ours, step))
        for name, gradient in gradients({n: t.numpy() for n, t in theirs.items()}, step).items():
            theirs[name].grad = torch.tensor(gradient)
        oracle.step()
        for name, array in ours.items():
            expected = theirs[name].numpy()
            deviation = np.abs(array - expected) / np.maximum(np.abs(expected), 1)
            worst = max(worst, deviation.max(initial=0.0))
    return worst


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64_trajectory_equals_torch(case):
    assert largest_deviation(case, "f8") <= 1e-12


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_trajectory_equals_torch(case):
    # torch fuses multiply and add where the processor can: one rounding of 2⁻²⁴ less in each of a few
    # operations per step. The problem contracts or keeps deviations, so 200 steps add up to no more than
    # some 200 · 4 · 2⁻²⁴ = 5e-5.
    assert largest_deviation(case, "f4") <= 5e-5


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_learning_rate_set_between_steps_counts_as_in_torch(case):
    ours = {"w": np.linspace(1, 2, 9)}
    theirs = torch.tensor(ours["w"].copy())
    optimizer = case.optimizer(ours)
    oracle = getattr(torch.optim, case.name)([theirs], **case.options)
    for step in range(20):
        rate = 0.1 / (1 + step)
        optimizer.lr = oracle.param_groups[0]["lr"] = rate
        gradient = gradients(ours, step)["w"]
        optimizer.step([gradient] if isinstance(ours, list) else {"w": gradient})
        theirs.grad = torch.tensor(gradient)
        oracle.step()
        np.testing.assert_allclose(ours["w"], theirs.numpy(), rtol=1e-12)
