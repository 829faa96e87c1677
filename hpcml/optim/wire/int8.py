"""Gradients in 8 bits: blocks of whole numbers with a scale, with error feedback on both sides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI
from numba import njit

from hpcml import collectives as hc
from hpcml.optim.messages import Message
from hpcml.optim.wire.feedback import Owed, bits_of, unsigned

LARGEST = 127  # whole numbers from −127 to 127
SMALLEST = np.float32(np.finfo(np.float32).tiny)  # a scale below it has too few digits: what it is for is owed


@dataclass(frozen=True)
class Int8:
    """A rank sends its numbers in blocks of at most ``block``: whole numbers of 8 bits, times a float32 scale.

    The scale is max|x|/127 over the block, and numbers are rounded to nearest. An all-to-all brings each rank its part
    of the messages of all, which it sums in rank order and rounds again; an all-gather brings the sums to everybody.
    A rank owes what it rounded off its own message, and what it rounded off the sum of its part. Sent are
    2(p−1)/p·n·(1 + 4/block) bytes, and 2(p−1)·8. On one rank numbers are rounded as on several.

    Blocks with a number that is not finite become NaN on every rank; nothing is owed for them.

    ``algorithm`` of `Distributed` is that of the all-gather. Raises ValueError unless ``block`` is a whole number of at
    least 1.

    Sources: Seide et al. 2014, "1-bit stochastic gradient descent", section 3, for feedback and the two halves; Tang et
    al. 2019, "DoubleSqueeze", for feedback on the sum.

    Example::

        opt = optim.Distributed(optim.Adam(params), wire=optim.Int8())
    """

    block: int = 256

    def __post_init__(self) -> None:
        if not isinstance(self.block, int) or self.block < 1:
            raise ValueError(f"Int8(block={self.block!r}): expected a whole number of at least 1")

    def reduction(
        self, message: Message, shapes: list[tuple[int, ...]], comm: MPI.Intracomm, algorithm: str, background: bool
    ) -> Rounded:
        return Rounded(message, self.block, comm, algorithm, background)


class Rows:
    """Parts of messages as they travel, one in each row of bytes: the weight of the message, scales, numbers.

    Attributes: ``memory`` (rows, bytes); ``weights`` (rows, 1), float64; ``scales`` (rows, blocks), float32;
    ``codes`` (rows, blocks·width), int8.
    """

    def __init__(self, rows: int, blocks: int, width: int) -> None:
        codes = 8 + 4 * blocks
        end = codes + blocks * width
        self.memory = np.zeros((rows, -(-end // 8) * 8), np.uint8)  # so that every row is aligned
        self.weights = self.memory[:, :8].view(np.float64)
        self.scales = self.memory[:, 8:codes].view(np.float32)
        self.codes = self.memory[:, codes:end].view(np.int8)


class Rounded:
    """The sum of rounded messages, rounded again, on every rank."""

    def __init__(self, message: Message, block: int, comm: MPI.Intracomm, algorithm: str, background: bool) -> None:
        size, dtype, ranks = message.bucket.size, message.rows.dtype, comm.size
        self.message, self.part = message, (0, size)
        # Every rank has a part of equally many blocks, all of one width, at most that asked for.
        blocks = -(-size // (ranks * block))
        self._width = -(-size // max(1, ranks * blocks))
        length = blocks * self._width
        self._parts = [slice(min(size, r * length), min(size, (r + 1) * length)) for r in range(ranks)]
        mine = self._parts[comm.rank]
        self._sum = np.zeros(mine.stop - mine.start, dtype)
        self._owed, self._owed_to_all = Owed(size, dtype), Owed(self._sum.size, dtype)
        self._sent, self._received = Rows(ranks, blocks, self._width), Rows(ranks, blocks, self._width)
        self._mine, self._everybodys = Rows(1, blocks, self._width), Rows(ranks, blocks, self._width)
        self._first = hc.plan(
            "alltoall", self._sent.memory, out=self._received.memory, comm=comm, background=background
        )
        self._second = hc.plan(
            "allgather",
            self._mine.memory,
            algorithm=algorithm,
            out=self._everybodys.memory,
            comm=comm,
            background=background,
        )

    def start(self) -> None:
        self.message.close()
        weight = self.message.weight
        self._sent.weights.fill(weight)
        if weight:
            factor = self._owed.factor(weight)
            for r, part in enumerate(self._parts):
                self._round(self.message.flat[part], self._owed.values[part], factor, self._sent, r)
        else:
            self._sent.scales.fill(0)
        self._first.start()

    def turn(self) -> None:
        """Sum what came for this rank's part; send the sum to everybody."""
        self._first.wait()
        self._sum.fill(0)
        self._add(self._received, range(len(self._parts)), self._sum)
        weight = float(self._received.weights.sum())
        if weight:
            self._round(self._sum, self._owed_to_all.values, self._owed_to_all.factor(weight), self._mine, 0)
        else:
            self._mine.scales.fill(0)
        self._second.start()

    def wait(self) -> np.ndarray:
        self._second.wait()
        total = self.message.flat
        total.fill(0)
        for r, part in enumerate(self._parts):
            self._add(self._everybodys, [r], total[part])
        return total

    def _round(self, message: np.ndarray, owed: np.ndarray, factor: np.floating, rows: Rows, row: int) -> None:
        bits = bits_of(owed)
        encode(message, owed, factor, bits, unsigned(bits), self._width, rows.scales[row], rows.codes[row])

    def _add(self, rows: Rows, chosen: Iterable[int], total: np.ndarray) -> None:
        for row in chosen:
            add(rows.scales[row], rows.codes[row], self._width, total)


@njit(nogil=True, cache=True, error_model="numpy")
def encode(message, owed, factor, bits, mask, width, scales, codes):
    """owed ← factor·owed + message, rounded to ``codes`` times the ``scales`` of their blocks; what is left is owed.

    bits: those of ``owed``; mask: all bits but that of the sign. Maxima of integers, unlike those of floats, are found
    as vectors; and they see what is not finite, which is larger than any number.
    """
    peak = np.empty(1, owed.dtype)
    peak_bits = peak.view(bits.dtype)
    for block in range(scales.size):
        here = slice(block * width, (block + 1) * width)
        items, added, items_bits, found = owed[here], message[here], bits[here], codes[here]
        for i in range(items.size):
            items[i] = factor * items[i] + added[i]
        largest = mask & 0
        for i in range(items.size):
            largest = max(largest, items_bits[i] & mask)
        peak_bits[0] = largest
        scale = np.float32(peak[0] / LARGEST)
        if not np.isfinite(scale):
            scales[block] = np.nan
            found[:] = 0
            items[:] = 0
        elif scale < SMALLEST:
            scales[block] = 0
            found[:] = 0
        else:
            scales[block] = scale
            inverse = 1 / peak.dtype.type(scale)
            for i in range(items.size):
                number = np.rint(items[i] * inverse)
                found[i] = np.int8(np.int32(number))
                items[i] -= peak.dtype.type(scale) * number


@njit(nogil=True, cache=True, error_model="numpy")
def add(scales, codes, width, total):
    """total ← total + codes·scales, of each block."""
    for block in range(scales.size):
        scale = total.dtype.type(scales[block])
        here = slice(block * width, (block + 1) * width)
        items, found = total[here], codes[here]
        for i in range(items.size):
            items[i] += scale * total.dtype.type(found[i])
