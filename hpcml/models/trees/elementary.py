"""exp and log of compiled code, with the same bits wherever a number stands in an array.

A compiler may compute most of a loop by vector instructions and its end by the C library, which round differently in
the last place. What a rank computes of a row must not depend on where the row is: here both use these polynomials.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

LOG2E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10


@intrinsic
def _as_float(typingctx, bits):
    def codegen(context, builder, signature, values):
        return builder.bitcast(values[0], ir.DoubleType())

    return types.float64(types.int64), codegen


@intrinsic
def _as_bits(typingctx, number):
    def codegen(context, builder, signature, values):
        return builder.bitcast(values[0], ir.IntType(64))

    return types.int64(types.float64), codegen


@njit(inline="always")
def exp(x):
    """e to the x, for |x| up to 708 (beyond, as for 708): relative error below 1e-15.

    x = k ln 2 + r, |r| ≤ ln 2 / 2, and the Taylor polynomial of degree 13 of e to the r.
    """
    x = min(max(x, -708.0), 708.0)
    k = np.floor(x * LOG2E + 0.5)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    p = 1.0 / 6227020800
    p = p * r + 1.0 / 479001600
    p = p * r + 1.0 / 39916800
    p = p * r + 1.0 / 3628800
    p = p * r + 1.0 / 362880
    p = p * r + 1.0 / 40320
    p = p * r + 1.0 / 5040
    p = p * r + 1.0 / 720
    p = p * r + 1.0 / 120
    p = p * r + 1.0 / 24
    p = p * r + 1.0 / 6
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    return p * _as_float((np.int64(k) + np.int64(1023)) << np.int64(52))


@njit(inline="always")
def log(x):
    """The natural logarithm of a normal x > 0: relative error below 1e-14.

    x = 2ᵏ m, m in [√½, √2), and log m = 2 artanh((m − 1)/(m + 1)) as a series.
    """
    bits = _as_bits(x)
    k = (bits - _as_bits(0.7071067811865476)) >> np.int64(52)
    m = _as_float(bits - (k << np.int64(52)))
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    p = 1.0 / 21
    p = p * z + 1.0 / 19
    p = p * z + 1.0 / 17
    p = p * z + 1.0 / 15
    p = p * z + 1.0 / 13
    p = p * z + 1.0 / 11
    p = p * z + 1.0 / 9
    p = p * z + 1.0 / 7
    p = p * z + 1.0 / 5
    p = p * z + 1.0 / 3
    p = p * z + 1.0
    return float(k) * (LN2_HIGH + LN2_LOW) + 2.0 * s * p
