"""Recursive doubling of everything: partners at distance 1, 2, 4, … of a power of two of ranks.

Where p is no power of two, the first 2·(p − core) ranks work in pairs: the even one hands its data to the odd one
before and gets the result after, so a core of 2^⌊lg p⌋ ranks does the work, in rank order. Thakur, Rabenseifner,
Gropp, "Optimization of collective communication operations in MPICH", IJHPCA 19 (2005), section 4.5.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hpcml.collectives.schedule import (
    LEFT,
    REPLACE,
    RIGHT,
    Blocks,
    Exchange,
    Finish,
    Rank,
    Round,
    Schedule,
    exchange_one_way,
    only_if,
)


def core_size(size: int) -> int:
    """The largest power of two that is at most ``size``."""
    return 1 << (size.bit_length() - 1)


def doubling_allreduce(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Everything is exchanged and folded at every distance. lg p rounds (+2), n·lg p bytes (+n): for tiny messages."""
    core, everything = core_size(size), Blocks(0, 1)
    yield from _pairs_in(rank, size, everything)
    place = _place(rank, size)
    mask = 1
    while mask < core:
        peer = only_if(place >= 0, _rank_at(place ^ mask, size))
        yield (Exchange(peer, everything, peer, everything, np.where(place & mask, LEFT, RIGHT)),)
        mask *= 2
    yield Finish(Blocks(0, np.where(place >= 0, 1, 0)))
    yield from _pairs_out(rank, size, everything)


def _place(rank: Rank, size: int) -> Rank:
    """My place in the core, 0 … core−1 in rank order; `NONE` for the even rank of a pair."""
    extra = size - core_size(size)
    paired = rank < 2 * extra
    return np.where(paired, np.where(rank % 2, rank // 2, -1), rank - extra)


def _rank_at(place: Rank, size: int) -> Rank:
    extra = size - core_size(size)
    return np.where(place < extra, 2 * place + 1, place + extra)


def _pairs_in(rank: Rank, size: int, everything: Blocks) -> Iterator[Round]:
    paired = rank < 2 * (size - core_size(size))
    if size > core_size(size):
        even, odd = paired & (rank % 2 == 0), paired & (rank % 2 == 1)
        yield exchange_one_way(even, rank + 1, odd, rank - 1, everything, LEFT)


def _pairs_out(rank: Rank, size: int, everything: Blocks) -> Iterator[Round]:
    paired = rank < 2 * (size - core_size(size))
    if size > core_size(size):
        even, odd = paired & (rank % 2 == 0), paired & (rank % 2 == 1)
        yield exchange_one_way(odd, rank - 1, even, rank + 1, everything, REPLACE)
