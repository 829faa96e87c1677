"""Compiled fold kernels: ``dst[i] = a[i] ∘ b[i]``, for every op and every data type that Numba knows.

A kernel is a C function compiled for one data type; the engine calls it by address. Where ``dst`` is one of the
operands the caller says so: the loop is written for each case, because only then does the compiler see that nothing
overlaps, and vectorise. Operands keep their order, the lower ranks' first: so zeros of different sign, or NaNs, give
the same bits on every rank.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numba import carray, cfunc, from_dtype, njit, types

from hpcml.collectives.ops import Op

LEFT_OPERAND, RIGHT_OPERAND = 1, 2  # which operand dst is

DTYPES = frozenset(np.dtype(c) for c in "?bBhHiIlLqQfdFD")


@njit(inline="always")  # as IR: a function passed as an argument would keep the kernel from being cached
def _loop(op, dst, a, b, n, in_place):
    x, y, out = carray(a, n), carray(b, n), carray(dst, n)
    if in_place == LEFT_OPERAND:
        for i in range(n):
            x[i] = op(x[i], y[i])
    elif in_place == RIGHT_OPERAND:
        for i in range(n):
            y[i] = op(x[i], y[i])
    else:
        for i in range(n):
            out[i] = op(x[i], y[i])


@njit
def _add(x, y):
    return x + y


@njit
def _multiply(x, y):
    return x * y


@njit
def _minimum(x, y):
    return x if x < y or x != x else y  # a NaN wins, as in np.minimum


@njit
def _maximum(x, y):
    return x if x > y or x != x else y


@njit
def _logical_and(x, y):
    return (x != 0) & (y != 0)


@njit
def _logical_or(x, y):
    return (x != 0) | (y != 0)


@njit
def _logical_xor(x, y):
    return (x != 0) ^ (y != 0)


@njit
def _bitwise_and(x, y):
    return x & y


@njit
def _bitwise_or(x, y):
    return x | y


@njit
def _bitwise_xor(x, y):
    return x ^ y


def _sum(dst, a, b, n, in_place):
    _loop(_add, dst, a, b, n, in_place)


def _prod(dst, a, b, n, in_place):
    _loop(_multiply, dst, a, b, n, in_place)


def _min(dst, a, b, n, in_place):
    _loop(_minimum, dst, a, b, n, in_place)


def _max(dst, a, b, n, in_place):
    _loop(_maximum, dst, a, b, n, in_place)


def _land(dst, a, b, n, in_place):
    _loop(_logical_and, dst, a, b, n, in_place)


def _lor(dst, a, b, n, in_place):
    _loop(_logical_or, dst, a, b, n, in_place)


def _lxor(dst, a, b, n, in_place):
    _loop(_logical_xor, dst, a, b, n, in_place)


def _band(dst, a, b, n, in_place):
    _loop(_bitwise_and, dst, a, b, n, in_place)


def _bor(dst, a, b, n, in_place):
    _loop(_bitwise_or, dst, a, b, n, in_place)


def _bxor(dst, a, b, n, in_place):
    _loop(_bitwise_xor, dst, a, b, n, in_place)


_FOLDS: dict[str, Callable] = {
    "sum": _sum,
    "mean": _sum,
    "prod": _prod,
    "min": _min,
    "max": _max,
    "land": _land,
    "lor": _lor,
    "lxor": _lxor,
    "band": _band,
    "bor": _bor,
    "bxor": _bxor,
}


def _divide(dst, a, n, ranks):
    x, out = carray(a, n), carray(dst, n)
    for i in range(n):
        out[i] = x[i] / type(x[i])(ranks)


def _divide_pairs(dst, a, n, ranks):
    _divide_all(dst, a, 2 * n, ranks)


_divide_all = njit(_divide)


def has_kernel(op: Op, dtype: np.dtype) -> bool:
    return op.name in _FOLDS and dtype in DTYPES


@functools.cache
def fold_kernel(name: str, dtype: np.dtype):
    """The C function ``(dst, a, b, count, in_place)`` for that op and data type, compiled or from the disk cache."""
    item = types.CPointer(from_dtype(dtype))
    return cfunc(types.void(item, item, item, types.int64, types.int64), cache=True)(_FOLDS[name])


@functools.cache
def finish_kernel(dtype: np.dtype):
    """The C function ``(dst, a, count, ranks)``: division by the number of ranks, the last step of a mean.

    Complex numbers are pairs of real ones here: dividing by a complex number would round twice.
    """
    pairs = dtype.kind == "c"
    item = types.CPointer(from_dtype(np.empty(0, dtype).real.dtype))
    return cfunc(types.void(item, item, types.int64, types.int64), cache=True)(_divide_pairs if pairs else _divide)
