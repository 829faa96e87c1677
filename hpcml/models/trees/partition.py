"""The rows of a node are a range of one array of row numbers; a split cuts it in two, both in their old order."""

from __future__ import annotations

import numpy as np
from numba import njit, uint8, uint64

from hpcml.models.trees.histogram import AHEAD, prefetch


@njit(nogil=True, cache=True)
def partition(column, table, rows, begin, end, spare):
    """Put those of ``rows[begin:end]`` first whose bin goes left; return where the others begin.

    column (n,) uint8: the feature's bins; table (256,) uint8: 1 for a bin that goes left; spare: room for as many rows.
    Every row is written to both sides, and one of the places counts: there is no branch to be guessed.
    """
    left, right, last = uint64(begin), uint64(0), end - 1
    for i in range(begin, end):
        prefetch(column, rows[min(i + AHEAD, last)])
        r = rows[i]
        goes = uint64(table[column[uint64(r)]])
        rows[left] = r
        spare[right] = r
        left += goes
        right += uint64(1) - goes
    for i in range(np.int64(right)):
        rows[np.int64(left) + i] = spare[i]
    return np.int64(left)


@njit(nogil=True, cache=True)
def add_to_rows(rows, begins, ends, values, scores):
    """``scores[r] += values[leaf]`` for the rows r of each leaf."""
    for leaf in range(len(begins)):
        value = values[leaf]
        for i in range(begins[leaf], ends[leaf]):
            scores[uint64(rows[i])] += value


@njit(nogil=True, cache=True)
def chosen(chances, share, rows):
    """The rows with a chance below ``share``, in order, into ``rows``; returns how many."""
    found = 0
    for i in range(len(chances)):
        rows[found] = i
        found += uint8(chances[i] < share)
    return found
