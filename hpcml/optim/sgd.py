"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numba import njit

from hpcml.optim.optimizer import Family, Optimizer, Options, Rule, nonnegative
from hpcml.optim.parameters import Arrays
from hpcml.optim.precision import keep_short, widened

if TYPE_CHECKING:
    from typing_extensions import Unpack


def SGD(
    params: Arrays,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """Stochastic gradient descent, with momentum, Nesterov's momentum and L2 weight decay.

    With learning rate η, momentum μ, dampening τ, weight decay λ, and g the gradient at parameters θ::

        g ← scale·g + λθ            (−scale·g when maximize)
        v ← μv + (1 − τ)g           (v ← g in the first step)
        θ ← θ − ηv                  without momentum: θ ← θ − ηg;   nesterov: θ ← θ − η(g + μv)

    Memory moved per parameter and step, of s bytes each: 3s, with momentum 5s.

    ``options``: see `Options`. Raises ValueError for a negative hyperparameter, and for ``nesterov`` without momentum
    or with dampening.

    Sources: Polyak 1964; Sutskever, Martens, Dahl, Hinton 2013, whose velocity carries η where this one, like
    torch.optim.SGD, does not. The order of operations is torch's.

    >>> import numpy as np
    >>> theta = [np.array([1.0, 2.0])]
    >>> opt = SGD(theta, lr=0.5, momentum=0.9)
    >>> opt.step([np.array([1.0, 0.0])])
    >>> theta[0]
    array([0.5, 2. ])
    """
    return Optimizer(params, _FAMILY, checked(lr, momentum, dampening, weight_decay, nesterov, maximize), options)


def checked(
    lr: float, momentum: float, dampening: float, weight_decay: float, nesterov: bool, maximize: bool
) -> dict[str, Any]:
    if nesterov and (momentum == 0 or dampening != 0):
        raise ValueError(
            f"nesterov needs momentum above 0 and dampening 0; found momentum={momentum}, dampening={dampening}"
        )
    return {
        "lr": nonnegative("lr", lr),
        "momentum": nonnegative("momentum", momentum),
        "dampening": float(dampening),
        "weight_decay": nonnegative("weight_decay", weight_decay),
        "nesterov": bool(nesterov),
        "maximize": bool(maximize),
    }


def _plain_coefficients(h: Mapping[str, Any], step: int) -> tuple[float, ...]:
    return h["lr"], h["weight_decay"]


def momentum_coefficients(h: Mapping[str, Any], step: int) -> tuple[float, ...]:
    # The first step, and one of a group without momentum, takes the whole gradient, whatever the dampening: 0·v + 1·g.
    keep, take = (h["momentum"], 1.0 - h["dampening"]) if step > 1 and h["momentum"] else (0.0, 1.0)
    return h["lr"], h["weight_decay"], keep, take, h["momentum"] if h["nesterov"] else 0.0


@njit(nogil=True, cache=True, error_model="numpy")
def _plain(theta, short, gradient, scale, lr, decay):
    for i in range(theta.size):
        g = scale * widened(gradient[i])
        if decay != 0:
            g += decay * theta[i]
        t = theta[i] - lr * g
        theta[i] = t
        keep_short(short, i, t)


@njit(nogil=True, cache=True, error_model="numpy")
def _momentum(theta, short, gradient, scale, velocity, lr, decay, keep, take, lookahead):
    for i in range(theta.size):
        g = scale * widened(gradient[i])
        if decay != 0:
            g += decay * theta[i]
        v = keep * velocity[i] + take * g
        velocity[i] = v
        if lookahead != 0:
            v = g + lookahead * v
        t = theta[i] - lr * v
        theta[i] = t
        keep_short(short, i, t)


PLAIN = Rule("SGD", (), _plain_coefficients, _plain)
MOMENTUM = Rule("SGD with momentum", ("velocity",), momentum_coefficients, _momentum)


def _rule(groups: Sequence[Mapping[str, Any]]) -> Rule:
    return MOMENTUM if any(h["momentum"] for h in groups) else PLAIN


_FAMILY = Family(checked, _rule)
