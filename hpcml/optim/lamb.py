"""LAMB: Adam's step, in each array of a length in proportion to its norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from hpcml.optim.adam import running_mean
from hpcml.optim.norms import BLOCK, folded
from hpcml.optim.optimizer import Family, Optimizer, Options, Rule, nonnegative
from hpcml.optim.parameters import Arrays
from hpcml.optim.precision import keep_short, widened

if TYPE_CHECKING:
    from typing_extensions import Unpack


def LAMB(
    params: Arrays,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    maximize: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """Layer-wise adaptive moments: Adam with decoupled weight decay, whose step in each array is η times its norm.

    With learning rate η, decay rates β₁ and β₂, weight decay λ, and g the gradient at parameters θ in step t ≥ 1, one
    array of them at a time::

        g ← scale·g                                  (−scale·g when maximize)
        m ← m + (1 − β₁)(g − m)
        v ← β₂v + (1 − β₂)g²
        u ← m/(1 − β₁ᵗ) / (√v/√(1 − β₂ᵗ) + ε) + λθ
        q ← ‖θ‖ / ‖u‖                                (q ← 1 where a norm is 0)
        θ ← θ − ηqu

    The second pass forms u again from m and v rather than keep it. Norms are summed in float64, and are the same bits
    however the arrays are spread over ranks.

    Memory moved per parameter and step, of s bytes each: 10s, in two passes.

    ``options``: see `Options`. Raises ValueError for a negative hyperparameter or a β of 1 or more.

    Source: You et al. 2020, "Large batch optimization for deep learning", Algorithm 2, with φ(x) = x.

    >>> theta = [np.full(4, 2.0)]
    >>> opt = LAMB(theta, lr=0.5, betas=(0.5, 0.75), eps=0)
    >>> opt.step([np.array([1.0, -1.0, 1.0, -1.0])])
    >>> theta[0]
    array([1., 3., 1., 3.])
    """
    return Optimizer(params, _FAMILY, _checked(lr, betas, eps, weight_decay, maximize), options)


def _checked(lr: float, betas: tuple[float, float], eps: float, weight_decay: float, maximize: bool) -> dict[str, Any]:
    beta1, beta2 = betas
    return {
        "lr": nonnegative("lr", lr),
        "betas": (nonnegative("betas[0]", beta1, 1.0), nonnegative("betas[1]", beta2, 1.0)),
        "eps": nonnegative("eps", eps),
        "weight_decay": nonnegative("weight_decay", weight_decay),
        "maximize": bool(maximize),
    }


def _coefficients(h: Mapping[str, Any], step: int) -> tuple[float, ...]:
    beta1, beta2 = h["betas"]
    unbias, correction = 1.0 / (1.0 - beta1**step), (1.0 - beta2**step) ** 0.5
    return h["lr"], h["weight_decay"], beta1, 1.0 - beta1, beta2, 1.0 - beta2, unbias, correction, h["eps"]


def _trust(h: Mapping[str, Any], norms: np.ndarray) -> float:
    weights, update = norms
    return weights / update if weights > 0 and update > 0 else 1.0


@njit(nogil=True, cache=True, error_model="numpy")
def _update(t, m, v, decay, unbias, correction, eps):
    return unbias * m / (np.sqrt(v) / correction + eps) + decay * t


@njit(nogil=True, cache=True, error_model="numpy")
def _measure(
    theta,
    short,
    gradient,
    scale,
    mean,
    square,
    lr,
    decay,
    beta1,
    weight1,
    beta2,
    weight2,
    unbias,
    correction,
    eps,
    sums,
):
    weights, updates = np.empty(BLOCK), np.empty(BLOCK)
    for block in range(sums.shape[1]):
        begin = block * BLOCK
        n = min(BLOCK, theta.size - begin)
        for j in range(n):
            i = begin + j
            g = scale * widened(gradient[i])
            m = running_mean(mean[i], g, beta1, weight1)
            v = beta2 * square[i] + weight2 * g * g
            mean[i] = m
            square[i] = v
            t = theta[i]
            u = np.float64(_update(t, m, v, decay, unbias, correction, eps))
            weights[j] = np.float64(t) * np.float64(t)
            updates[j] = u * u
        sums[0, block] = folded(weights, n)
        sums[1, block] = folded(updates, n)


@njit(nogil=True, cache=True, error_model="numpy")
def _lamb(
    theta,
    short,
    gradient,
    scale,
    mean,
    square,
    lr,
    decay,
    beta1,
    weight1,
    beta2,
    weight2,
    unbias,
    correction,
    eps,
    trust,
):
    size = lr * trust
    for i in range(theta.size):
        t = theta[i]
        t -= size * _update(t, mean[i], square[i], decay, unbias, correction, eps)
        theta[i] = t
        keep_short(short, i, t)


RULE = Rule("LAMB", ("mean", "square"), _coefficients, _lamb, measure=_measure, trust=_trust)


def _rule(groups: Sequence[Mapping[str, Any]]) -> Rule:
    return RULE


_FAMILY = Family(_checked, _rule)
