"""Adagrad: steps scaled by the sum of all squared gradients so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from hpcml.optim.optimizer import Family, Optimizer, Options, Rule, nonnegative
from hpcml.optim.parameters import Arrays
from hpcml.optim.precision import keep_short, widened

if TYPE_CHECKING:
    from typing_extensions import Unpack


def Adagrad(
    params: Arrays,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    maximize: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """Adagrad, with L2 weight decay.

    With learning rate η, its decay κ, weight decay λ, and g the gradient at parameters θ in step t ≥ 1::

        g ← scale·g + λθ                     (−scale·g when maximize)
        s ← s + g²                           (from initial_accumulator_value on)
        θ ← θ − η/(1 + (t − 1)κ) · g / (√s + ε)

    Memory moved per parameter and step, of s bytes each: 5s.

    ``options``: see `Options`. Raises ValueError for a negative hyperparameter.

    Source: Duchi, Hazan & Singer 2011, the diagonal update of their section 1, with ε beside the root. The order of
    operations is torch's.

    >>> theta = [np.array([1.0, 2.0])]
    >>> opt = Adagrad(theta, lr=0.5)
    >>> opt.step([np.array([3.0, 0.0])])
    >>> theta[0]
    array([0.5, 2. ])
    """
    return Optimizer(
        params, _FAMILY, _checked(lr, lr_decay, weight_decay, initial_accumulator_value, eps, maximize), options
    )


def _checked(
    lr: float, lr_decay: float, weight_decay: float, initial_accumulator_value: float, eps: float, maximize: bool
) -> dict[str, Any]:
    return {
        "lr": nonnegative("lr", lr),
        "lr_decay": nonnegative("lr_decay", lr_decay),
        "weight_decay": nonnegative("weight_decay", weight_decay),
        "initial_accumulator_value": nonnegative("initial_accumulator_value", initial_accumulator_value),
        "eps": nonnegative("eps", eps),
        "maximize": bool(maximize),
    }


def _coefficients(h: Mapping[str, Any], step: int) -> tuple[float, ...]:
    return h["lr"] / (1.0 + (step - 1) * h["lr_decay"]), h["weight_decay"], h["eps"]


def _start(h: Mapping[str, Any]) -> tuple[float, ...]:
    return (h["initial_accumulator_value"],)


@njit(nogil=True, cache=True, error_model="numpy")
def _adagrad(theta, short, gradient, scale, square, lr, decay, eps):
    for i in range(theta.size):
        t = theta[i]
        g = scale * widened(gradient[i])
        if decay != 0:
            g += decay * t
        s = square[i] + g * g
        square[i] = s
        t -= lr * g / (np.sqrt(s) + eps)
        theta[i] = t
        keep_short(short, i, t)


ADAGRAD = Rule("Adagrad", ("square",), _coefficients, _adagrad, _start)


def _rule(groups: Sequence[Mapping[str, Any]]) -> Rule:
    return ADAGRAD


_FAMILY = Family(_checked, _rule)
