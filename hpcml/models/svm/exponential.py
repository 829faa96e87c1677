"""exp(x) by a polynomial, in float32 and float64: the same bits in a vector register and in a loop's remainder.

The library's own may be rounded differently in the two, and then a number would depend on where its row lies. Additions
and multiplications alone, which Numba does not contract, so on any processor, too. x = n ln 2 + r with |r| ≤ ln 2 / 2;
exp(r) by Cephes' polynomial of degree 7 (float32: 1e-7) or Taylor's of degree 13 (float64: 3e-16), relatively; 2ⁿ from
its bits. What is smaller than the smallest normal number comes out as that, what is larger than the largest as 2¹²⁷ or
2¹⁰²³, or more.
"""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

f4, f8 = np.float32, np.float64

_INVERSE4, _HIGH4, _LOW4, _ROUND4 = f4(1.4426950408889634), f4(0.693359375), f4(-2.12194440e-4), f4(12582912.0)
_LEAST4, _MOST4, _ONE4 = f4(-87.33), f4(88.0), f4(1)
_P0, _P1, _P2 = f4(1.9875691500e-4), f4(1.3981999507e-3), f4(8.3334519073e-3)
_P3, _P4, _P5 = f4(4.1665795894e-2), f4(1.6666665459e-1), f4(5.0000001201e-1)

_INVERSE8, _HIGH8, _LOW8 = f8(1.4426950408889634), f8(6.93145751953125e-1), f8(1.42860682030941723212e-6)
_ROUND8, _LEAST8, _MOST8 = f8(6755399441055744.0), f8(-708.3), f8(709.0)
_TAYLOR = tuple(1.0 / factorial(k) for k in range(13, -1, -1))


@intrinsic
def _from_bits(typingctx: Any, bits: Any) -> Any:
    """The float of the bits of an integer of the same width."""
    target = types.float32 if bits == types.int32 else types.float64
    kind = ir.FloatType() if bits == types.int32 else ir.DoubleType()

    def codegen(context, builder, signature, values):
        return builder.bitcast(values[0], kind)

    return target(bits), codegen


def exponential(x):
    """exp(x) of a float32 or float64. In compiled code only."""
    raise NotImplementedError


@overload(exponential, inline="always")
def _exponential(x):
    def single(x):
        x = min(max(x, _LEAST4), _MOST4)
        n = (x * _INVERSE4 + _ROUND4) - _ROUND4
        r = (x - n * _HIGH4) - n * _LOW4
        p = ((((_P0 * r + _P1) * r + _P2) * r + _P3) * r + _P4) * r + _P5
        p = (p * (r * r) + r) + _ONE4
        return p * _from_bits(np.int32(np.int32(np.int32(n) + np.int32(127)) << np.int32(23)))

    def double(x):
        x = min(max(x, _LEAST8), _MOST8)
        n = (x * _INVERSE8 + _ROUND8) - _ROUND8
        r = (x - n * _HIGH8) - n * _LOW8
        p = ((((_TAYLOR[0] * r + _TAYLOR[1]) * r + _TAYLOR[2]) * r + _TAYLOR[3]) * r + _TAYLOR[4]) * r + _TAYLOR[5]
        p = ((((p * r + _TAYLOR[6]) * r + _TAYLOR[7]) * r + _TAYLOR[8]) * r + _TAYLOR[9]) * r + _TAYLOR[10]
        p = ((p * r + _TAYLOR[11]) * r + _TAYLOR[12]) * r + _TAYLOR[13]
        return p * _from_bits(np.int64(np.int64(n) + np.int64(1023)) << np.int64(52))

    return single if x == types.float32 else double if x == types.float64 else None


@njit(cache=True, nogil=True)
def exponentials(x: np.ndarray, out: np.ndarray) -> None:
    """exp of each number of ``x`` (n,), into ``out``."""
    for i in range(x.size):
        out[i] = exponential(x[i])
