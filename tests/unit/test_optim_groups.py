"""Parameter groups, decay masks and the options of every optimizer: what they mean, and what is refused."""

import numpy as np
import pytest
from optim_cases import CASES, gradients, parameters

from hpcml import optim

every_case = pytest.mark.parametrize("case", CASES, ids=str)


@every_case
def test_groups_are_as_optimizers_of_their_own(case):
    together, apart = parameters(), parameters()
    lr = case.options["lr"]
    groups = [
        {"params": ["w", "one"], "lr": lr / 4, "weight_decay": 0.3},
        {"params": lambda name, array: name == "long", "maximize": True},
    ]
    changes = {"w": groups[0], "one": groups[0], "long": groups[1]}
    optimizer = case.optimizer(together, groups=groups)
    alone = {
        name: case.optimizer(
            {name: array}, **{key: value for key, value in changes.get(name, {}).items() if key != "params"}
        )
        for name, array in apart.items()
    }
    for step in range(20):
        factor = 1 / (1 + step)
        grads = gradients(together, step)
        optimizer.lr = lr * factor
        optimizer.step(grads)
        for name, single in alone.items():
            single.lr = changes.get(name, {}).get("lr", lr) * factor
            single.step({name: grads[name]})
    for name in apart:
        # A group's rate is lr · (own/lr): some roundings, of 1.1e-16 each, away from its own.
        np.testing.assert_allclose(together[name], apart[name], rtol=1e-13)


@pytest.mark.parametrize(
    "rule, base, own",
    [
        ("SGD", {"momentum": 0.8, "dampening": 0.3}, {"momentum": 0.0}),
        ("SGD", {}, {"momentum": 0.8}),
        ("Adam", {}, {"amsgrad": True}),
        ("AdamW", {"amsgrad": True}, {"amsgrad": False}),
        ("RMSprop", {}, {"momentum": 0.8}),
        ("RMSprop", {"centered": True}, {"centered": False}),
        ("RMSprop", {"momentum": 0.8}, {"momentum": 0.0, "centered": True}),
        ("Adagrad", {"initial_accumulator_value": 0.5}, {"initial_accumulator_value": 2.0}),
        ("LARS", {"momentum": 0.8, "dampening": 0.3}, {"momentum": 0.0, "trust_coefficient": 0.1}),
    ],
)
def test_groups_may_differ_in_the_state_that_they_need(rule, base, own):
    make = getattr(optim, rule)
    together, one, other = parameters(), parameters(), parameters()
    optimizers = [
        make(together, lr=0.05, **base, groups=[{"params": ["w"], **own}]),
        make(one, lr=0.05, **base),
        make(other, lr=0.05, **{**base, **own}),
    ]
    for step in range(20):
        grads = gradients(together, step)
        for optimizer in optimizers:
            optimizer.step(grads)
    np.testing.assert_array_equal(together.pop("w"), other["w"])
    for name, array in together.items():
        np.testing.assert_array_equal(array, one[name])


@every_case
@pytest.mark.parametrize("decays", [["w", "cube"], lambda name, array: array.ndim > 1], ids=["names", "function"])
def test_decays_are_groups_without_weight_decay(case, decays):
    masked, grouped = parameters(), parameters()
    others = ["b", "one", "scalar", "long"]
    one = case.optimizer(masked, weight_decay=0.3, decays=decays)
    two = case.optimizer(grouped, weight_decay=0.3, groups=[{"params": others, "weight_decay": 0.0}])
    decaying = case.optimizer(parameters(), weight_decay=0.3)
    for step in range(5):
        grads = gradients(masked, step)
        for optimizer in (one, two, decaying):
            optimizer.step(grads)
    for name in masked:
        np.testing.assert_array_equal(masked[name], grouped[name])
        if masked[name].size > 1:  # the step of LAMB in a single number is its size, whatever the decay
            assert (masked[name] == decaying.params[name]).all() == (name not in others), name


def test_a_parameter_of_a_list_is_named_by_its_position():
    optimizer = optim.SGD([np.ones(1), np.ones(1)], lr=1.0, groups=[{"params": [1], "lr": 0.25}])
    optimizer.step([np.ones(1), np.ones(1)])
    assert [array.item() for array in optimizer.params] == [0.0, 0.75]


BAD_OPTIONS = {
    "no params": (dict(groups=[{"lr": 0.1}]), ValueError, "group 0 has no 'params'"),
    "an unknown parameter": (dict(groups=[{"params": ["w", "x"]}]), ValueError, "group 0: there is no parameter 'x'"),
    "a parameter in two groups": (
        dict(groups=[{"params": ["w"]}, {"params": lambda name, array: True}]),
        ValueError,
        "parameter 'w' is in group 0 and in group 1",
    ),
    "an unknown hyperparameter": (
        dict(groups=[{"params": ["w"], "alpha": 1}]),
        ValueError,
        "group 0 has 'alpha'; the hyperparameters here are lr, betas",
    ),
    "a hyperparameter out of range": (dict(groups=[{"params": ["w"], "betas": (0.9, 1.0)}]), ValueError, "betas"),
    "a string alone": (dict(groups=[{"params": "wb"}]), ValueError, "not 'wb' alone"),
    "decays that are a string": (dict(decays="w"), ValueError, "decays: .* not 'w' alone"),
    "decays that are unknown": (dict(decays=["x"]), ValueError, "decays: there is no parameter 'x'"),
    "a multiple of no rate": (dict(lr=0.0, groups=[{"params": ["w"], "lr": 0.1}]), ValueError, "but that is 0"),
    "a negative norm": (dict(clip_norm=-1), ValueError, "clip_norm is -1"),
    "a negative loss scale": (dict(loss_scale=-1.0), ValueError, "expected a value above 0"),
    "an unknown option": (dict(clip=1.0), TypeError, "unknown argument 'clip'; the options are groups, decays"),
}


@pytest.mark.parametrize("wrong", BAD_OPTIONS, ids=lambda text: text.replace(" ", "_"))
def test_wrong_options_are_refused(wrong):
    options, error, message = BAD_OPTIONS[wrong]
    with pytest.raises(error, match=message):
        optim.Adam({"w": np.ones(3), "b": np.ones(2)}, **options)


def test_a_group_with_the_rate_of_all_may_have_it_while_that_is_0():
    optim.Adam({"w": np.ones(3)}, lr=0.0, groups=[{"params": ["w"], "lr": 0.0}])
