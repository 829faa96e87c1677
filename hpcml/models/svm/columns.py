"""Columns of this rank's block of the kernel matrix, the last used kept within bounded memory; sums of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from hpcml.models.svm.points import Points

#: Columns that are kept at least, and rows of a sum that stay in the first-level cache.
LEAST, STRIP = 64, 1024


class Columns:
    """Kernel columns of borrowed rows with this rank's ``points``: at most ``nbytes``, but 64 at least.

    Those used longest ago give way. ``computed`` and ``reused`` count columns.
    """

    def __init__(self, points: Points, total: int, nbytes: float) -> None:
        self.points = points
        each = max(1, points.count * points.dtype.itemsize)
        capacity = int(min(total, max(LEAST, nbytes // each)))
        # Memory is taken as columns are first written.
        self._kept = np.empty((capacity, points.count), points.dtype)
        self._slot_of = np.full(total, -1, np.int32)
        self._holds = np.full(capacity, -1, np.int64)
        self._used = np.zeros(capacity, np.int64)
        self._clock = 0
        self.computed = self.reused = 0

    def add(self, sums: np.ndarray, ids: np.ndarray, rows: Any, weights: np.ndarray) -> None:
        """``sums`` (n,) += Σ weights[j] · column of borrowed row j, one after the other, whatever is kept."""
        for first in range(0, len(ids), len(self._kept)):
            part = np.arange(first, min(len(ids), first + len(self._kept)))
            slots = self._slots(ids[part], rows, part)
            add_columns(self._kept, slots, weights[part], sums)

    def _slots(self, ids: np.ndarray, rows: Any, part: np.ndarray) -> np.ndarray:
        self._clock += 1
        slots = self._slot_of[ids].astype(np.int64)
        self._used[slots[slots >= 0]] = self._clock
        missing = np.flatnonzero(slots < 0)
        self.computed += len(missing)
        self.reused += len(ids) - len(missing)
        if len(missing):
            free = np.argsort(self._used, kind="stable")[: len(missing)]
            gone = self._holds[free]
            self._slot_of[gone[gone >= 0]] = -1
            self._holds[free], self._slot_of[ids[missing]], self._used[free] = ids[missing], free, self._clock
            slots[missing] = free
            self.points.fill(self.points.taken(rows, part[missing]), self._kept, free)
        return slots


@njit(cache=True, nogil=True)
def add_columns(columns: np.ndarray, slots: np.ndarray, weights: np.ndarray, sums: np.ndarray) -> None:
    """``sums`` (n,), float64, += Σ weights[j] · columns[slots[j]], in the order of j for each number."""
    q, n = len(slots), sums.size
    whole = q - q % 8
    for first in range(0, n, STRIP):
        strip = sums[first : first + STRIP]
        m = strip.size
        for j in range(0, whole, 8):
            w0, w1, w2, w3 = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
            w4, w5, w6, w7 = weights[j + 4], weights[j + 5], weights[j + 6], weights[j + 7]
            c0, c1 = columns[slots[j], first : first + m], columns[slots[j + 1], first : first + m]
            c2, c3 = columns[slots[j + 2], first : first + m], columns[slots[j + 3], first : first + m]
            c4, c5 = columns[slots[j + 4], first : first + m], columns[slots[j + 5], first : first + m]
            c6, c7 = columns[slots[j + 6], first : first + m], columns[slots[j + 7], first : first + m]
            for i in range(m):
                s = (((strip[i] + w0 * c0[i]) + w1 * c1[i]) + w2 * c2[i]) + w3 * c3[i]
                strip[i] = (((s + w4 * c4[i]) + w5 * c5[i]) + w6 * c6[i]) + w7 * c7[i]
        for j in range(whole, q):
            w, c = weights[j], columns[slots[j], first : first + m]
            for i in range(m):
                strip[i] = strip[i] + w * c[i]
