"""What kind of array a caller passed, and how its memory is brought into the shape that programs work on."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hpcml.collectives.memory import HUGE_PAGE, Lease

HOST, DEVICE = "host", "device"


def kind_of(x: Any) -> str:
    """`DEVICE` for GPU memory (CuPy, Numba, PyTorch: what has ``__cuda_array_interface__``), else `HOST`."""
    return DEVICE if not isinstance(x, np.ndarray) and hasattr(x, "__cuda_array_interface__") else HOST


def as_array(x: Any, name: str = "the array") -> np.ndarray:
    """``x`` as a NumPy array that MPI can carry; TypeError otherwise."""
    if kind_of(x) == DEVICE:
        raise TypeError(
            f"{name} is in GPU memory ({type(x).__name__}), which this version cannot take: pass a host copy"
        )
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, and its mask would be lost: pass x.data, or x.filled(value)")
    array = np.asarray(x)
    if array.dtype.hasobject:
        raise TypeError(f"{name} holds Python objects (dtype {array.dtype}): expected numbers of a fixed size")
    return array


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype, name: str = "out") -> np.ndarray:
    """``out`` if a result of that shape and dtype can be written to it; ValueError otherwise."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, not {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"{name} is {describe(out)}, but the result is {dtype}{list(shape)}")
    if not out.flags.writeable:
        raise ValueError(f"{name} is read-only, and the result has to be written there")
    return out


def describe(x: np.ndarray) -> str:
    """``float32[3, 4]``"""
    return f"{x.dtype}{list(x.shape)}"


def new(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array that is not initialised, as `numpy.empty`; a large one comes from `hpcml.collectives.memory`."""
    return maker(shape, dtype)()


def maker(shape: tuple[int, ...], dtype: np.dtype) -> Callable[[], np.ndarray]:
    """What makes such arrays, one a call."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < HUGE_PAGE:
        return functools.partial(np.empty, shape, dtype)
    return lambda: np.asarray(Lease(nbytes)).view(dtype).reshape(shape)


def packed(x: np.ndarray) -> np.ndarray:
    """``x`` itself where its items lie side by side in C order, else a copy in which they do."""
    return x if x.flags.c_contiguous else np.ascontiguousarray(x)
