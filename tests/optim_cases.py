"""Every update rule with its options: the table that enrols each of them in every test of hpcml.optim."""

from typing import Any, NamedTuple

import numpy as np

from hpcml import optim


class Case(NamedTuple):
    """``name`` is the rule's name here and, unless it is one of `NOT_IN_TORCH`, in torch.optim; ``options`` are its
    keywords in both."""

    name: str
    options: dict[str, Any]

    def optimizer(self, params, **further):
        return getattr(optim, self.name)(params, **{**self.options, **further})

    def __str__(self):
        return "-".join([self.name, *(f"{k}={v}" for k, v in self.options.items())]).replace(" ", "")


CASES = [
    Case("SGD", {"lr": 0.05}),
    Case("SGD", {"lr": 0.05, "weight_decay": 0.1}),
    Case("SGD", {"lr": 0.05, "maximize": True}),
    Case("SGD", {"lr": 0.05, "momentum": 0.9}),
    Case("SGD", {"lr": 0.05, "momentum": 0.9, "maximize": True}),
    Case("SGD", {"lr": 0.05, "momentum": 0.8, "dampening": 0.3}),
    Case("SGD", {"lr": 0.05, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1}),
    Case("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    Case("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    *(
        Case(name, options)
        for name in ("Adam", "AdamW")
        for options in (
            {"lr": 0.01},
            {"lr": 0.01, "weight_decay": 0.1},
            {"lr": 0.01, "maximize": True},
            {"lr": 0.01, "amsgrad": True},
            {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1, "maximize": True},
            {"lr": 0.01, "betas": (0.0, 0.9)},
            {"lr": 0.01, "betas": (0.7, 0.95), "eps": 1e-3},
        )
    ),
    Case("Adagrad", {"lr": 0.05}),
    Case("Adagrad", {"lr": 0.05, "lr_decay": 0.1, "weight_decay": 0.1}),
    Case("Adagrad", {"lr": 0.05, "initial_accumulator_value": 0.5, "eps": 1e-3, "maximize": True}),
    Case("RMSprop", {"lr": 0.01}),
    Case("RMSprop", {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
    Case("RMSprop", {"lr": 0.01, "momentum": 0.8, "maximize": True}),
    Case("RMSprop", {"lr": 0.01, "centered": True}),
    Case("RMSprop", {"lr": 0.01, "alpha": 0.4, "momentum": 0.5, "centered": True, "weight_decay": 0.1}),
    # Trust coefficients far above those of large networks: every step is to move every number of float32.
    Case("LARS", {"lr": 1.0, "trust_coefficient": 0.02}),
    Case("LARS", {"lr": 1.0, "trust_coefficient": 0.02, "weight_decay": 0.1, "nesterov": True}),
    Case("LARS", {"lr": 2.0, "trust_coefficient": 0.02, "momentum": 0.8, "dampening": 0.3, "eps": 0.5}),
    Case("LARS", {"lr": 2.0, "trust_coefficient": 0.02, "momentum": 0.0, "weight_decay": 0.1, "maximize": True}),
    Case("LARS", {"lr": 0.05, "trust_coefficient": 0.0, "weight_decay": 0.1}),
    Case("LAMB", {"lr": 0.01}),
    Case("LAMB", {"lr": 0.01, "weight_decay": 0.1}),
    Case("LAMB", {"lr": 0.01, "betas": (0.7, 0.95), "eps": 1e-3, "maximize": True}),
]

NOT_IN_TORCH = ("LARS", "LAMB")
TORCH_CASES = [case for case in CASES if case.name not in NOT_IN_TORCH]


#: The last case of each kernel, which has the most options: for tests of what does not depend on options.
ONE_OF_EACH = list({case.optimizer([np.ones(1)]).rule.name: case for case in CASES}.values())


def parameters(dtype="f8") -> dict[str, np.ndarray]:
    """Arrays of several shapes, an empty one and one without axes among them; all between 1 and 2."""
    random = np.random.default_rng(7)
    shapes = {
        "w": (7, 5),
        "b": (5,),
        "one": (1,),
        "scalar": (),
        "empty": (0, 3),
        "long": (67,),
        "cube": (2, 3, 4),
    }
    return {name: np.asarray(random.uniform(1, 2, shape), dtype) for name, shape in shapes.items()}


def gradients(params: dict[str, np.ndarray], step: int) -> dict[str, np.ndarray]:
    """The gradient of ½c(θ − 1.5)² at ``params``, 0.5 ≤ c ≤ 2, plus noise that depends on ``step`` alone."""
    random = np.random.default_rng([11, step])
    made = {}
    for name, theta in params.items():
        curvature, noise = random.uniform(0.5, 2, theta.shape), random.normal(0, 0.3, theta.shape)
        made[name] = np.asarray(curvature * (theta - 1.5) + noise, theta.dtype)
    return made
