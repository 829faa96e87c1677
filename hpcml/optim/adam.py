"""Adam and AdamW: steps scaled by running moments of the gradient."""

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


def Adam(
    params: Arrays,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    maximize: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """Adam, with L2 weight decay (added to the gradient).

    With learning rate η, decay rates β₁ and β₂, weight decay λ, and g the gradient at parameters θ in step
    t ≥ 1::

        g ← scale·g + λθ                     (−scale·g when maximize)
        m ← m + (1 − β₁)(g − m)
        v ← β₂v + (1 − β₂)g²                 amsgrad: u ← max(u, v), and u stands for v below
        θ ← θ − η/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)

    Memory moved per parameter and step, of s bytes each: 7s, with amsgrad 9s.

    ``options``: see `Options`. Raises ValueError for a negative hyperparameter or a β of 1 or more.

    Sources: Kingma & Ba 2015, Algorithm 1; Reddi, Kale & Kumar 2018 for amsgrad (which, as in torch, leaves u
    without bias correction of its own). The order of operations is torch's.

    >>> theta = {"w": np.array([1.0, 2.0])}
    >>> opt = Adam(theta, lr=0.5)
    >>> opt.step({"w": np.array([3.0, 0.0])})
    >>> theta["w"]
    array([0.5, 2. ])
    """
    return Optimizer(params, _COUPLED, _checked(lr, betas, eps, weight_decay, amsgrad, maximize), options)


def AdamW(
    params: Arrays,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    maximize: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """Adam with decoupled weight decay: first θ ← (1 − ηλ)θ, then ``Adam``'s step with λ = 0.

    Arguments, memory and errors as in ``Adam``. Source: Loshchilov & Hutter 2019, Algorithm 2, with the
    schedule multiplier folded into η, as in torch.

    >>> theta = [np.array([1.0])]
    >>> opt = AdamW(theta, lr=0.5, weight_decay=0.5)
    >>> opt.step([np.array([3.0])])
    >>> theta[0]
    array([0.25])
    """
    return Optimizer(params, _DECOUPLED, _checked(lr, betas, eps, weight_decay, amsgrad, maximize), options)


def _checked(
    lr: float, betas: tuple[float, float], eps: float, weight_decay: float, amsgrad: bool, maximize: bool
) -> dict[str, Any]:
    beta1, beta2 = betas
    return {
        "lr": nonnegative("lr", lr),
        "betas": (nonnegative("betas[0]", beta1, 1.0), nonnegative("betas[1]", beta2, 1.0)),
        "eps": nonnegative("eps", eps),
        "weight_decay": nonnegative("weight_decay", weight_decay),
        "amsgrad": bool(amsgrad),
        "maximize": bool(maximize),
    }


def _coupled(h: Mapping[str, Any], step: int) -> tuple[float, ...]:
    return (1.0, h["weight_decay"], *_moments(h, step))


def _decoupled(h: Mapping[str, Any], step: int) -> tuple[float, ...]:
    return (1.0 - h["lr"] * h["weight_decay"], 0.0, *_moments(h, step))


def _coupled_amsgrad(h: Mapping[str, Any], step: int) -> tuple[float, ...]:
    return (*_coupled(h, step), float(h["amsgrad"]))


def _decoupled_amsgrad(h: Mapping[str, Any], step: int) -> tuple[float, ...]:
    return (*_decoupled(h, step), float(h["amsgrad"]))


def _moments(h: Mapping[str, Any], step: int) -> tuple[float, ...]:
    beta1, beta2 = h["betas"]
    size = h["lr"] / (1.0 - beta1**step)
    return beta1, 1.0 - beta1, beta2, 1.0 - beta2, (1.0 - beta2**step) ** 0.5, h["eps"], size


@njit(nogil=True, cache=True, error_model="numpy")
def running_mean(m, g, beta, weight):
    # Between m and g, reckoned from the nearer: with β₁ = 0 this is g itself, without cancellation.
    return m + weight * (g - m) if weight < 0.5 else g - (g - m) * beta


@njit(nogil=True, cache=True, error_model="numpy")
def _adam(
    theta, short, gradient, scale, mean, square, shrink, decay, beta1, weight1, beta2, weight2, correction, eps, size
):
    for i in range(theta.size):
        t = shrink * theta[i]
        g = scale * widened(gradient[i])
        if decay != 0:
            g += decay * t
        m = running_mean(mean[i], g, beta1, weight1)
        v = beta2 * square[i] + weight2 * g * g
        mean[i] = m
        square[i] = v
        t -= size * m / (np.sqrt(v) / correction + eps)
        theta[i] = t
        keep_short(short, i, t)


@njit(nogil=True, cache=True, error_model="numpy")
def _amsgrad(
    theta,
    short,
    gradient,
    scale,
    mean,
    square,
    largest,
    shrink,
    decay,
    beta1,
    weight1,
    beta2,
    weight2,
    correction,
    eps,
    size,
    memory,
):
    for i in range(theta.size):
        t = shrink * theta[i]
        g = scale * widened(gradient[i])
        if decay != 0:
            g += decay * t
        m = running_mean(mean[i], g, beta1, weight1)
        v = beta2 * square[i] + weight2 * g * g
        mean[i] = m
        square[i] = v
        u = memory * largest[i]  # of groups without amsgrad, 0
        u = u if u > v else v
        largest[i] = u
        t -= size * m / (np.sqrt(u) / correction + eps)
        theta[i] = t
        keep_short(short, i, t)


ADAM = Rule("Adam", ("mean", "square"), _coupled, _adam)
ADAMW = Rule("AdamW", ("mean", "square"), _decoupled, _adam)
AMSGRAD = Rule("Adam with amsgrad", ("mean", "square", "largest"), _coupled_amsgrad, _amsgrad)
AMSGRADW = Rule("AdamW with amsgrad", ("mean", "square", "largest"), _decoupled_amsgrad, _amsgrad)


def _coupled_rule(groups: Sequence[Mapping[str, Any]]) -> Rule:
    return AMSGRAD if any(h["amsgrad"] for h in groups) else ADAM


def _decoupled_rule(groups: Sequence[Mapping[str, Any]]) -> Rule:
    return AMSGRADW if any(h["amsgrad"] for h in groups) else ADAMW


_COUPLED = Family(_checked, _coupled_rule)
_DECOUPLED = Family(_checked, _decoupled_rule)
