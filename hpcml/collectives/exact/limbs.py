"""Rows of floats as rows of accumulators, for a sum over ranks by any integer all-reduce; and back.

One item of the data becomes ``width`` limbs and, unless nothing has them, its marks (see `accumulator`), side by side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from hpcml.collectives.exact.accumulator import (
    CARRY_EVERY,
    LIMB_BITS,
    LIMBS,
    MINUS_INF,
    NOT_MINUS_ZERO,
    PLUS_INF,
    carry,
    deposit,
    mark_of,
    place_of,
    rounded,
)

_NOT_FINITE = PLUS_INF | MINUS_INF


class Window(NamedTuple):
    """The limbs ``first`` … ``last`` are all that the data touch; ``marked``: some of them need marks."""

    first: int
    last: int
    marked: bool

    @property
    def width(self) -> int:
        """Limbs of one item; at least one."""
        return max(self.last - self.first + 1, 1)

    @property
    def columns(self) -> int:
        """int64s of one item."""
        return self.width + self.marked


def whole(stored: int) -> Window:
    """The window that holds any float of the format."""
    return Window(0, LIMBS[stored] - 1, True)


def window_of(bits: np.ndarray, stored: int) -> Window:
    """The least window for the floats whose bits these are, shape (V, n); ``first`` > ``last`` if all are zero."""
    lowest, highest, marked = _extent(bits, np.int64(stored))
    if highest < 0:
        return Window(LIMBS[stored] - 1, 0, bool(marked))
    return Window(int(lowest) // LIMB_BITS, (int(highest) + stored) // LIMB_BITS, bool(marked))


@njit(nogil=True, cache=True)
def _extent(bits, stored):
    """The lowest and the highest place of all that is finite and not zero, and whether anything needs marks."""
    lowest, highest, marked = np.int64(1 << 62), np.int64(-1), False
    for j in range(bits.shape[0]):
        row = bits[j]
        for i in range(len(row)):
            mark = mark_of(row[i], stored)
            fraction, place = place_of(row[i], stored)
            marked |= mark != NOT_MINUS_ZERO
            counts = fraction != 0 and mark == NOT_MINUS_ZERO
            lowest = min(lowest, place if counts else lowest)
            highest = max(highest, place if counts else highest)
    return lowest, highest, marked


@njit(nogil=True, cache=True)
def fill(bits, limbs, first, width, stored):
    """limbs[i] = the sum of column i of ``bits``, shape (V, n), as ``width`` limbs from ``first`` on, and its marks.

    ``limbs`` has a last column for marks or, where no item needs any, none. The limbs are carried, so the sum of 2^31
    ranks' limbs overflows nowhere.
    """
    limbs[:] = 0
    marked = limbs.shape[1] > width
    for j in range(bits.shape[0]):
        row = bits[j]
        for i in range(len(row)):
            summand = np.int64(row[i])
            mark = mark_of(summand, stored)
            if marked:
                limbs[i, width] |= mark
            if not mark & _NOT_FINITE:
                deposit(limbs[i, :width], first, summand, stored)
        if j % CARRY_EVERY == CARRY_EVERY - 1 or j == bits.shape[0] - 1 and j > 0:
            for i in range(limbs.shape[0]):
                carry(limbs[i, :width])


@njit(nogil=True, cache=True)
def round_all(limbs, first, width, out_bits, stored, odd):
    """out_bits[i] = the bits of the float nearest to ``limbs[i]``, which it overwrites; odd: see `rounded`."""
    marked = limbs.shape[1] > width
    for i in range(limbs.shape[0]):
        marks = limbs[i, width] if marked else np.int64(NOT_MINUS_ZERO)
        out_bits[i] = rounded(limbs[i, :width], first, marks, stored, odd)
