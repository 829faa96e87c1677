"""Circulant graphs: reduce-scatter and allgather with the least rounds and the least bytes, for any number of ranks.

Träff, "Optimal, non-pipelined reduce-scatter and allreduce algorithms", arXiv 2407.18004 (2024), Algorithms 1 and 2. A
rank is responsible for the s chunks from its own on, all p at first. In each round it keeps the nearer half of them and
sends the farther half to the rank where that begins; as everybody does so, it gets as many from a rank as far behind.

Departure: the first skip is p/2 + 1 where p is even and no power of two, which takes no more rounds. With p/2, two
ranks would exchange their largest messages with each other, which some transports do in turns.
"""

from __future__ import annotations

from itertools import pairwise

from hpcml.collectives.schedule import (
    RIGHT,
    Blocks,
    Exchange,
    Finish,
    Rank,
    Round,
    Schedule,
    backwards,
    in_segments,
)


def reduce_scatter(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Chunk r, reduced, ends on rank r. ⌈lg p⌉ rounds, (p−1)/p·n bytes sent per rank."""
    yield from _halving(rank, size, segments)
    yield Finish(Blocks(rank * segments, segments))


def allgather(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Chunk r, held by rank r, ends on every rank: the reduce-scatter backwards. As many rounds and bytes."""
    yield from map(backwards, reversed(_halving(rank, size, segments)))


def allreduce(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Reduce-scatter, then allgather. 2⌈lg p⌉ rounds, 2(p−1)/p·n bytes sent per rank."""
    yield from reduce_scatter(rank, size, root, segments)
    yield from allgather(rank, size, root, segments)


def _halving(rank: Rank, size: int, segments: int) -> list[Round]:
    """Keep the chunks ``rank`` … ``rank`` + kept − 1 of the reach so far."""
    rounds = []
    for reach, kept in pairwise(_reaches(size)):
        there, back = (rank + kept) % size, (rank - kept) % size
        far, near = Blocks(there, reach - kept), Blocks(rank, reach - kept)
        rounds.append(in_segments(Exchange(there, far, back, near, RIGHT), segments))
    return rounds


def _reaches(size: int) -> list[int]:
    """p, …, 1: how many chunks a rank is responsible for before and after each round; it keeps half or more of them."""
    reaches = [size]
    if size % 2 == 0 and size & (size - 1):
        reaches.append(size // 2 + 1)
    while reaches[-1] > 1:
        reaches.append((reaches[-1] + 1) // 2)
    return reaches
