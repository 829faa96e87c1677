"""Binomial trees: ⌈lg p⌉ rounds, in each of which everybody who has (or wants) something halves the distance.

With ranks counted from the root, the parent of r is r without its lowest set bit. The subtree of r is a contiguous run
of ranks, so a message is one run of blocks. Thakur, Rabenseifner, Gropp (2005), sections 3.1 and 4.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hpcml.collectives.schedule import (
    REPLACE,
    RIGHT,
    Blocks,
    Exchange,
    Finish,
    Rank,
    Schedule,
    ceil_log2,
    exchange_one_way,
    only_if,
)

EVERYTHING = Blocks(0, 1)


def reduce(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Children's data are folded on the way up. ⌈lg p⌉ rounds; every rank but the root sends n bytes once."""
    for distance in _up(size):
        upper, lower = _ends(rank, size, root, distance)
        yield exchange_one_way(lower, (rank - distance) % size, upper, (rank + distance) % size, EVERYTHING, RIGHT)
    yield Finish(Blocks(0, np.where(rank == root, 1, 0)))


def broadcast(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """⌈lg p⌉ rounds; the root sends n bytes in each."""
    for distance in reversed(list(_up(size))):
        upper, lower = _ends(rank, size, root, distance)
        yield exchange_one_way(upper, (rank + distance) % size, lower, (rank - distance) % size, EVERYTHING, REPLACE)


def allreduce(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Reduce to rank 0, then broadcast. 2⌈lg p⌉ rounds, ≤ n·⌈lg p⌉ bytes at the root."""
    yield from reduce(rank, size, root, segments)
    yield from broadcast(rank, size, root, segments)


def scatter(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Block r goes from the root to rank r; a parent hands on the blocks of a whole subtree.

    ⌈lg p⌉ rounds, (p−1)/p·n bytes at the root.
    """
    for distance in reversed(list(_up(size))):
        upper, lower = _ends(rank, size, root, distance)
        child = np.where(upper, (rank + distance) % size, rank)
        subtree = _subtree(child, size, root, distance)
        yield exchange_one_way(upper, child, lower, (rank - distance) % size, subtree, REPLACE)


def gather(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Block r goes from rank r to the root: scatter backwards. ⌈lg p⌉ rounds; (p−1)/p·n bytes arrive at the root."""
    for distance in _up(size):
        upper, lower = _ends(rank, size, root, distance)
        child = np.where(upper, (rank + distance) % size, rank)
        subtree = _subtree(child, size, root, distance)
        yield (Exchange(only_if(lower, (rank - distance) % size), subtree, only_if(upper, child), subtree, REPLACE),)


def _up(size: int) -> Iterator[int]:
    """Distances from the leaves to the root: 1, 2, 4, …"""
    return (1 << step for step in range(ceil_log2(size)))


def _ends(rank: Rank, size: int, root: int, distance: int) -> tuple[Rank, Rank]:
    """Whether I am the upper, or the lower, end of an edge of this length."""
    place = (rank - root) % size
    upper = (place % (2 * distance) == 0) & (place + distance < size)
    lower = place % (2 * distance) == distance
    return upper, lower


def _subtree(child: Rank, size: int, root: int, distance: int) -> Blocks:
    place = (child - root) % size
    return Blocks(child, np.minimum(distance, size - place))
