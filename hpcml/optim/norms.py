"""Norms of arrays that may be spread over ranks: the same bits, however they are cut.

Squares are summed in float64 over blocks of `BLOCK` items of a parameter, each within one rank, in a fixed order; the
sums of all blocks stand in a table, to which each rank gives those of its own, and which is summed whole by everybody.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from hpcml.optim.precision import widened

BLOCK = 1024  # items


def blocks(items: int) -> int:
    return -(-items // BLOCK)


class Table:
    """Sums over the blocks of arrays of so many items. ``sums`` (kinds, blocks), float64: a row for a kind of sum."""

    def __init__(self, sizes: Sequence[int], kinds: int) -> None:
        self._ends = np.cumsum([blocks(size) for size in sizes]).tolist()
        self.sums = np.zeros((kinds, self._ends[-1]))

    def rows(self, array: int, start: int, items: int) -> np.ndarray:
        """Where the sums over ``items`` of that array go, from item ``start`` on, the first of a block: a view."""
        first = (self._ends[array - 1] if array else 0) + start // BLOCK
        return self.sums[:, first : first + blocks(items)]

    def norms(self, array: int) -> np.ndarray:
        """The root of each sum over that whole array."""
        first = self._ends[array - 1] if array else 0
        return np.sqrt(self.sums[:, first : self._ends[array]].sum(axis=1))


@njit(nogil=True, cache=True, error_model="numpy")
def squares(items, sums):
    """Put the sum of the squares of each block of the items into ``sums``."""
    scratch = np.empty(BLOCK)
    for block in range(sums.size):
        begin = block * BLOCK
        n = min(BLOCK, items.size - begin)
        for i in range(n):
            x = np.float64(widened(items[begin + i]))
            scratch[i] = x * x
        sums[block] = folded(scratch, n)


@njit(nogil=True, cache=True, error_model="numpy")
def folded(scratch, n):
    """The sum of the first n of `BLOCK` numbers, by halves, which are added as vectors; ``scratch`` is overwritten."""
    scratch[n:] = 0.0
    half = BLOCK // 2
    while half > 0:
        for i in range(half):
            scratch[i] += scratch[i + half]
        half //= 2
    return scratch[0]
