"""What every update rule keeps: layouts, scale, state and errors; enrolled from one table."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
from optim_cases import CASES, gradients, parameters

from hpcml import optim

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def trajectory(case, params, steps=5):
    optimizer = case.optimizer(params)
    for step in range(steps):
        optimizer.step(gradients(params, step))
    return optimizer


def assert_same_bits(left, right):
    for name in left:
        np.testing.assert_array_equal(np.asarray(left[name]), np.asarray(right[name]), strict=True)


def test_the_table_enrols_every_rule():
    assert {case.name for case in CASES} == {"SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "LARS", "LAMB"}
    with_options = {option for case in CASES for option in case.options}
    assert with_options == {
        "lr",
        "momentum",
        "dampening",
        "weight_decay",
        "nesterov",
        "maximize",
        "betas",
        "eps",
        "amsgrad",
        "lr_decay",
        "initial_accumulator_value",
        "alpha",
        "centered",
        "trust_coefficient",
    }


@every_case
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_every_step_moves_every_parameter(case, dtype):
    params = parameters(dtype)
    optimizer = case.optimizer(params)
    for step in range(3):
        before = {name: array.copy() for name, array in params.items()}
        optimizer.step(gradients(params, step))
        assert all((params[name] != before[name]).all() for name in params)
        assert all(params[name].dtype == dtype for name in params)


@every_case
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_any_memory_layout_gives_the_same_bits(case, dtype):
    plain = parameters(dtype)
    strided = {name: np.stack([array, array], axis=-1)[..., 0] for name, array in plain.items()}
    fortran = {name: array.copy(order="F") for name, array in plain.items()}
    assert not strided["w"].flags.c_contiguous and not fortran["cube"].flags.c_contiguous
    trajectory(case, strided)
    trajectory(case, fortran)
    trajectory(case, plain)
    assert_same_bits(plain, strided)
    assert_same_bits(plain, fortran)


@every_case
def test_gradients_of_any_layout_are_left_alone(case):
    straight, params = parameters(), parameters()
    one, two = case.optimizer(straight), case.optimizer(params)
    for step in range(3):
        grads = {name: array.copy(order="F") for name, array in gradients(params, step).items()}
        kept = {name: array.copy() for name, array in grads.items()}
        one.step(gradients(straight, step))
        two.step(grads)
        assert_same_bits(grads, kept)
    assert_same_bits(straight, params)


@every_case
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_scale_multiplies_the_gradients(case, dtype):
    plain, scaled = parameters(dtype), parameters(dtype)
    one, two = case.optimizer(plain), case.optimizer(scaled)
    for step in range(5):
        grads = gradients(plain, step)
        one.step(grads)
        # Powers of two, so that both products are exact.
        two.step({name: 4 * array for name, array in grads.items()}, scale=0.25)
    assert_same_bits(plain, scaled)


@every_case
def test_a_list_is_stepped_as_a_dict_is(case):
    params = parameters()
    arrays = [array.copy() for array in params.values()]
    optimizer = case.optimizer(arrays)
    for step in range(5):
        optimizer.step(list(gradients(dict(zip(params, arrays, strict=True)), step).values()))
    trajectory(case, params)
    assert_same_bits(params, dict(zip(params, arrays, strict=True)))


@every_case
def test_state_taken_and_loaded_continues_with_the_same_bits(case):
    straight, params = parameters(), parameters()
    trajectory(case, straight, steps=8)
    interrupted = trajectory(case, params, steps=4)
    state = interrupted.state_dict()
    kept = copy.deepcopy(state)
    # What was taken is a copy: a step, of no length, of the optimizer that it was taken from does not reach it.
    interrupted.lr = 0
    interrupted.step(gradients(params, 99))
    optimizer = case.optimizer(params)
    optimizer.lr = 123.0
    optimizer.load_state_dict(state)
    for step in range(4, 8):
        optimizer.step(gradients(params, step))
    assert_same_bits(straight, params)
    assert optimizer.steps == 8
    for name in params:
        assert_same_bits(state["state"][name], kept["state"][name])


@every_case
def test_state_of_other_parameters_or_rules_is_refused_before_anything_changes(case):
    params = parameters()
    optimizer = trajectory(case, params)
    before = optimizer.state_dict()
    other = case.optimizer({"w": np.ones(3)})
    with pytest.raises(ValueError, match="differ in 'b', 'cube'"):
        optimizer.load_state_dict(other.state_dict())
    if optimizer.rule.slots:
        reshaped = case.optimizer({**parameters(), "long": np.ones(3)})
        with pytest.raises(ValueError, match=r"of parameter 'long' is float64 of shape \(3,\); expected"):
            optimizer.load_state_dict(reshaped.state_dict())
    foreign = {**before, "rule": "Lion"}
    with pytest.raises(ValueError, match="belongs to Lion, the optimizer is"):
        optimizer.load_state_dict(foreign)
    after = optimizer.state_dict()
    assert after["steps"] == before["steps"]
    for name in params:
        assert_same_bits(before["state"][name], after["state"][name])


BAD_GRADIENTS = {
    "a key is missing": (lambda g: {k: v for k, v in g.items() if k != "b"}, ValueError, "missing 'b'"),
    "a key is unknown": (lambda g: {**g, "x": g["b"]}, ValueError, "without a parameter 'x'"),
    "a shape differs": (lambda g: {**g, "long": np.ones(66)}, ValueError, r"'long' has shape \(66,\)"),
    "a shape would broadcast": (
        lambda g: {**g, "long": np.ones((1,))},
        ValueError,
        r"'long' has shape \(1,\)",
    ),
    "a dtype differs": (
        lambda g: {**g, "long": g["long"].astype("f4")},
        TypeError,
        "'long' has dtype float32",
    ),
    "one is a list": (lambda g: {**g, "long": [1.0]}, TypeError, "gradient of 'long' is a list"),
    "all are one array": (lambda g: g["long"], TypeError, "pass \\[array\\]"),
}


@every_case
@pytest.mark.parametrize("wrong", BAD_GRADIENTS, ids=lambda text: text.replace(" ", "_"))
def test_bad_gradients_raise_before_anything_changes(case, wrong):
    spoil, error, message = BAD_GRADIENTS[wrong]
    params = parameters()
    optimizer = trajectory(case, params)
    kept, state = {name: array.copy() for name, array in params.items()}, optimizer.state_dict()
    with pytest.raises(error, match=message):
        optimizer.step(spoil(gradients(params, 0)))
    assert_same_bits(params, kept)
    assert optimizer.steps == state["steps"]
    for name in params:
        assert_same_bits(state["state"][name], optimizer.state_dict()["state"][name])


BAD_PARAMETERS = {
    "none": ([], ValueError, "no parameters"),
    "one array": (np.ones(3), TypeError, r"pass \[array\]"),
    "a list": ([[1.0]], TypeError, "parameter 0 is a list"),
    "integers": ({"w": np.ones(3, int)}, TypeError, "'w' has dtype int64"),
    "complex": ({"w": np.ones(3, "c8")}, TypeError, "'w' has dtype complex64"),
    "foreign byte order": ({"w": np.ones(3, np.dtype("f8").newbyteorder())}, TypeError, "byte order"),
    "read-only": ({"w": np.frombuffer(bytes(8))}, ValueError, "'w' is read-only"),
    "overlapping": (
        {"w": np.lib.stride_tricks.as_strided(np.ones(1), (3,), (0,))},
        ValueError,
        "stride is 0",
    ),
}


@pytest.mark.parametrize("wrong", BAD_PARAMETERS, ids=lambda text: text.replace(" ", "_"))
def test_bad_parameters_are_refused(wrong):
    params, error, message = BAD_PARAMETERS[wrong]
    with pytest.raises(error, match=message):
        optim.SGD(params, lr=0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.SGD(p, lr=-1),
        lambda p: optim.SGD(p, lr=float("nan")),
        lambda p: optim.SGD(p, 0.1, momentum=-1),
        lambda p: optim.SGD(p, 0.1, nesterov=True),
        lambda p: optim.SGD(p, 0.1, 0.9, dampening=0.1, nesterov=True),
        lambda p: optim.Adam(p, betas=(1.0, 0.9)),
        lambda p: optim.AdamW(p, eps=-1e-8),
        lambda p: optim.Adam(p, weight_decay=-1),
        lambda p: optim.Adagrad(p, lr_decay=-1),
        lambda p: optim.Adagrad(p, initial_accumulator_value=-1),
        lambda p: optim.Adagrad(p, eps=-1),
        lambda p: optim.RMSprop(p, alpha=1.0),
        lambda p: optim.RMSprop(p, momentum=-1),
        lambda p: optim.LARS(p, lr=1, trust_coefficient=-1),
        lambda p: optim.LARS(p, lr=1, nesterov=True, dampening=0.1),
        lambda p: optim.LARS(p, lr=1, eps=-1),
        lambda p: optim.LAMB(p, betas=(0.9, 1.0)),
        lambda p: optim.LAMB(p, eps=-1),
    ],
)
def test_hyperparameters_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="expected|nesterov needs"):
        make([np.ones(3)])


def test_a_bad_learning_rate_is_refused_between_steps_too():
    optimizer = optim.SGD([np.ones(3)], lr=0.1)
    with pytest.raises(ValueError, match="lr is -1"):
        optimizer.lr = -1
    assert optimizer.lr == 0.1


def test_without_first_moment_decay_the_gradient_counts_exactly():
    # m + 1·(g − m) would lose a small gradient that follows a great one.
    optimizer = optim.Adam([np.ones(1)], betas=(0.0, 0.9))
    for gradient in (1e20, 1e-3):
        optimizer.step([np.full(1, gradient)])
        assert optimizer.state[0]["mean"] == gradient


def test_float32_and_float64_parameters_stand_side_by_side():
    both = {"narrow": np.ones(3, "f4"), "wide": np.ones(3, "f8")}
    optimizer = optim.Adam(both, lr=0.1)
    optimizer.step({"narrow": np.full(3, 0.3, "f4"), "wide": np.full(3, 0.3)})
    for array in both.values():
        np.testing.assert_allclose(array, 0.9, rtol=1e-6)


def test_the_rules_start_no_mpi():
    program = (
        "import sys, json, numpy as np; from hpcml import optim; optim.Adam([np.ones(2)]).step([np.ones(2)]);"
        "print(json.dumps('mpi4py.MPI' in sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) is False
