"""An exact sum over ranks as a sum of integers: by any algorithm, in one all-reduce where there is little to sum."""

from __future__ import annotations

import numpy as np

from hpcml.collectives.arrangement import NOTHING, Arrangement
from hpcml.collectives.arrays import new
from hpcml.collectives.binding import Binding
from hpcml.collectives.exact.accumulator import STORED
from hpcml.collectives.exact.limbs import Window, fill, round_all, whole, window_of
from hpcml.collectives.exact.terms import INTEGERS, Terms
from hpcml.collectives.ops import OPS
from hpcml.collectives.request import Steps

_INT64 = np.dtype(np.int64)
SLAB = 32 << 10  # items that are accumulators at a time
WHOLE = 8 << 10  # bytes of accumulators that are sent whole rather than asked first which limbs they need


class Wide:
    """Sums of accumulators (`limbs`), 10 int64s an item for float32, 67 for float64, by ``algorithm``.

    Where that is much, the ranks first agree on which limbs their data touch, usually three to five: one small
    all-reduce more. ``asks`` says whether they may: a binding is made for what they agree on, and only calls that are
    done one after the other make theirs in the same order on every rank. The others' are made now, for runs over as
    many columns as one of ``counts``.
    """

    def __init__(self, terms: Terms, algorithm: str, counts: set[int], asks: bool):
        self._terms, self._algorithm, self._asks = terms, algorithm, asks
        self._stored = STORED[terms.works]
        self._integers = INTEGERS[terms.works.itemsize]
        self._extremes = Binding(terms.channel, "allreduce", "recursive_doubling", OPS["max"], _INT64, (3,))
        self._bindings: dict[int, Binding] = {}
        for count in sorted({min(count, SLAB) for count in counts} | {count % SLAB for count in counts}):
            if not self._is_asked(count):
                self._binding(count * whole(self._stored).columns + 1)

    def steps(self, rows: np.ndarray, start: int, target: np.ndarray, stop: int) -> Steps:
        """Sum the columns start … stop − 1 of ``rows``, shape (V, n), over all ranks, into ``target``."""
        for begin in range(start, stop, SLAB):
            end = min(begin + SLAB, stop)
            yield from self._slab(rows[:, begin:end], target[begin - start : end - start])

    def _slab(self, rows: np.ndarray, target: np.ndarray) -> Steps:
        count, stored = rows.shape[1], self._stored
        bits = np.ascontiguousarray(rows).view(self._integers)
        window = (yield from self._agreed(window_of(bits, stored))) if self._is_asked(count) else whole(stored)
        message = new((count * window.columns + 1,), _INT64)
        accumulators = message[:-1].reshape(count, window.columns)
        fill(bits, accumulators, window.first, window.width, np.int64(stored))
        message[-1] = len(rows)
        wanted = self._terms.wanted
        yield [Arrangement(self._binding(len(message)), message, message if wanted else NOTHING, None)]
        if wanted:
            sums = np.empty(count, self._terms.works)
            found = sums.view(self._integers)
            round_all(accumulators, window.first, window.width, found, np.int64(stored), self._terms.odd)
            target[...] = self._terms.finished(sums, int(message[-1]))

    def _is_asked(self, count: int) -> bool:
        return self._asks and count * whole(self._stored).columns * 8 > WHOLE

    def _agreed(self, mine: Window) -> Steps:
        """The least window that holds every rank's."""
        told = np.array([-mine.first, mine.last, mine.marked], np.int64)
        yield [Arrangement(self._extremes, told, told, None)]
        first, last, marked = told.tolist()
        return Window(-first, last, bool(marked))

    def _binding(self, length: int) -> Binding:
        """For so many int64s."""
        if length not in self._bindings:
            terms = self._terms
            self._bindings[length] = Binding(
                terms.channel,
                terms.collective,
                self._algorithm,
                OPS["sum"],
                _INT64,
                (length,),
                terms.root,
                native=False,
            )
        return self._bindings[length]
