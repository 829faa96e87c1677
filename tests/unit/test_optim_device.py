"""Update rules as kernels of the device, over a GPU made of host memory, against the processor's own."""

import ml_dtypes
import numpy as np
import pytest
from device_standin import standing_in

from hpcml import optim
from hpcml.optim.optimizer import MASTER

RULES = {
    "sgd": lambda params: optim.SGD(params, lr=0.1, weight_decay=0.01),
    "momentum": lambda params: optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda params: optim.Adam(params, lr=0.1, weight_decay=0.01),
    "adamw": lambda params: optim.AdamW(params, lr=0.1, weight_decay=0.1, maximize=True),
    "groups": lambda params: optim.Adam(params, lr=0.1, groups=[{"params": ["b"], "lr": 0.3}]),
}
TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "float16": 2e-3, "bfloat16": 2e-2}


@pytest.fixture
def device():
    with standing_in() as made:
        yield made


def drawn(seed, dtype):
    """As large as several chunks of the kernels, and of odd sizes."""
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype(dtype) for name, shape in {"w": (70, 301), "b": (5,)}.items()}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rule", RULES)
def test_steps_are_those_of_the_processor(device, rule, dtype):
    dtype = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    host = drawn(0, dtype)
    mine = {name: device.array(array) for name, array in host.items()}
    there, here = RULES[rule](host), RULES[rule](mine)
    for step in range(3):
        grads = drawn(step + 1, dtype)
        there.step(grads, scale=0.5)
        here.step({name: device.array(array) for name, array in grads.items()}, scale=0.5)
    tolerance = TOLERANCE[dtype.name]
    for name, array in host.items():
        found = mine[name].get()
        assert found.dtype == dtype
        np.testing.assert_allclose(found.astype("f8"), array.astype("f8"), rtol=tolerance, atol=tolerance)
    for slots, expected in zip(here.state, there.state, strict=True):
        assert slots.keys() == expected.keys() and (MASTER in slots) == (dtype.itemsize == 2)
        for slot in slots:
            np.testing.assert_allclose(slots[slot].get(), expected[slot], rtol=1e-4, atol=1e-5)


def test_state_goes_out_and_comes_back(device):
    def made():
        params = {name: device.array(array) for name, array in drawn(0, "f4").items()}
        return params, optim.Adam(params, lr=0.1)

    params, first = made()
    gradients = {name: device.array(array) for name, array in drawn(1, "f4").items()}
    first.step(gradients)
    state = first.state_dict()
    assert isinstance(state["state"]["w"]["mean"], np.ndarray)
    _, second = made()
    second.load_state_dict(state)
    assert second.steps == 1
    np.testing.assert_array_equal(second.state[0]["square"].get(), first.state[0]["square"].get())


def test_one_kernel_a_step(device, monkeypatch):
    launched = []
    launch = device.runtime.launch
    monkeypatch.setattr(device.runtime, "launch", lambda *given: (launched.append(given[2]), launch(*given)))
    params = [device.array(np.ones(n, "f4")) for n in (3, 10000, 1, 0)]
    opt = optim.Adam(params, lr=0.1)
    for _ in range(3):
        opt.step([device.array(np.ones(n, "f4")) for n in (3, 10000, 1, 0)])
    assert launched == ["adam"] * 3


def test_what_there_is_for_the_host_alone(device):
    params = [device.array(np.ones(3))]
    with pytest.raises(TypeError, match="LAMB has no kernel"):
        optim.LAMB(params, lr=0.1)
    with pytest.raises(TypeError, match="clip_norm"):
        optim.SGD(params, lr=0.1, clip_norm=1.0)
    with pytest.raises(TypeError, match="not contiguous"):
        optim.SGD([device.strided(np.ones((3, 2)))], lr=0.1)
    with pytest.raises(TypeError, match="some in the host's"):
        optim.SGD([*params, np.ones(3)], lr=0.1)
    with pytest.raises(TypeError, match="its parameter a"):
        optim.SGD(params, lr=0.1).step([np.ones(3)])
