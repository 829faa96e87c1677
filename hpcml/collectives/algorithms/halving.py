"""Recursive halving and doubling, for any number of ranks: ⌈lg p⌉ rounds, and no rank moves a byte more than it must.

A group of ranks is cut into a lower and an upper half. Each rank sends what it has of the other half's chunks to one
rank over there, so that afterwards each half has everything about its own chunks; then the halves are cut in turn.
Rabenseifner, "Optimization of collective reduction operations", ICCS 2004; Thakur, Rabenseifner, Gropp (2005).

Departures. Where a group is odd, its lower half has one rank more. There the messages are cut: the i-th rank of the
lower half sends i chunks to the (i−1)-th of the upper half and the others to the i-th, and the j-th rank of the upper
half sends j + 1 chunks to the (j+1)-th of the lower and the others to the j-th, so that everybody sends and receives
as many chunks as the other half has ranks. And whom a rank of the upper half sends to is turned by half the lower half,
as two ranks that exchange large messages with each other do so in turns on some transports.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hpcml.collectives.algorithms import binomial
from hpcml.collectives.schedule import (
    RIGHT,
    Blocks,
    Exchange,
    Finish,
    Rank,
    Round,
    Schedule,
    backwards,
    ceil_log2,
    in_segments,
    only_if,
)


def reduce_scatter(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Chunk r, reduced, ends on rank r. ⌈lg p⌉ rounds, (p−1)/p·n bytes sent per rank."""
    yield from halve(rank, size, segments)
    yield Finish(Blocks(rank * segments, segments))


def allgather(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Chunk r, held by rank r, ends on every rank: recursive doubling, as many rounds and bytes."""
    yield from map(backwards, reversed(halve(rank, size, segments)))


def allreduce(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Rabenseifner's algorithm: reduce-scatter, then allgather. 2⌈lg p⌉ rounds, 2(p−1)/p·n bytes sent per rank."""
    yield from reduce_scatter(rank, size, root, segments)
    yield from allgather(rank, size, root, segments)


def reduce(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Reduce-scatter, then a binomial gather. 2⌈lg p⌉ rounds; 2(p−1)/p·n bytes arrive at the root."""
    yield from reduce_scatter(rank, size)
    yield from binomial.gather(rank, size, root)


def halve(rank: Rank, size: int, segments: int = 1) -> list[Round]:
    """The rounds of the reduce-scatter, without its end: blocks are folded, not finished."""
    rounds = []
    first, ranks = rank - rank, rank - rank + size  # my group
    for level in range(ceil_log2(size)):
        lower = (ranks + 1) // 2
        sizes = {size >> level, -(-size >> level)}  # of all groups
        cuts = (0, 1) if any(n % 2 and n > 1 for n in sizes) else (0,)
        pieces = [_exchange(rank, first, lower, ranks - lower, cut) for cut in cuts]
        rounds.append(tuple(e for piece in pieces for e in in_segments(piece, segments)))
        below = rank < first + lower
        first, ranks = np.where(below, first, first + lower), np.where(below, lower, ranks - lower)
    return rounds


class _Message(NamedTuple):
    origin: Rank
    dest: Rank
    first: Rank
    count: Rank


def _exchange(rank: Rank, first: Rank, lower: Rank, upper: Rank, cut: int) -> Exchange:
    """What ``rank`` sends and receives in a group of ``lower`` ranks from ``first`` on and ``upper`` ranks above them.

    cut: 0 for what is sent to the rank of the same number over there, 1 for the chunks cut off where the group is odd.
    """
    middle, odd, turn = first + lower, lower - upper, lower // 2
    below = rank < middle
    # The messages of this piece that are mine at one end: number i sends one up, number j sends one down.
    i = np.where(below, rank - first, rank - middle + cut)
    j = np.where(below, (rank - first - turn) % lower - cut, rank - middle)
    up = _message(first + i, middle + i - cut, middle, upper, odd * i, cut)
    down = _message(middle + j, first + (j + cut + turn) % lower, first, lower, odd * (j + 1), cut)
    mine = _Message(*(np.where(below, a, b) for a, b in zip(up, down, strict=True)))
    theirs = _Message(*(np.where(below, b, a) for a, b in zip(up, down, strict=True)))
    return Exchange(mine.dest, Blocks(mine.first, mine.count), theirs.origin, Blocks(theirs.first, theirs.count), RIGHT)


def _message(origin: Rank, dest: Rank, first: Rank, count: Rank, off: Rank, cut: int) -> _Message:
    """Of ``count`` chunks from ``first`` on, the ``off`` that are cut off, or the others; nobody sends none."""
    at, count = (first, off) if cut else (first + off, count - off)
    return _Message(only_if(count > 0, origin), only_if(count > 0, dest), at, count)
