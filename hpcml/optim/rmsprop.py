"""RMSprop: steps scaled by a running mean of the squared gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from hpcml.optim.adam import running_mean
from hpcml.optim.optimizer import Family, Optimizer, Options, Rule, nonnegative
from hpcml.optim.parameters import Arrays
from hpcml.optim.precision import keep_short, widened

if TYPE_CHECKING:
    from typing_extensions import Unpack


def RMSprop(
    params: Arrays,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    maximize: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """RMSprop, with L2 weight decay, momentum, and the gradient's variance in place of its square.

    With learning rate η, decay rate α, momentum μ, weight decay λ, and g the gradient at parameters θ::

        g ← scale·g + λθ                     (−scale·g when maximize)
        s ← αs + (1 − α)g²
        m ← m + (1 − α)(g − m)               centered: s − m² stands for s below
        v ← μv + g / (√s + ε)
        θ ← θ − ηv

    Centered, a gradient that hardly varies leaves s − m² to rounding: negative, it makes θ NaN, as in torch.

    Memory moved per parameter and step, of s bytes each: 5s; 2s more with momentum, and centered.

    ``options``: see `Options`. Raises ValueError for a negative hyperparameter or an α of 1 or more.

    Sources: Tieleman & Hinton 2012, lecture 6.5 of "Neural Networks for Machine Learning"; Graves 2013, section 4.2,
    for the centred form, from which this one, like torch, departs in that ε stands beside the root and η outside v.
    The order of operations is torch's.

    >>> theta = [np.array([1.0, 2.0])]
    >>> opt = RMSprop(theta, lr=0.5, alpha=0.75, eps=0)
    >>> opt.step([np.array([3.0, -3.0])])
    >>> theta[0]
    array([0., 3.])
    """
    return Optimizer(params, _FAMILY, _checked(lr, alpha, eps, weight_decay, momentum, centered, maximize), options)


def _checked(
    lr: float, alpha: float, eps: float, weight_decay: float, momentum: float, centered: bool, maximize: bool
) -> dict[str, Any]:
    return {
        "lr": nonnegative("lr", lr),
        "alpha": nonnegative("alpha", alpha, 1.0),
        "eps": nonnegative("eps", eps),
        "weight_decay": nonnegative("weight_decay", weight_decay),
        "momentum": nonnegative("momentum", momentum),
        "centered": bool(centered),
        "maximize": bool(maximize),
    }


def _coefficients(h: Mapping[str, Any], step: int) -> tuple[float, ...]:
    alpha = h["alpha"]
    return h["lr"], h["weight_decay"], alpha, 1.0 - alpha, h["eps"], h["momentum"], float(h["centered"])


@njit(nogil=True, cache=True, error_model="numpy")
def _rmsprop(theta, short, gradient, scale, square, velocity, mean, lr, decay, alpha, weight, eps, momentum, centered):
    # Where velocity or mean is None, Numba leaves out the branch that needs it.
    for i in range(theta.size):
        t = theta[i]
        g = scale * widened(gradient[i])
        if decay != 0:
            g += decay * t
        s = alpha * square[i] + weight * g * g
        square[i] = s
        if mean is not None:
            m = running_mean(mean[i], g, alpha, weight)
            mean[i] = m
            s -= centered * m * m  # groups that are not centered have 0 here
        v = g / (np.sqrt(s) + eps)
        if velocity is not None:
            v += momentum * velocity[i]
            velocity[i] = v
        t -= lr * v
        theta[i] = t
        keep_short(short, i, t)


def _plain(theta, short, gradient, scale, square, *coefficients):
    _rmsprop(theta, short, gradient, scale, square, None, None, *coefficients)


def _with_momentum(theta, short, gradient, scale, square, velocity, *coefficients):
    _rmsprop(theta, short, gradient, scale, square, velocity, None, *coefficients)


def _centered(theta, short, gradient, scale, square, mean, *coefficients):
    _rmsprop(theta, short, gradient, scale, square, None, mean, *coefficients)


RULES = {
    # (momentum, centered)
    (False, False): Rule("RMSprop", ("square",), _coefficients, _plain),
    (True, False): Rule("RMSprop with momentum", ("square", "velocity"), _coefficients, _with_momentum),
    (False, True): Rule("centered RMSprop", ("square", "mean"), _coefficients, _centered),
    (True, True): Rule("centered RMSprop with momentum", ("square", "velocity", "mean"), _coefficients, _rmsprop),
}


def _rule(groups: Sequence[Mapping[str, Any]]) -> Rule:
    return RULES[any(h["momentum"] for h in groups), any(h["centered"] for h in groups)]


_FAMILY = Family(_checked, _rule)
