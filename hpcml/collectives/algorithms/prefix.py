"""Scans by recursive doubling: what a rank has folds twice as many ranks after each round.

Hillis and Steele, "Data parallel algorithms", CACM 29 (1986). ⌈lg p⌉ rounds, n bytes in each, folds in rank order.
"""

from __future__ import annotations

import numpy as np

from hpcml.collectives.schedule import LEFT, Blocks, Exchange, Finish, Rank, Schedule, ceil_log2, only_if

EVERYTHING = Blocks(0, 1)


def scan(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Rank r ends with the fold of ranks 0 … r. ⌈lg p⌉ rounds, at most n·⌈lg p⌉ bytes sent per rank."""
    yield from _doubling(rank, size, first=0)
    yield Finish(EVERYTHING)


def exscan(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Rank r ends with the fold of ranks 0 … r−1, rank 0 with nothing. A shift by one rank, then a scan of the others.

    1 + ⌈lg (p−1)⌉ rounds, n bytes in each.
    """
    if size > 1:
        yield (Exchange(only_if(rank < size - 1, rank + 1), EVERYTHING, only_if(rank > 0, rank - 1), EVERYTHING),)
        yield from _doubling(rank, size, first=1)
    yield Finish(Blocks(0, np.where(rank > 0, 1, 0)))


def _doubling(rank: Rank, size: int, first: int) -> Schedule:
    """The scan of the ranks from ``first`` on. After round t a rank has the fold of the last 2^(t+1) up to it."""
    for step in range(ceil_log2(size - first)):
        distance = 1 << step
        dest = only_if((rank >= first) & (rank + distance < size), rank + distance)
        yield (Exchange(dest, EVERYTHING, only_if(rank - distance >= first, rank - distance), EVERYTHING, LEFT),)
