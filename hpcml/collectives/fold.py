"""Compiled fold kernels: ``dst[i] = a[i] ∘ b[i]``, for every op and every data type that Numba knows, and short floats.

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

from hpcml import short_floats as short
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


def _sum_half(dst, a, b, n, in_place):
    _loop(short.add_half, dst, a, b, n, in_place)


def _prod_half(dst, a, b, n, in_place):
    _loop(short.multiply_half, dst, a, b, n, in_place)


def _min_half(dst, a, b, n, in_place):
    _loop(short.minimum_half, dst, a, b, n, in_place)


def _max_half(dst, a, b, n, in_place):
    _loop(short.maximum_half, dst, a, b, n, in_place)


def _sum_bfloat(dst, a, b, n, in_place):
    _loop(short.add_bfloat, dst, a, b, n, in_place)


def _prod_bfloat(dst, a, b, n, in_place):
    _loop(short.multiply_bfloat, dst, a, b, n, in_place)


def _min_bfloat(dst, a, b, n, in_place):
    _loop(short.minimum_bfloat, dst, a, b, n, in_place)


def _max_bfloat(dst, a, b, n, in_place):
    _loop(short.maximum_bfloat, dst, a, b, n, in_place)


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

_HALF_FOLDS = {"sum": _sum_half, "mean": _sum_half, "prod": _prod_half, "min": _min_half, "max": _max_half}
_BFLOAT_FOLDS = {"sum": _sum_bfloat, "mean": _sum_bfloat, "prod": _prod_bfloat, "min": _min_bfloat, "max": _max_bfloat}


def _divide(dst, a, n, ranks):
    x, out = carray(a, n), carray(dst, n)
    for i in range(n):
        out[i] = x[i] / type(x[i])(ranks)


def _divide_pairs(dst, a, n, ranks):
    _divide_all(dst, a, 2 * n, ranks)


_divide_all = njit(_divide)


def _divide_halves(dst, a, n, ranks):
    x, out, divisor = carray(a, n), carray(dst, n), short.narrow_half(np.float32(ranks))
    for i in range(n):
        out[i] = short.divide_half(x[i], divisor)


def _divide_bfloats(dst, a, n, ranks):
    x, out, divisor = carray(a, n), carray(dst, n), short.narrow_bfloat(np.float32(ranks))
    for i in range(n):
        out[i] = short.divide_bfloat(x[i], divisor)


def _folds(dtype: np.dtype) -> tuple[dict[str, Callable], Callable]:
    """The folds for that data type by op, and the division; none where there are none."""
    if dtype == np.float16 and dtype.isnative:
        return _HALF_FOLDS, _divide_halves
    if dtype.name == "bfloat16":
        return _BFLOAT_FOLDS, _divide_bfloats
    return (_FOLDS if dtype in DTYPES else {}), _divide_pairs if dtype.kind == "c" else _divide


def _item(dtype: np.dtype):
    """A pointer to items, to 16 bits where they are short floats."""
    return types.CPointer(types.uint16 if _folds(dtype)[0] in (_HALF_FOLDS, _BFLOAT_FOLDS) else from_dtype(dtype))


def has_kernel(op: Op, dtype: np.dtype) -> bool:
    return op.name in _folds(dtype)[0]


@functools.cache
def fold_kernel(name: str, dtype: np.dtype):
    """The C function ``(dst, a, b, count, in_place)`` for that op and data type, compiled or from the disk cache."""
    item = _item(dtype)
    return cfunc(types.void(item, item, item, types.int64, types.int64), cache=True)(_folds(dtype)[0][name])


@functools.cache
def finish_kernel(dtype: np.dtype):
    """The C function ``(dst, a, count, ranks)``: division by the number of ranks, the last step of a mean.

    Complex numbers are pairs of real ones here: dividing by a complex number would round twice.
    """
    item = _item(np.empty(0, dtype).real.dtype if dtype.kind == "c" else dtype)
    return cfunc(types.void(item, item, types.int64, types.int64), cache=True)(_folds(dtype)[1])
