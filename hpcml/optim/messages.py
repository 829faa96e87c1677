"""The memory in which the gradients of a bucket are put together."""

from __future__ import annotations

import numpy as np
from numba import njit

from hpcml.optim.buckets import Bucket
from hpcml.optim.precision import SINGLE, bits, is_short, keep_short, widened


class Message:
    """Gradients of the members of ``bucket``, times their weights, side by side; used again in every step.

    Gradients of one member that come one after another in a step are added up; with ``apart`` each has its own row.

    Attributes: ``rows`` (n, size + extra); ``times``, how often each member's gradient came in this step; ``weight``,
    once it is closed: the weights of the gradients in it, added up over one member.
    """

    def __init__(self, bucket: Bucket, dtype: np.dtype, extra: int = 0, apart: bool = False, rows: int = 1) -> None:
        self.bucket, self.apart = bucket, apart
        self.rows = np.zeros((rows, bucket.size + extra), dtype)
        self._places = {member: (start, stop) for member, start, stop in bucket.spans()}
        self.times = dict.fromkeys(bucket.members, 0)
        self._weights = dict.fromkeys(bucket.members, 0.0)
        self.weight = 0.0

    @property
    def flat(self) -> np.ndarray:
        """The gradients and what rides behind them, where all are in one row."""
        return self.rows[0]

    @property
    def nbytes(self) -> int:
        """Bytes of a row."""
        return self.rows[0].nbytes

    @property
    def extra(self) -> np.ndarray:
        """Numbers that ride behind the gradients."""
        return self.rows[0, self.bucket.size :]

    def pack(self, member: int, gradient: np.ndarray | None, weight: float) -> None:
        """Put in ``weight`` times the gradient; None, and a weight of 0, is zeros."""
        times = self.times[member]
        self.times[member] += 1
        self._weights[member] += weight
        if self.apart and times == len(self.rows):
            self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
        place = self._place(member, times if self.apart else 0)
        fresh = self.apart or times == 0
        if gradient is None or weight == 0:
            if fresh:
                place.fill(0)
            return
        if is_short(place.dtype):
            pack_short(bits(np.ascontiguousarray(gradient).reshape(-1)), SINGLE.type(weight), bits(place), fresh)
            return
        place = place.reshape(gradient.shape)
        with np.errstate(all="ignore"):  # whether NumPy raises is each rank's own affair; the others wait
            if fresh:
                np.multiply(gradient, weight, out=place, dtype=place.dtype, casting="unsafe")
            else:
                place += np.multiply(gradient, weight, dtype=place.dtype)

    def close(self) -> np.ndarray:
        """Zeros for all that did not come; the rows that are to be summed. The next step begins afresh."""
        rows = max(1, *self.times.values())
        self.weight = max(self._weights.values())
        for member, times in self.times.items():
            for row in range(times, rows if self.apart else 1):
                self._place(member, row).fill(0)
            self.times[member], self._weights[member] = 0, 0.0
        return self.rows[: rows if self.apart else 1]

    def _place(self, member: int, row: int) -> np.ndarray:
        start, stop = self._places[member]
        return self.rows[row, start:stop]


@njit(nogil=True, cache=True, error_model="numpy")
def pack_short(gradient, weight, place, fresh):
    """place ← weight·gradient, or added to it, in 16 bits: NumPy's cast is slow where numbers are small."""
    for i in range(place.size):
        number = np.float32(weight * np.float32(widened(gradient[i])))
        if not fresh:
            number += widened(place[i])
        keep_short(place, i, number)
