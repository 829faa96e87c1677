"""What kind of array a caller passed, and how its memory is brought into the shape that programs work on."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hpcml.collectives.memory import HUGE_PAGE, Lease
from hpcml.kinds import DEVICE, HOST, kind_of

ON_A_GPU = " in GPU memory"


def as_array(x: Any, name: str = "the array", stream: int | None = None) -> Any:
    """``x`` as an array that can be carried; TypeError otherwise.

    A NumPy array, or a `hpcml.collectives.device.arrays.DeviceArray`, with which the caller works on ``stream``.
    """
    if kind_of(x) == DEVICE:
        from hpcml.collectives.device.arrays import taken

        return taken(x, name).on(stream)
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, and its mask would be lost: pass x.data, or x.filled(value)")
    array = np.asarray(x)
    if array.dtype.hasobject:
        raise TypeError(f"{name} holds Python objects (dtype {array.dtype}): expected numbers of a fixed size")
    return array


def host_array(x: Any, name: str = "the array") -> np.ndarray:
    """``x`` as a NumPy array; a copy where it is in GPU memory."""
    array = as_array(x, name)
    return array if isinstance(array, np.ndarray) else array.to_host()


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype, name: str = "out", kind: str = HOST) -> Any:
    """``out`` if a result of that shape, dtype and kind can be written to it; ValueError or TypeError otherwise."""
    if kind == DEVICE:
        if kind_of(out) != DEVICE:
            raise TypeError(f"{name} is a {type(out).__name__} of the host, but the input is in GPU memory")
        given, out = out, as_array(out, name)
        _check_fits(out, shape, dtype, name)
        return given
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, not {type(out).__name__}")
    _check_fits(out, shape, dtype, name)
    return out


def _check_fits(out: Any, shape: tuple[int, ...], dtype: np.dtype, name: str) -> None:
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"{name} is {describe(out)}, but the result is {dtype}{list(shape)}")
    if not out.flags.writeable:
        raise ValueError(f"{name} is read-only, and the result has to be written there")


def describe(x: Any) -> str:
    """``float32[3, 4]``"""
    return f"{x.dtype}{list(x.shape)}" + ON_A_GPU * (kind_of(x) == DEVICE)


def new(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array that is not initialised, as `numpy.empty`; a large one comes from `hpcml.collectives.memory`."""
    return maker(shape, dtype)()


def maker(shape: tuple[int, ...], dtype: np.dtype) -> Callable[[], np.ndarray]:
    """What makes such arrays, one a call."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < HUGE_PAGE:
        return functools.partial(np.empty, shape, dtype)
    return lambda: np.asarray(Lease(nbytes)).view(dtype).reshape(shape)


def with_an_axis(x: Any) -> Any:
    """As `numpy.atleast_1d`."""
    return np.atleast_1d(x) if isinstance(x, np.ndarray) else x.with_an_axis()


def packed(x: np.ndarray) -> np.ndarray:
    """``x`` itself where its items lie side by side in C order, else a copy in which they do."""
    return x if x.flags.c_contiguous else np.ascontiguousarray(x)
