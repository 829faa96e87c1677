"""An exact sum over ranks without accumulators: every rank gets all summands of its own part of the columns.

In an all-to-all each rank sends 1/p of its data to every other, sums what it gets, and all pass the sums round: as many
bytes as a ring sends, 2(p−1)/p·n, where each rank has one row. Where ranks have any number of rows, each takes its own
exact sums apart into up to three floats first, and sends those; on the number of them the ranks agree.
"""

from __future__ import annotations

import numpy as np

from hpcml.collectives.arguments import split_rows
from hpcml.collectives.arrangement import NOTHING, Arrangement
from hpcml.collectives.arrays import new
from hpcml.collectives.binding import Binding
from hpcml.collectives.exact.accumulator import STORED
from hpcml.collectives.exact.kernels import PARTS, TOO_MANY, sum_rows, take_apart
from hpcml.collectives.exact.terms import INTEGERS, Terms, real
from hpcml.collectives.ops import OPS
from hpcml.collectives.request import Steps


class Direct:
    """``count`` sums a run."""

    def __init__(self, terms: Terms, count: int):
        channel, dtype = terms.channel, terms.works
        self._terms, self._size, self._count = terms, channel.size, count
        self._stored, self._integers = np.int64(STORED[dtype]), INTEGERS[dtype.itemsize]
        counts = split_rows(count, channel.size)
        self._mine = counts[channel.rank]
        self._exchange = Binding(channel, "alltoall", "auto", None, dtype, counts * channel.size, native=False)
        delivery = "allgather" if terms.collective == "allreduce" else "gather"
        # native=False: all of them may run in the background.
        self._deliver = Binding(channel, delivery, "auto", None, real(terms.dtype), counts, terms.root, native=False)
        self._agree = Binding(channel, "allreduce", "recursive_doubling", OPS["sum"], np.dtype(np.int64), (TOO_MANY,))
        self._spare: list[np.ndarray] = []  # memory for what arrives; several runs may be under way

    def steps(self, rows: np.ndarray, start: int, target: np.ndarray) -> Steps:
        """Sum the columns from ``start`` on of ``rows``, shape (V, n), C-contiguous, over all ranks, into ``target``.

        Returns False, on every rank, where some rank's own sum does not fit into as many floats as may be sent: then
        nothing is written.
        """
        terms, size = self._terms, self._size
        if size == 1:
            target[...] = terms.finished(self._sums(rows, start, self._count), len(rows))
            return True
        sent, total = rows[:, start : start + self._count], size
        if terms.rows_differ:
            sent, total = yield from self._taken_apart(rows, start)
            if len(sent) > PARTS:
                return False
        room = (PARTS if terms.rows_differ else 1) * size * self._mine
        memory = self._spare.pop() if self._spare else new((room,), terms.works)
        arrived = memory[: len(sent) * size * self._mine].reshape(len(sent) * size, self._mine)
        yield [
            Arrangement(self._exchange, part, arrived[k * size : (k + 1) * size].reshape(-1), None)
            for k, part in enumerate(sent)
        ]
        mine = terms.finished(self._sums(arrived, 0, self._mine), total)
        self._spare.append(memory)
        yield [Arrangement(self._deliver, mine, target if terms.wanted else NOTHING, None)]
        return True

    def _sums(self, rows: np.ndarray, start: int, count: int) -> np.ndarray:
        sums = np.empty(count, self._terms.works)
        integers = self._integers
        sum_rows(rows, rows.view(integers), start, sums, sums.view(integers), self._stored, self._terms.odd)
        return sums

    def _taken_apart(self, rows: np.ndarray, start: int) -> Steps:
        """This rank's sums as rows of parts, as many as the longest sum of any rank takes; and all ranks' rows."""
        parts = np.empty((TOO_MANY, self._count), self._terms.works)
        integers = parts.view(self._integers)
        needed = take_apart(rows, rows.view(self._integers), start, parts[:PARTS], integers[:PARTS], self._stored)
        told = np.array([len(rows), *(needed > k for k in range(1, TOO_MANY))], np.int64)
        yield [Arrangement(self._agree, told, told, None)]
        return parts[: 1 + np.count_nonzero(told[1:])], int(told[0])
