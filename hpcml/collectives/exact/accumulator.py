"""Floats as fixed-point numbers wide enough for every float of their format: sums of them are exact.

An accumulator is a row of int64 *limbs*; limb i stands for multiples of 2^(32·i) times the format's smallest positive
float. A deposit adds less than 2^32 to each limb, so 2^31 floats, or as many rows with `carried` limbs, can be summed
before one overflows, and limbs can be added in any order: by any integer sum over ranks, too. Kulisch, "Computer
Arithmetic and Validity" (2013), ch. 8; the split limbs follow Demmel and Nguyen, "Parallel Reproducible Summation"
(2015).

A row may hold only the limbs from ``first`` on, where it is known that those below and above it stay empty. Floats come
as their bits: int32 or int64, negative where the sign bit is set. ``stored`` is the number of stored fraction bits: 23
for float32, 52 for float64.

What has no place in fixed point goes to *marks*, of which each summand has at most two: +inf, −inf (a NaN is both) and
"not −0". They are or-ed on a rank and added between ranks: 2^21 − 1 ranks have room.
"""

from __future__ import annotations

import numpy as np
from numba import njit

LIMB_BITS = 32
_MASK = (1 << LIMB_BITS) - 1

STORED = {np.dtype(np.float32): 23, np.dtype(np.float64): 52}
LIMBS = {23: 9, 52: 66}  # 277 and 2098 bits; the last limb has room for the carry
NAN_BITS = {23: 0x7FC00000, 52: 0x7FF8 << 48}
CARRY_EVERY = 1 << 30  # deposits after which limbs are carried, so that they cannot overflow

_MARK_BITS = 21
_MARK = (1 << _MARK_BITS) - 1
PLUS_INF, MINUS_INF, NOT_MINUS_ZERO = 1, 1 << _MARK_BITS, 1 << 2 * _MARK_BITS


@njit(inline="always")
def _sign_bit(stored):
    return np.int64(31) if stored == 23 else np.int64(63)


@njit(inline="always")
def _infinity(stored):
    """The bits of +inf: all ones in the exponent, no fraction."""
    return (np.int64(1) << _sign_bit(stored)) - (np.int64(1) << stored)


@njit(inline="always")
def _magnitude(bits, stored):
    return np.int64(bits) & ~(np.int64(-1) << _sign_bit(stored))


@njit(inline="always")
def mark_of(bits, stored):
    """The marks of one summand."""
    magnitude, infinity = _magnitude(bits, stored), _infinity(stored)
    if magnitude > infinity:
        return np.int64(PLUS_INF | MINUS_INF)
    if magnitude == infinity:
        return np.int64(MINUS_INF if bits < 0 else PLUS_INF)
    return np.int64(0 if bits < 0 and magnitude == 0 else NOT_MINUS_ZERO)


@njit(inline="always")
def place_of(bits, stored):
    """(fraction, place): the magnitude of a finite float as fraction · 2^place smallest floats."""
    magnitude = _magnitude(bits, stored)
    exponent = magnitude >> stored
    fraction = magnitude & ((np.int64(1) << stored) - 1)
    if exponent == 0:
        return fraction, np.int64(0)
    return fraction | (np.int64(1) << stored), exponent - 1


@njit(inline="always")
def deposit(limbs, first, bits, stored):
    """Add a finite float to the accumulator."""
    fraction, place = place_of(bits, stored)
    at, shift = (place >> 5) - first, place & 31
    low = (fraction & _MASK) << shift
    middle = (low >> LIMB_BITS) + ((fraction >> LIMB_BITS) << shift)
    high = middle >> LIMB_BITS
    sign = np.int64(-1) if bits < 0 else np.int64(1)
    if fraction != 0:
        limbs[at] += sign * (low & _MASK)
    if middle != 0:
        limbs[at + 1] += sign * (middle & _MASK)
    if high != 0:
        limbs[at + 2] += sign * high


@njit(inline="always")
def carry(limbs):
    """Bring all limbs but the last to 0 … 2^32 − 1 without changing the number."""
    over = np.int64(0)
    for i in range(len(limbs) - 1):
        value = limbs[i] + over
        limbs[i] = value & _MASK
        over = value >> LIMB_BITS
    limbs[len(limbs) - 1] += over


@njit
def rounded(limbs, first, marks, stored, odd):
    """The bits of the float nearest to the number; ties to even. Leaves the limbs carried, and the number positive.

    odd: round to odd instead (an inexact result gets an odd last bit, and is never infinite): rounded again, to a
    shorter format, it gives what one rounding would have given. Boldo and Melquiond, "Emulation of FMA and correctly
    rounded sums: proved algorithms using rounding to odd" (2008).
    """
    plus, minus = marks & _MARK, (marks >> _MARK_BITS) & _MARK
    sign = np.int64(-1) << _sign_bit(stored)
    infinity = _infinity(stored)
    if plus != 0 and minus != 0:
        return infinity | (np.int64(1) << (stored - 1))
    if plus != 0:
        return infinity
    if minus != 0:
        return sign | infinity
    carry(limbs)
    negative = limbs[len(limbs) - 1] < 0
    if negative:
        for i in range(len(limbs)):
            limbs[i] = -limbs[i]
        carry(limbs)
    top = len(limbs) - 1
    while top >= 0 and limbs[top] == 0:
        top -= 1
    if top < 0:
        return np.int64(0) if marks >> 2 * _MARK_BITS else sign
    found = _nearest(limbs, first, top, stored, odd)
    return sign | found if negative else found


@njit(inline="always")
def _nearest(limbs, first, top, stored, odd):
    """The bits of the float nearest to a positive carried number whose highest limb that is not zero is ``top``."""
    highest = np.int64(LIMB_BITS) * (first + top) - 1  # its highest bit, counted from the smallest float
    value = limbs[top]
    while value:
        value >>= 1
        highest += 1
    dropped = max(highest - stored, np.int64(0))  # bits below the fraction
    infinity = _infinity(stored)
    if dropped + 1 >= infinity >> stored:  # the exponent would be that of infinity
        return infinity - 1 if odd else infinity
    at = min(dropped >> 5, first + top)
    shift = dropped - LIMB_BITS * at
    fraction = np.int64(0)
    for i in range(max(at - first, np.int64(0)), top + 1):
        left = LIMB_BITS * (i + first - at) - shift
        fraction += limbs[i] << left if left >= 0 else limbs[i] >> -left
    # The exponent is one more than the bits dropped, and the fraction's leading one is what adds that one.
    found = fraction + (dropped << stored)
    half, below = np.int64(0), np.int64(0)
    if dropped > 0:
        at = min((dropped - 1) >> 5, first + top)
        shift = dropped - 1 - LIMB_BITS * at
        if at >= first:
            half = (limbs[at - first] >> shift) & 1
            below = limbs[at - first] & ((np.int64(1) << shift) - 1)
            for i in range(at - first):
                below |= limbs[i]
    if odd:
        found |= np.int64(half != 0 or below != 0)
        return min(found, infinity - 1)
    if half != 0 and (below != 0 or found & 1):
        found += 1
    return found
