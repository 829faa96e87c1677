"""The largest numbers of a gradient alone: sparsification with error feedback."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI
from numba import njit

from hpcml import collectives as hc
from hpcml.optim.messages import Message
from hpcml.optim.wire.feedback import Owed, bits_of, unsigned


@dataclass(frozen=True)
class TopK:
    """A rank sends the ``share`` of its numbers that is largest in magnitude, and owes the rest.

    Of each bucket of n numbers the k = max(1, round(share·n)) largest of what is owed and the message together travel
    with their positions in one all-gather, and every rank adds them up in rank order: (p−1)·k·(4 + itemsize) bytes
    sent, for float32 share·p times those of an all-reduce. On one rank as much is left out as on several.

    A number that is not finite counts as the largest of all. Of those of a rank at least one is sent, so that no rank
    misses it in the sum; none is owed.

    ``algorithm`` of `Distributed` is that of the all-gather. Raises ValueError unless 0 < share ≤ 1.

    Sources: Stich, Cordonnier, Jaggi 2018, "Sparsified SGD with memory", algorithm 2; Lin et al. 2018, "Deep gradient
    compression", section 3, without its momentum correction: here the rules see the sum.

    Example::

        opt = optim.Distributed(optim.SGD(params, lr=0.1), wire=optim.TopK(share=0.01))
    """

    share: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"TopK(share={self.share!r}): expected a number above 0 and at most 1")

    def reduction(
        self, message: Message, shapes: list[tuple[int, ...]], comm: MPI.Intracomm, algorithm: str, background: bool
    ) -> Largest:
        size = message.bucket.size
        return Largest(message, min(size, max(1, round(self.share * size))), comm, algorithm, background)


class Largest:
    """The sum of the k largest numbers of each rank, on every rank."""

    def __init__(self, message: Message, k: int, comm: MPI.Intracomm, algorithm: str, background: bool) -> None:
        size, dtype = message.bucket.size, message.rows.dtype
        self.message, self.part = message, (0, size)
        self._k = k
        self._owed = Owed(size, dtype)
        # Magnitudes are sorted by their upper bits: the exponent and three bits of the mantissa.
        self._shift = 20 if dtype.itemsize == 4 else 49
        self._counts = np.zeros(1 << (dtype.itemsize * 8 - 1 - self._shift), np.int64)
        self._infinite = int(bits_of(np.array([np.inf], dtype))[0]) >> self._shift
        index = np.dtype(np.int32 if size <= np.iinfo(np.int32).max else np.int64)
        mine = np.zeros(k * (dtype.itemsize + index.itemsize), np.uint8)
        everybodys = np.zeros(comm.size * mine.size, np.uint8)
        cut = k * dtype.itemsize
        self._values, self._places = mine[:cut].view(dtype), mine[cut:].view(index)
        self._lists = [(row[:cut].view(dtype), row[cut:].view(index)) for row in everybodys.reshape(comm.size, -1)]
        self._plan = hc.plan("allgather", mine, algorithm=algorithm, out=everybodys, comm=comm, background=background)

    def start(self) -> None:
        self.message.close()
        if self.message.weight:
            self._choose()
        else:
            self._values.fill(0)
        self._plan.start()

    def turn(self) -> None:
        """There is one half."""

    def wait(self) -> np.ndarray:
        self._plan.wait()
        total = self.message.flat
        total.fill(0)
        for values, places in self._lists:
            add_at(total, places, values)
        return total

    def _choose(self) -> None:
        """Move the largest numbers from what is owed to what is sent."""
        owed = self._owed.values
        bits = bits_of(owed)
        mask = unsigned(bits)
        count(owed, self._owed.factor(self.message.weight), self.message.flat, bits, mask, self._shift, self._counts)
        sure, candidates = largest(bits, mask, self._shift, self._counts, self._places)
        missing = self._k - sure
        if missing < candidates.size:
            order = np.argpartition(bits[candidates] & mask, candidates.size - missing)
            candidates = candidates[order[candidates.size - missing :]]
        self._places[sure:] = candidates
        np.take(owed, self._places, out=self._values)
        owed[self._places] = 0
        if self._counts[self._infinite :].any():
            owed[~np.isfinite(owed)] = 0


@njit(nogil=True, cache=True, error_model="numpy")
def count(owed, factor, message, bits, mask, shift, counts):
    """owed ← factor·owed + message; how many of them have the same upper bits of their magnitudes, for each of these.

    bits: those of ``owed``; mask: all bits but that of the sign.
    """
    for i in range(owed.size):
        owed[i] = factor * owed[i] + message[i]
    counts[:] = 0
    for i in range(bits.size):
        counts[(bits[i] & mask) >> shift] += 1


@njit(nogil=True, cache=True, error_model="numpy")
def largest(bits, mask, shift, counts, places):
    """Put the places of those numbers first that are surely among the ``places.size`` largest.

    Returns how many these are, and the places of those with the next smaller upper bits, of which the others are some.
    """
    sure, at = 0, counts.size - 1
    while at > 0 and sure + counts[at] < places.size:
        sure += counts[at]
        at -= 1
    candidates = np.empty(counts[at], places.dtype)
    found, close = 0, 0
    for i in range(bits.size):
        upper = (bits[i] & mask) >> shift
        if upper >= at:
            if upper > at:
                places[found] = i
                found += 1
            else:
                candidates[close] = i
                close += 1
    return sure, candidates


@njit(nogil=True, cache=True, error_model="numpy")
def add_at(total, places, values):
    for i in range(places.size):
        total[places[i]] += values[i]
