"""Exact sums of rows, column by column: compiled, without the GIL, in blocks that stay in the L1 cache.

``rows`` has shape (V, n), C-contiguous, float32 or float64; ``bits`` is the same memory as int32 or int64. The kernels
work on the columns from ``start`` on, as many as the result has. Block by block they try first what is fast, and proves
itself:

- float32 is added up in float64. s = fl(a + b) is exact where s − a = b and s − b = a: one of the two differences is
  always exact (Fast2Sum), and there the equality says s = a + b.
- float64 is added up in a pair, high + low. 2Sum gives the error of each addition to ``high`` exactly; its addition to
  ``low`` has to be exact by the same test. Muller et al., "Handbook of Floating-Point Arithmetic" (2nd ed.), ch. 4.

Overflow, infinities and NaNs fail the tests. In a block that fails, the columns that do go to an accumulator. What is
exact is then rounded once: by the conversion to float32, or by fl(high + low).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from hpcml.collectives.exact.accumulator import (
    CARRY_EVERY,
    LIMBS,
    MINUS_INF,
    PLUS_INF,
    carry,
    deposit,
    mark_of,
    rounded,
)
from hpcml.collectives.exact.terms import INTEGERS, real

BLOCK = 512  # columns of which high and low lie in the L1 cache
PARTS = 3  # floats into which a rank may take its own sum of a column apart
TOO_MANY = PARTS + 1

_NOT_FINITE = PLUS_INF | MINUS_INF
_SINGLE, _DOUBLE = LIMBS[23], LIMBS[52]


@njit(nogil=True, cache=True)
def sum_rows(rows, bits, start, out, out_bits, stored, odd):
    """``out[i]`` = the exact sum of column ``start + i``, rounded once; of no rows: −0.

    out_bits: ``out`` as integers. odd: float32 only, round to odd, for one more rounding to a shorter format (see
    `accumulator.rounded`).
    """
    highs, lows = np.empty(BLOCK), np.empty(BLOCK)
    limbs = np.empty(_limbs(stored), np.int64)
    for begin in range(0, len(out), BLOCK):
        n = min(BLOCK, len(out) - begin)
        high, low = highs[:n], lows[:n]
        result, result_bits = out[begin : begin + n], out_bits[begin : begin + n]
        inexact = _add_up(rows, start + begin, high, low, stored)
        if odd:
            _round_to_odd(high, result, result_bits)
        elif stored == 23:
            for i in range(n):
                result[i] = high[i]
        else:
            for i in range(n):
                result[i] = high[i] if low[i] == 0 else high[i] + low[i]  # −0 + 0 would be +0
        if inexact:
            for i in range(n):
                if _add_up(rows, start + begin + i, high[:1], low[:1], stored):
                    marks = _accumulate(bits, start + begin + i, limbs, stored)
                    result_bits[i] = rounded(limbs, 0, marks, stored, odd)


@njit(nogil=True, cache=True)
def take_apart(rows, bits, start, parts, parts_bits, stored):
    """Write the exact sum of column ``start + i`` as that of ``parts[:, i]``, shape (PARTS, n); −0 where it is shorter.

    Returns how many parts the longest takes; `TOO_MANY` if more than there are, or larger than the format holds.
    """
    highs, lows = np.empty(BLOCK), np.empty(BLOCK)
    limbs, work = np.empty(_limbs(stored), np.int64), np.empty(_limbs(stored), np.int64)
    needed = 1
    for begin in range(0, parts.shape[1], BLOCK):
        n = min(BLOCK, parts.shape[1] - begin)
        high, low = highs[:n], lows[:n]
        inexact = _add_up(rows, start + begin, high, low, stored)
        if stored == 23:
            taken = _split_singles(high, parts[:, begin : begin + n])
        else:
            taken = _split_doubles(high, low, parts[:, begin : begin + n])
        if inexact:
            taken = 1
            for i in range(n):
                if _add_up(rows, start + begin + i, high[:1], low[:1], stored):
                    column = parts_bits[:, begin + i]
                    taken = max(taken, _split_accumulated(bits, start + begin + i, column, limbs, work, stored))
                elif not np.isfinite(parts[0, begin + i]):
                    taken = TOO_MANY
                else:
                    for k in range(1, PARTS):
                        taken = max(taken, k + 1 if parts[k, begin + i] != 0 else 1)
        needed = max(needed, taken)
    return needed


def settle_nans(x: np.ndarray) -> None:
    """Give every NaN in ``x``, an array of any layout, the bits of NumPy's nan."""
    if not x.flags.c_contiguous:
        for part in (x.real, x.imag) if x.dtype.kind == "c" else (x,):
            part[np.isnan(part)] = np.nan
        return
    flat = x.reshape(-1).view(real(x.dtype))
    bits = flat.view(INTEGERS[flat.itemsize])
    special = np.array([np.inf, np.nan], flat.dtype).view(bits.dtype)
    _replace_above(bits, bits.dtype.type(np.iinfo(bits.dtype).max), *special)


