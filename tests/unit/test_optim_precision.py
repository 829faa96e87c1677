"""Parameters of 16 bits with float32 weights beside them, and the loss scale that keeps their gradients finite."""

import ml_dtypes
import numpy as np
import pytest
from optim_cases import CASES, gradients, parameters

from hpcml import optim

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_short = pytest.mark.parametrize("short", [np.dtype("f2"), np.dtype(ml_dtypes.bfloat16)], ids=str)


def assert_same_bits(left, right):
    """Also of bfloat16, of which NumPy's own comparison knows nothing; -0 is not 0 here."""
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert array.dtype == right[name].dtype and array.shape == right[name].shape
        assert array.tobytes() == right[name].tobytes(), name


def as_type(arrays, dtype):
    return {name: np.asarray(array).astype(dtype) for name, array in arrays.items()}


@every_case
@every_short
@pytest.mark.parametrize("gradient", ["as the parameters", "float32"])
@pytest.mark.parametrize("layout", ["contiguous", "strided"])
def test_short_parameters_are_the_rounded_ones_of_a_float32_optimizer(case, short, gradient, layout):
    start = as_type(parameters("f4"), short)
    params = {name: array.copy() for name, array in start.items()}
    if layout == "strided":
        params = {name: np.stack([array, array], axis=-1)[..., 0] for name, array in start.items()}
    wide = as_type(start, "f4")
    optimizer, oracle = case.optimizer(params), case.optimizer(wide)
    for step in range(20):
        grads = as_type(gradients(wide, step), short)
        if gradient == "float32":
            grads = as_type(grads, "f4")
        optimizer.step(grads)
        oracle.step(as_type(grads, "f4"))
        assert_same_bits(params, as_type(wide, short))
    assert_same_bits({name: slots["master"] for name, slots in optimizer.state_dict()["state"].items()}, wide)


def test_steps_that_are_too_small_for_16_bits_add_up():
    params = [np.ones(2, "f2")]
    optimizer = optim.SGD(params, lr=1.0)
    for _ in range(64):
        optimizer.step([np.full(2, 2.0**-13, "f2")])  # 1 − 2⁻¹³ is 1 in float16
    assert params[0].tolist() == [1 - 2.0**-7] * 2


@every_case
@every_short
def test_state_with_master_weights_and_a_loss_scale_continues_with_the_same_bits(case, short):
    def made(params):
        return case.optimizer(params, loss_scale=optim.LossScale(64.0, interval=3))

    def walk(optimizer, steps):
        for step in steps:
            scale = optimizer.loss_scale.value
            grads = {name: gradient * scale for name, gradient in gradients(parameters("f4"), step).items()}
            if step == 4:
                grads["one"][0] = np.inf
            optimizer.step(as_type(grads, "f4"))

    straight, params = as_type(parameters(), short), as_type(parameters(), short)
    whole, first = made(straight), made(params)
    walk(whole, range(12))
    walk(first, range(6))
    state = first.state_dict()
    kept = first.loss_scale.value
    walk(first, range(6, 9))  # what was taken is a copy
    restored = as_type(parameters(), short)
    for name, slots in state["state"].items():
        restored[name][...] = slots["master"]
    second = made(restored)
    second.load_state_dict(state)
    assert second.loss_scale.value == kept
    walk(second, range(6, 12))
    assert_same_bits(straight, restored)
    assert second.loss_scale.state_dict() == whole.loss_scale.state_dict()
    assert second.steps == whole.steps == 11 and whole.loss_scale.skipped == 1


# One letter per step: finite, infinite, not a number.
WEATHER = ["ffffffff", "fffifffffff", "ifffnffifffffff", "nnnnffffff", "ffiffiffi"]


