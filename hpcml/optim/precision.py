"""Numbers of 16 bits: read and written on the fly by the kernels, and the scale that keeps gradients within them.

float16 and bfloat16 parameters are the rounded copies of float32 *master* weights, on which the rules work
(Micikevicius et al. 2018, "Mixed precision training", section 3).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from hpcml import short_floats

SINGLE, DOUBLE = np.dtype("f4"), np.dtype("f8")
LEAST, GREATEST = float(np.finfo(SINGLE).tiny), float(np.finfo(SINGLE).max)


@functools.cache  # the name of a data type is put together in Python each time
def is_short(dtype: np.dtype) -> bool:
    """Whether it is float16 or bfloat16, in this machine's byte order."""
    return dtype == np.float16 and dtype.isnative or dtype.name == "bfloat16"


def short(name: str) -> np.dtype:
    """The data type "float16" or "bfloat16"."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def working(dtype: np.dtype) -> np.dtype:
    """What parameters of that data type are reckoned in."""
    return SINGLE if is_short(dtype) else dtype


def bits(array: np.ndarray) -> np.ndarray:
    """The array as kernels take it: float16 as uint16, bfloat16 as int16, anything else as it is."""
    if not is_short(array.dtype):
        return array
    return array.view(np.uint16 if array.dtype == np.float16 else np.int16)


def widened(number):
    """In a kernel: an item of `bits` as a float."""
    raise NotImplementedError


def keep_short(items, i, number):
    """In a kernel: ``number``, rounded, as item i of `bits`, where these are short floats; else nothing."""
    raise NotImplementedError


@overload(widened)
def _widened(number):
    if number == types.uint16:
        return lambda number: short_floats.widen_half(number)
    if number == types.int16:
        return lambda number: short_floats.widen_bfloat(np.uint16(number))
    return lambda number: number


@overload(keep_short)
def _keep_short(items, i, number):
    if items.dtype == types.uint16:

        def half(items, i, number):
            items[i] = short_floats.narrow_half(number)

        return half
    if items.dtype == types.int16:

        def bfloat(items, i, number):
            items[i] = np.int16(short_floats.narrow_bfloat(number))

        return bfloat

    def nothing(items, i, number):
        pass

    return nothing


@njit(nogil=True, cache=True, error_model="numpy")
def scaled(items, factor, target):
    """target ← items, of `bits`, times factor, which has the type of ``target``'s: all flat."""
    for i in range(target.size):
        target[i] = widened(items[i]) * factor


class LossScale:
    """The factor by which the loss, and so every gradient, is multiplied so that small ones do not vanish in 16 bits.

    A step whose gradients are not all finite is left out, and ``value`` is multiplied by ``backoff``; after
    ``interval`` steps without that it is multiplied by ``growth``. With interval=None it stays as it is. Optimizers
    divide gradients by it; the caller multiplies the loss, or its gradient::

        opt = optim.Adam(params, loss_scale=optim.LossScale())
        opt.step(gradient_of_the_loss(batch, times=opt.loss_scale.value))

    Every rank makes the same decisions, because it decides on the reduced gradients of all.

    Raises ValueError for a factor that is not above 0, a growth below 1 or a backoff of 1 or more.

    Source: Micikevicius et al. 2018, section 3.2; the constants are those of torch.amp.GradScaler.
    """

    def __init__(
        self, value: float = 2.0**16, growth: float = 2.0, backoff: float = 0.5, interval: int | None = 2000
    ) -> None:
        if not (0 < value < np.inf and growth >= 1 and 0 < backoff < 1 and (interval is None or interval >= 1)):
            raise ValueError(
                f"LossScale({value}, growth={growth}, backoff={backoff}, interval={interval}): expected a value above "
                "0, a growth of at least 1, a backoff between 0 and 1, and an interval of at least one step, or None"
            )
        self.value, self.growth, self.backoff, self.interval = float(value), growth, backoff, interval
        self.good_steps = 0
        self.skipped = 0

    def update(self, finite: bool) -> None:
        """After a step: whether its gradients were all finite."""
        self.good_steps = self.good_steps + 1 if finite else 0
        self.skipped += not finite
        if self.interval is None:
            return
        # As in torch, it does not leave float32, in which gradients are.
        if not finite:
            self.value = max(self.value * self.backoff, LEAST)
        elif self.good_steps == self.interval:
            self.value = self.value * self.growth if self.value * self.growth <= GREATEST else self.value
            self.good_steps = 0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "good_steps": self.good_steps, "skipped": self.skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value, self.good_steps, self.skipped = state["value"], state["good_steps"], state["skipped"]
