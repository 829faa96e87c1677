"""Compiled folds of float16 and bfloat16 give the bits of NumPy's and ml_dtypes' functions."""

import ctypes

import ml_dtypes
import numpy as np
import pytest

from hpcml.collectives import fold
from hpcml.collectives.ops import OPS, divide

EVERY = np.arange(1 << 16).astype(np.uint16)  # every number of 16 bits there is
# Beside them: zeros, the least and the largest numbers, ones and their neighbours, infinities, NaNs.
OTHERS = {
    "float16": (
        0x0000,
        0x8000,
        0x0001,
        0x03FF,
        0x0400,
        0x3C00,
        0xBC01,
        0x3BFF,
        0x5640,
        0x7BFF,
        0xFBFF,
        0x7C00,
        0xFC00,
        0xFE01,
    ),
    "bfloat16": (
        0x0000,
        0x8000,
        0x0001,
        0x007F,
        0x0080,
        0x3F80,
        0xBF81,
        0x3F7F,
        0x4349,
        0x7F7F,
        0xFF7F,
        0x7F80,
        0xFF80,
        0xFFC1,
    ),
}


QUIET = {"float16": (0xFFFF, 0x0200), "bfloat16": (0x8000, 0x7FC0)}  # a NaN & and | these: what arithmetic makes of it


def addresses(*arrays):
    return [x.ctypes.data_as(ctypes.POINTER(ctypes.c_uint16)) for x in arrays]


def folded(name, dtype, a, b, in_place):
    dst = {0: np.zeros_like(a), fold.LEFT_OPERAND: a.copy(), fold.RIGHT_OPERAND: b.copy()}[in_place]
    left = dst if in_place == fold.LEFT_OPERAND else a
    right = dst if in_place == fold.RIGHT_OPERAND else b
    fold.fold_kernel(name, dtype).ctypes(*addresses(dst, left, right), len(a), in_place)
    return dst


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)], ids=str)
@pytest.mark.parametrize("name", ["sum", "prod", "min", "max"])
def test_every_number_with_some(name, dtype):
    for turn, other in enumerate(OTHERS[dtype.name]):
        operands = EVERY, np.full_like(EVERY, other)
        for a, b in (operands, operands[::-1]):
            x, y = a.view(dtype), b.view(dtype)
            with np.errstate(all="ignore"):
                want = OPS[name].ufunc(x, y).view(np.uint16)
                both = np.isnan(x) & np.isnan(y)
            if name in ("sum", "prod"):  # which of two NaNs it is, they leave to their compiler
                keeps, sets = QUIET[dtype.name]
                want[both] = a[both] & keeps | sets
            np.testing.assert_array_equal(folded(name, dtype, a, b, turn % 3), want, err_msg=hex(other))


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)], ids=str)
@pytest.mark.parametrize("ranks", [1, 3, 7, 2049])
def test_every_number_divided_by_the_number_of_ranks(dtype, ranks):
    want, found = np.empty(EVERY.shape, dtype), EVERY.copy()
    with np.errstate(all="ignore"):
        divide(EVERY.view(dtype), ranks, want)
    fold.finish_kernel(dtype).ctypes(*addresses(found, found), len(found), ranks)
    np.testing.assert_array_equal(found, want.view(np.uint16))