@njit(nogil=True, cache=True)
def _replace_above(bits, magnitude, infinity, nan):
    for begin in range(0, len(bits), BLOCK):
        block = bits[begin : begin + BLOCK]
        any_nan = False
        for i in range(len(block)):
            any_nan |= (block[i] & magnitude) > infinity
        if any_nan:
            for i in range(len(block)):
                if (block[i] & magnitude) > infinity:
                    block[i] = nan


@njit(inline="always")
def _limbs(stored):
    return _SINGLE if stored == 23 else _DOUBLE


@njit
def _add_up(rows, begin, high, low, stored):
    """The sums of a block of columns as ``high + low`` (float32: ``high``). Returns whether any may be inexact."""
    if stored == 23:
        return _add_up_singles(rows, begin, high)
    return _add_up_doubles(rows, begin, high, low)


@njit
def _add_up_singles(rows, begin, high):
    n = len(high)
    inexact = False
    for i in range(n):
        high[i] = -0.0
    for j in range(rows.shape[0]):
        row = rows[j, begin : begin + n]
        for i in range(n):
            a, b = high[i], np.float64(row[i])
            s = a + b
            inexact |= (s - a != b) | (s - b != a)
            high[i] = s
    return inexact


@njit
def _add_up_doubles(rows, begin, high, low):
    n = len(high)
    inexact = False
    for i in range(n):
        high[i], low[i] = -0.0, 0.0
    for j in range(rows.shape[0]):
        row = rows[j, begin : begin + n]
        for i in range(n):
            s, error = _two_sum(high[i], np.float64(row[i]))
            a = low[i]
            t = a + error
            inexact |= (t - a != error) | (t - error != a)
            high[i], low[i] = s, t
    return inexact


@njit(inline="always")
def _two_sum(a, b):
    """(fl(a + b), its error); Knuth's, without a condition on the magnitudes."""
    s = a + b
    b_in_s = s - a
    return s, (a - (s - b_in_s)) + (b - b_in_s)


@njit
def _round_to_odd(exact, result, result_bits):
    """float32 from float64: nearest, and one step on to the other neighbour where that is inexact and even."""
    for i in range(len(exact)):
        result[i] = exact[i]
        rounded_to = np.float64(result[i])
        if rounded_to != exact[i] and not result_bits[i] & 1:
            result_bits[i] += 1 if abs(rounded_to) < abs(exact[i]) else -1


@njit
def _accumulate(bits, column, limbs, stored):
    """The sum of a column in ``limbs``. Returns its marks."""
    limbs[:] = 0
    marks = np.int64(0)
    for j in range(bits.shape[0]):
        summand = np.int64(bits[j, column])
        mark = mark_of(summand, stored)
        marks |= mark
        if not mark & _NOT_FINITE:
            deposit(limbs, 0, summand, stored)
        if j % CARRY_EVERY == CARRY_EVERY - 1:
            carry(limbs)
    return marks


@njit
def _split_singles(exact, parts):
    """53 bits as three times 24: each part is the nearest float32 to what is left, and what is left then is exact."""
    second = third = infinite = False
    first_part, second_part, third_part = parts[0], parts[1], parts[2]
    for i in range(len(exact)):
        a = np.float32(exact[i])
        left = exact[i] - np.float64(a)
        b = np.float32(left)
        last = left - np.float64(b)
        second |= left != 0
        third |= last != 0
        infinite |= not np.isfinite(a)
        first_part[i] = a
        second_part[i] = b if left != 0 else np.float32(-0.0)
        third_part[i] = np.float32(last) if last != 0 else np.float32(-0.0)
    return TOO_MANY if infinite else 3 if third else 2 if second else 1


@njit
def _split_doubles(high, low, parts):
    second = False
    first_part, second_part, third_part = parts[0], parts[1], parts[2]
    for i in range(len(high)):
        s, error = _two_sum(high[i], low[i])
        second |= error != 0
        first_part[i] = s if low[i] != 0 else high[i]
        second_part[i] = error if error != 0 else -0.0
        third_part[i] = -0.0
    return 2 if second else 1


@njit
def _split_accumulated(bits, column, parts_bits, limbs, work, stored):
    """By rounding, and subtracting what was rounded to."""
    marks = _accumulate(bits, column, limbs, stored)
    minus_zero = np.int64(-1) << (31 if stored == 23 else 63)
    infinity = (np.int64(1) << (31 if stored == 23 else 63)) - (np.int64(1) << stored)
    needed = 1
    for k in range(PARTS):
        work[:] = limbs
        part = rounded(work, 0, marks, stored, False)
        parts_bits[k] = part
        if marks & _NOT_FINITE:
            limbs[:] = 0
        elif part & ~minus_zero >= infinity:
            return TOO_MANY
        else:
            deposit(limbs, 0, part ^ minus_zero, stored)
        if k > 0 and part != minus_zero:
            needed = k + 1
        marks = np.int64(0)  # what is left, if it is zero, is −0
    carry(limbs)
    return needed if not limbs.any() else TOO_MANY
