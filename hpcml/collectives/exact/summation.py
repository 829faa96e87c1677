"""The exact sum, or mean, over ranks of arrays of floats: what is prepared once for a shape, a data type and an op."""

from __future__ import annotations

import numpy as np

from hpcml.collectives.exact.direct import Direct
from hpcml.collectives.exact.terms import Terms
from hpcml.collectives.exact.wide import Wide
from hpcml.collectives.request import Steps

DIRECT = 1 << 10  # bytes per rank from which each rank sums a part of the data; below, the number of messages counts
SLAB = 512 << 10  # bytes per rank of what is summed at a time, so that what arrives for it stays in the caches


class Summation:
    """Sums of ``count`` reals. ``algorithm`` "auto" chooses the way; a name sums accumulators by that algorithm.

    said: the call in words, the same on every rank. asks: see `Wide`. Kept per communicator, and made in the same order
    on every rank, as a `Binding` is.
    """

    def __init__(self, terms: Terms, algorithm: str, count: int, said: str, asks: bool):
        self.said = said
        self.wanted = terms.wanted
        self.nbytes = count * terms.works.itemsize
        self._terms, self.count = terms, count
        size = terms.channel.size
        self._slab = SLAB * size // terms.works.itemsize
        widths = {min(self._slab, count), count % self._slab} - {0}
        direct = size == 1 or (algorithm == "auto" and self.nbytes >= DIRECT * size)
        self._direct = {width: Direct(terms, width) for width in sorted(widths)} if direct else {}
        self._wide = Wide(terms, algorithm, widths, asks)

    def steps(self, rows: np.ndarray, target: np.ndarray) -> Steps:
        """Sum ``rows``, shape (V, count), C-contiguous reals, over all ranks into ``target``, shape (count,), where it
        is wanted; it may be the memory of a single row."""
        for begin in range(0, self.count, self._slab):
            end = min(begin + self._slab, self.count)
            part, given, start = target[begin:end], rows, begin
            if rows.dtype != self._terms.works:
                given, start = rows[:, begin:end].astype(self._terms.works, order="C"), 0
            direct = self._direct.get(end - begin)
            if direct is None or not (yield from direct.steps(given, start, part)):
                yield from self._wide.steps(given, start, part, start + end - begin)
