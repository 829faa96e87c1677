"""Learning rates as pure functions of the step: multiply the base rate by what they return.

A law takes ``step`` (from 0) and ``steps`` (how many there will be) and returns a factor in [0, 1]::

    opt.lr = base * rates.cosine(step, steps, warmup=100)

``LAWS`` names them, for configuration files and command lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable


def warmed(step: int, warmup: int) -> float:
    """Linear warm-up: (step + 1)/warmup in the first ``warmup`` steps, then 1 (Goyal et al. 2017, 2.2)."""
    return min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0


def constant(step: int, steps: int, warmup: int = 0) -> float:
    """1 after the warm-up.

    >>> [constant(step, 4, warmup=2) for step in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """
    return warmed(step, warmup)


def cosine(step: int, steps: int, warmup: int = 0, floor: float = 0.0) -> float:
    """Half a cosine from 1 at the end of the warm-up to ``floor``, which it would reach at step ``steps``.

    Source: Loshchilov & Hutter 2017, equation 5, without restarts.

    >>> [round(cosine(step, 4), 3) for step in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    fallen = 0.5 * (1.0 + math.cos(math.pi * _done(step, steps, warmup)))
    return warmed(step, warmup) * (floor + (1.0 - floor) * fallen)


def linear(step: int, steps: int, warmup: int = 0, floor: float = 0.0) -> float:
    """A straight line from 1 at the end of the warm-up to ``floor``, which it would reach at step ``steps``.

    >>> [linear(step, 4) for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    return polynomial(step, steps, warmup, floor, power=1.0)


def polynomial(step: int, steps: int, warmup: int = 0, floor: float = 0.0, power: float = 2.0) -> float:
    """As `linear`, with the part of the way that is left raised to ``power``.

    Source: You, Gitman & Ginsburg 2017, Algorithm 1 (LARS), with a power of 2.

    >>> [polynomial(step, 4) for step in range(4)]
    [1.0, 0.5625, 0.25, 0.0625]
    """
    return warmed(step, warmup) * (floor + (1.0 - floor) * (1.0 - _done(step, steps, warmup)) ** power)


def step_decay(step: int, steps: int, warmup: int = 0, factor: float = 0.1, stages: int = 3) -> float:
    """1, then ``factor``, then ``factor``², …: ``stages`` plateaus of equal length over ``steps``.

    >>> [round(step_decay(step, 6), 3) for step in range(6)]
    [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """
    stage = min(stages - 1, stages * step // max(1, steps))
    return warmed(step, warmup) * factor**stage


def scaled(lr: float, batch_size: int, base: int = 256) -> float:
    """A base rate that was found for batches of ``base`` rows, for batches of ``batch_size``: in proportion.

    Source: the linear scaling rule of Goyal et al. 2017, section 2.1, which goes with a warm-up.

    >>> scaled(0.1, batch_size=1024)
    0.4
    """
    return lr * (batch_size / base)


def _done(step: int, steps: int, warmup: int) -> float:
    """Which part of the way from the end of the warm-up to ``steps`` is behind, from 0 to 1."""
    return min(1.0, max(0, step - warmup) / max(1, steps - warmup))


LAWS: dict[str, Callable[..., float]] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "polynomial": polynomial,
    "step": step_decay,
}