@pytest.mark.parametrize("weather", WEATHER)
@pytest.mark.parametrize("settings", [{}, {"growth": 3.0, "backoff": 0.25}, {"value": 2.0**127}], ids=str)
def test_the_loss_scale_decides_as_torch_does(weather, settings):
    torch = pytest.importorskip("torch", reason="torch is the oracle of this test")
    scale = optim.LossScale(**{"value": 1024.0, **settings}, interval=3)
    ours = parameters("f4")
    optimizer = optim.Adam(ours, lr=0.01, loss_scale=scale, clip_norm=2.0)
    theirs = {name: torch.tensor(array.copy()) for name, array in ours.items()}
    oracle = torch.optim.Adam(theirs.values(), lr=0.01)
    scaler = torch.amp.GradScaler(
        "cpu", init_scale=scale.value, growth_factor=scale.growth, backoff_factor=scale.backoff, growth_interval=3
    )
    scaler.scale(torch.ones(()))  # it makes its tensors with the first loss that it scales
    for step, letter in enumerate(weather):
        assert scaler.get_scale() == scale.value
        # Of powers of two, or so small that none overflows at a scale of 2¹²⁷.
        grads = {name: gradient * np.float32(1e-3) for name, gradient in gradients(ours, step).items()}
        grads = {name: np.asarray(gradient * np.float32(scale.value)) for name, gradient in grads.items()}
        if letter != "f":
            grads["long"][66] = {"i": -np.inf, "n": np.nan}[letter]
        for name, gradient in grads.items():
            theirs[name].grad = torch.tensor(gradient)
        before, steps = {name: array.copy() for name, array in ours.items()}, optimizer.steps
        state = optimizer.state_dict()["state"]
        optimizer.step(grads)
        scaler.unscale_(oracle)
        torch.nn.utils.clip_grad_norm_(theirs.values(), 2.0)
        scaler.step(oracle)
        scaler.update()
        if letter != "f":
            assert_same_bits(ours, before)
            assert optimizer.steps == steps
            for name, slots in optimizer.state_dict()["state"].items():
                assert_same_bits(slots, state[name])
        for name, array in ours.items():
            np.testing.assert_allclose(array, theirs[name].numpy(), rtol=1e-5)
    assert scaler.get_scale() == scale.value
    assert scale.skipped == len(weather) - weather.count("f") and optimizer.steps == weather.count("f")


def test_a_loss_scale_divides_the_gradients_before_they_are_clipped():
    plain, scaled = parameters(), parameters()
    one, two = optim.Adam(plain, clip_norm=3.0), optim.Adam(scaled, clip_norm=3.0, loss_scale=256.0)
    for step in range(5):
        grads = gradients(plain, step)
        one.step(grads)
        two.step({name: 256 * gradient for name, gradient in grads.items()})
        assert one.norm == two.norm
    assert_same_bits(plain, scaled)


def test_a_fixed_loss_scale_stays_and_leaves_out_steps():
    theta = [np.ones(1)]
    optimizer = optim.SGD(theta, lr=1.0, loss_scale=8.0)
    for gradient in (4.0, np.nan, np.inf, 2.0):
        optimizer.step([np.array([gradient])])
    assert theta[0].item() == 0.25
    assert optimizer.loss_scale.value == 8.0 and optimizer.loss_scale.skipped == 2 and optimizer.steps == 2


def test_a_loss_scale_stays_within_float32():
    scale = optim.LossScale(interval=1)
    for _ in range(2000):
        scale.update(True)
    assert scale.value == 2.0**127
    for _ in range(2000):
        scale.update(False)
    assert scale.value == 2.0**-126


@pytest.mark.parametrize(
    "wrong",
    [dict(value=0.0), dict(value=np.inf), dict(value=np.nan), dict(growth=0.5), dict(backoff=1.0), dict(interval=0)],
    ids=str,
)
def test_a_loss_scale_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match="expected a value above"):
        optim.LossScale(**wrong)


@every_short
def test_a_gradient_that_would_lose_digits_is_refused(short):
    optimizer = optim.SGD([np.ones(2, short)], lr=1.0)
    with pytest.raises(TypeError, match="gradient of 0 has dtype float64"):
        optimizer.step([np.ones(2)])
    with pytest.raises(TypeError, match="gradient of 0 has dtype float16, its parameter float64"):
        optim.SGD([np.ones(2)], lr=1.0).step([np.ones(2, "f2")])
