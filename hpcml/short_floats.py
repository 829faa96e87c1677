"""float16 and bfloat16 as their 16 bits: widened to float32, folded there, and rounded back.

By integer arithmetic, because Numba has no such types on the host; branches become selections, so that loops vectorise.
The operations have the results of NumPy's and ml_dtypes' own, bit by bit; of two NaNs they take the first, which those
leave to their compiler.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic


@intrinsic
def _bits_of(typingctx, number):
    """A float32 as uint32."""

    def codegen(context, builder, signature, values):
        return builder.bitcast(values[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@intrinsic
def _float_of(typingctx, bits):
    """A uint32 as float32."""

    def codegen(context, builder, signature, values):
        return builder.bitcast(values[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@njit(inline="always")
def widen_half(h):
    """float16 to float32. The exponent is corrected by a multiplication, which is right for subnormals, too."""
    magnitude = np.uint32(h) & np.uint32(0x7FFF)
    scaled = _bits_of(_float_of(np.uint32(magnitude << np.uint32(13))) * np.float32(2.0**112))
    special = np.uint32(0x7F800000) if magnitude >= np.uint32(0x7C00) else np.uint32(0)
    sign = np.uint32((np.uint32(h) & np.uint32(0x8000)) << np.uint32(16))
    return _float_of(np.uint32(scaled | special | sign))


@njit(inline="always")
def narrow_half(x):
    """float32 to float16, to nearest, ties to even."""
    bits = _bits_of(x)
    magnitude = np.uint32(bits & np.uint32(0x7FFFFFFF))
    # An ulp of 0.5 is float16's smallest number, so adding 0.5 rounds to a multiple of that.
    subnormal = np.uint32(_bits_of(_float_of(magnitude) + np.float32(0.5)) - np.uint32(0x3F000000))
    tie = np.uint32(magnitude >> np.uint32(13)) & np.uint32(1)
    normal = np.uint32(np.uint32(magnitude + np.uint32(0xFFF) + tie) >> np.uint32(13)) - np.uint32(112 << 10)
    found = subnormal if magnitude < np.uint32(0x38800000) else np.uint32(normal)
    found = np.uint32(0x7C00) if magnitude >= np.uint32(0x477FF000) else found
    nan = np.uint32(0x7E00) | np.uint32(np.uint32(magnitude >> np.uint32(13)) & np.uint32(0x3FF))
    found = nan if magnitude > np.uint32(0x7F800000) else found
    return np.uint16(np.uint32(found | np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000))))


@njit(inline="always")
def widen_bfloat(b):
    """bfloat16 to float32: its upper half."""
    return _float_of(np.uint32(np.uint32(b) << np.uint32(16)))


@njit(inline="always")
def narrow_bfloat(x):
    """float32 to bfloat16, to nearest, ties to even; a NaN becomes the one of its sign."""
    bits = _bits_of(x)
    tie = np.uint32(bits >> np.uint32(16)) & np.uint32(1)
    found = np.uint32(np.uint32(bits + np.uint32(0x7FFF) + tie) >> np.uint32(16))
    nan = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000)) | np.uint32(0x7FC0)
    return np.uint16(nan if np.uint32(bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000) else found)


@njit(inline="always")
def _first_nan(x, y, result):
    """The result, but of operands that are NaN the first; what is compiled might swap them."""
    return x + x if x != x else y + y if y != y else result


@njit(inline="always")
def add_half(a, b):
    x, y = widen_half(a), widen_half(b)
    return narrow_half(_first_nan(x, y, x + y))


@njit(inline="always")
def multiply_half(a, b):
    x, y = widen_half(a), widen_half(b)
    return narrow_half(_first_nan(x, y, x * y))


@njit(inline="always")
def divide_half(a, b):
    return narrow_half(widen_half(a) / widen_half(b))


@njit(inline="always")
def minimum_half(a, b):
    x, y = widen_half(a), widen_half(b)
    return a if x <= y or x != x else b  # of two zeros the first, as NumPy


@njit(inline="always")
def maximum_half(a, b):
    x, y = widen_half(a), widen_half(b)
    return a if x >= y or x != x else b


@njit(inline="always")
def add_bfloat(a, b):
    x, y = widen_bfloat(a), widen_bfloat(b)
    return narrow_bfloat(_first_nan(x, y, x + y))


@njit(inline="always")
def multiply_bfloat(a, b):
    x, y = widen_bfloat(a), widen_bfloat(b)
    return narrow_bfloat(_first_nan(x, y, x * y))


@njit(inline="always")
def divide_bfloat(a, b):
    return narrow_bfloat(widen_bfloat(a) / widen_bfloat(b))


@njit(inline="always")
def minimum_bfloat(a, b):
    x, y = widen_bfloat(a), widen_bfloat(b)
    return a if x < y or x != x else b  # of two zeros the second, as ml_dtypes


@njit(inline="always")
def maximum_bfloat(a, b):
    x, y = widen_bfloat(a), widen_bfloat(b)
    return a if x > y or x != x else b
