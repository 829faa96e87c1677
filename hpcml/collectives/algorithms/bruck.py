"""Bruck's algorithms: ⌈lg p⌉ rounds for any number of ranks, in each of which everybody sends 2^t ranks further.

Bruck, Ho, Kipnis, Upfal, Weathersby, "Efficient algorithms for all-to-all communications in multiport message-passing
systems", IEEE TPDS 8 (1997), section 3. Their rotations before and after only move blocks to where one message can take
them; here blocks have names, and what is not side by side is packed.
"""

from __future__ import annotations

import numpy as np

from hpcml.collectives.schedule import Blocks, Exchange, Listed, Rank, Schedule, ceil_log2


def allgather(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Block r, held by rank r, ends on every rank; what a rank holds doubles in each round, from its own block on.

    ⌈lg p⌉ rounds, (p−1)/p·n bytes sent per rank.
    """
    for step in range(ceil_log2(size)):
        distance = 1 << step
        count = min(distance, size - distance)
        there, back = (rank - distance) % size, (rank + distance) % size
        yield (Exchange(there, Blocks(rank, count), back, Blocks(back, count)),)


def alltoall(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """A block that has to go j ranks further goes 2^t ranks in each round t that is a bit of j. For small messages.

    ⌈lg p⌉ rounds, at most ⌈p/2⌉ blocks in each: about n/2·lg p bytes sent per rank.
    """
    for step in range(ceil_log2(size)):
        distance = 1 << step
        there, back = (rank + distance) % size, (rank - distance) % size
        yield (Exchange(there, _passed_on(rank, size, step), back, _passed_on(back, size, step)),)


def _passed_on(rank: Rank, size: int, step: int) -> Listed:
    """The blocks that leave ``rank`` in this round: of each journey with this bit, the one that has come here."""
    journeys = np.arange(size)
    journeys = journeys[(journeys >> step) & 1 == 1]
    origin = (np.expand_dims(rank, -1) - journeys % (1 << step)) % size
    return Listed(origin * size + (origin + journeys) % size)


def alltoall_volume(size: int) -> int:
    """Blocks that a rank sends: the bits in 0 … p−1."""
    return sum(journey.bit_count() for journey in range(size))
