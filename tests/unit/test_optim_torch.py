"""Trajectories equal those of torch.optim, for every rule and option."""

import ml_dtypes
import numpy as np
import pytest
from optim_cases import TORCH_CASES, gradients, parameters

torch = pytest.importorskip("torch", reason="torch is the oracle of these tests")

STEPS = 200

every_case = pytest.mark.parametrize("case", TORCH_CASES, ids=str)


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
            worst = np.maximum(worst, deviation.max(initial=0.0))  # NaN if one of them is
    return worst


@every_case
def test_float64_trajectory_equals_torch(case):
    assert largest_deviation(case, "f8") <= 1e-12


@every_case
def test_float32_trajectory_equals_torch(case):
    # torch fuses multiply and add where the processor can: one rounding of 2⁻²⁴ less in each of a few
    # operations per step. The problem contracts or keeps deviations, so 200 steps add up to no more than
    # some 200 · 4 · 2⁻²⁴ = 5e-5.
    assert largest_deviation(case, "f4") <= 5e-5


@every_case
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
        np.testing.assert_allclose(ours["w"], theirs.numpy(), rtol=1e-12, atol=1e-12)


# What a group may have of its own, besides lr, weight_decay and maximize.
OWN = {
    "SGD": {"momentum": 0.5},
    "Adam": {"betas": (0.8, 0.99), "eps": 1e-4, "amsgrad": True},
    "AdamW": {"betas": (0.8, 0.99), "eps": 1e-4, "amsgrad": True},
    "Adagrad": {"lr_decay": 0.2, "eps": 1e-4},
    "RMSprop": {"alpha": 0.8, "momentum": 0.5, "centered": True},
}


def deviation_with(case, dtype, groups=(), law=lambda step: 1.0, clip=None, gradient_dtype=None):
    """As `largest_deviation`, of an optimizer with these groups and options, both given the same gradients: those at
    the parameters that they start from. So a deviation does not come back by them, enlarged by rounding to 16 bits.
    """
    ours = parameters(dtype)
    theirs = {name: torch.tensor(array.copy()) for name, array in ours.items()}
    start = parameters(dtype)
    taken = {name for group in groups for name in group["params"]}
    split = [{**group, "params": [theirs[name] for name in group["params"]]} for group in groups]
    rest = {"params": [tensor for name, tensor in theirs.items() if name not in taken]}
    optimizer = case.optimizer(ours, groups=groups, clip_norm=clip)
    oracle = getattr(torch.optim, case.name)([rest, *split], **case.options)
    initial = [group["lr"] for group in oracle.param_groups]
    worst, clipped = 0.0, []
    for step in range(STEPS):
        optimizer.lr = case.options["lr"] * law(step)
        for group, lr in zip(oracle.param_groups, initial, strict=True):
            group["lr"] = lr * law(step)
        grads = gradients(start, step)
        if gradient_dtype is not None:
            grads = {name: np.asarray(gradient).astype(gradient_dtype) for name, gradient in grads.items()}
        for name, gradient in grads.items():
            theirs[name].grad = torch.tensor(gradient.astype(dtype))
        if clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(theirs.values(), clip).item()
            clipped.append(norm > clip)
        optimizer.step(grads)
        if clip is not None:
            assert optimizer.norm == pytest.approx(norm, rel=1e-6 if dtype == "f4" else 1e-12)
        oracle.step()
        for name, array in ours.items():
            expected = theirs[name].numpy()
            deviation = np.abs(array - expected) / np.maximum(np.abs(expected), 1)
            worst = np.maximum(worst, deviation.max(initial=0.0))  # NaN if one of them is
    assert clip is None or any(clipped), "the bound was never reached"
    return worst


@every_case
@pytest.mark.parametrize("law", [lambda step: 1.0, lambda step: 1 / (1 + step / 20)], ids=["constant", "falling"])
def test_groups_step_as_those_of_torch(case, law):
    lr = case.options["lr"]
    groups = [
        {"params": ["w", "cube"], "lr": lr / 3, "weight_decay": 0.2},
        {"params": ["long"], "maximize": True},
        {"params": ["b", "one"], **OWN[case.name]},
    ]
    assert deviation_with(case, "f8", groups, law) <= 1e-12
    assert deviation_with(case, "f4", groups, law) <= 5e-5


@every_case
@pytest.mark.parametrize("clip", [1.0, 4.0])
def test_clipped_steps_are_those_of_torch(case, clip):
    assert deviation_with(case, "f8", clip=clip) <= 1e-12
    assert deviation_with(case, "f4", clip=clip) <= 5e-5


@every_case
def test_a_decay_mask_is_a_group_of_torch_without_weight_decay(case):
    ours = parameters()
    theirs = {name: torch.tensor(array.copy()) for name, array in ours.items()}
    optimizer = case.optimizer(ours, weight_decay=0.3, decays=lambda name, array: array.ndim > 1)
    plain = [tensor for tensor in theirs.values() if tensor.ndim < 2]
    decaying = [tensor for tensor in theirs.values() if tensor.ndim > 1]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decaying}]
    oracle = getattr(torch.optim, case.name)(groups, **{**case.options, "weight_decay": 0.3})
    for step in range(STEPS):
        grads = gradients(ours, step)
        for name, gradient in grads.items():
            theirs[name].grad = torch.tensor(gradient)
        optimizer.step(grads)
        oracle.step()
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name].numpy(), rtol=1e-12, atol=1e-12)


@every_case
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_gradients_of_16_bits_count_as_widened(case, dtype):
    assert deviation_with(case, "f4", gradient_dtype=dtype) <= 5e-5
