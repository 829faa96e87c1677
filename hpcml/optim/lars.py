"""LARS: momentum, with a step for each array in proportion to its norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from hpcml.optim import sgd
from hpcml.optim.norms import BLOCK, folded
from hpcml.optim.optimizer import Family, Optimizer, Options, Rule, nonnegative
from hpcml.optim.parameters import Arrays
from hpcml.optim.precision import keep_short, widened

if TYPE_CHECKING:
    from typing_extensions import Unpack


def LARS(
    params: Arrays,
    lr: float,
    momentum: float = 0.9,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    trust_coefficient: float = 1e-3,
    eps: float = 0.0,
    maximize: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """Layer-wise adaptive rate scaling: momentum whose step in each array is scaled by the norm of that array.

    With learning rate η, momentum μ, dampening τ, weight decay λ, trust coefficient κ, and g the gradient at
    parameters θ, one array of them at a time::

        g ← scale·g                                  (−scale·g when maximize)
        q ← κ‖θ‖ / (‖g‖ + λ‖θ‖ + ε)                  (q ← 1 where κ, ‖θ‖ or ‖g‖ is 0)
        v ← μv + (1 − τ)q(g + λθ)                    (v ← q(g + λθ) in the first step)
        θ ← θ − ηv                                   nesterov: θ ← θ − η(q(g + λθ) + μv)

    Biases and the parameters of normalisations are usually left unscaled, by a group of their own::

        LARS(params, lr=2.0, weight_decay=1e-4,
             groups=[{"params": lambda name, array: array.ndim < 2, "trust_coefficient": 0.0, "weight_decay": 0.0}])

    Norms are summed in float64, and are the same bits however the arrays are spread over ranks.

    Memory moved per parameter and step, of s bytes each: 7s, in two passes.

    ``options``: see `Options`. Raises ValueError for a negative hyperparameter, and for ``nesterov`` without momentum
    or with dampening.

    Source: You, Gitman & Ginsburg 2017, Algorithm 1, whose velocity carries η where this one, like `SGD`'s, does not;
    with a constant η that is the same. Arrays of norm 0, which there would never move, take unscaled steps.

    >>> theta = [np.array([3.0, 4.0])]
    >>> opt = LARS(theta, lr=1.0, trust_coefficient=0.5)
    >>> opt.step([np.array([0.0, 10.0])])
    >>> theta[0]
    array([3. , 1.5])
    """
    found = _checked(lr, momentum, dampening, weight_decay, nesterov, trust_coefficient, eps, maximize)
    return Optimizer(params, _FAMILY, found, options)


def _checked(
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    trust_coefficient: float,
    eps: float,
    maximize: bool,
) -> dict[str, Any]:
    return {
        **sgd.checked(lr, momentum, dampening, weight_decay, nesterov, maximize),
        "trust_coefficient": nonnegative("trust_coefficient", trust_coefficient),
        "eps": nonnegative("eps", eps),
    }


def _trust(h: Mapping[str, Any], norms: np.ndarray) -> float:
    weights, gradients = norms
    if h["trust_coefficient"] == 0 or weights == 0 or gradients == 0:
        return 1.0
    return h["trust_coefficient"] * weights / (gradients + h["weight_decay"] * weights + h["eps"])


@njit(nogil=True, cache=True, error_model="numpy")
def _measure(theta, short, gradient, scale, velocity, lr, decay, keep, take, lookahead, sums):
    weights, gradients = np.empty(BLOCK), np.empty(BLOCK)
    for block in range(sums.shape[1]):
        begin = block * BLOCK
        n = min(BLOCK, theta.size - begin)
        for i in range(n):
            t = np.float64(theta[begin + i])
            g = np.float64(scale * widened(gradient[begin + i]))
            weights[i] = t * t
            gradients[i] = g * g
        sums[0, block] = folded(weights, n)
        sums[1, block] = folded(gradients, n)


@njit(nogil=True, cache=True, error_model="numpy")
def _lars(theta, short, gradient, scale, velocity, lr, decay, keep, take, lookahead, trust):
    for i in range(theta.size):
        t = theta[i]
        g = scale * widened(gradient[i])
        if decay != 0:
            g += decay * t
        g *= trust
        v = keep * velocity[i] + take * g
        velocity[i] = v
        if lookahead != 0:
            v = g + lookahead * v
        t -= lr * v
        theta[i] = t
        keep_short(short, i, t)


RULE = Rule("LARS", ("velocity",), sgd.momentum_coefficients, _lars, measure=_measure, trust=_trust)


def _rule(groups: Sequence[Mapping[str, Any]]) -> Rule:
    return RULE


_FAMILY = Family(_checked, _rule)
