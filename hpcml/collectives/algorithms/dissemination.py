"""Dissemination: in round t everyone tells the rank 2^t further on all that it has heard.

Hensgen, Finkel, Manber, "Two algorithms for barrier synchronization", IJPP 17 (1988).
"""

from __future__ import annotations

from hpcml.collectives.schedule import REPLACE, Blocks, Exchange, Rank, Schedule, ceil_log2


def barrier(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """⌈lg p⌉ rounds. Block r is the news that rank r has arrived; it has no bytes."""
    for step in range(ceil_log2(size)):
        distance = 1 << step
        heard = min(distance, size - distance)
        there, back = (rank + distance) % size, (rank - distance) % size
        yield (
            Exchange(
                there, Blocks((rank - heard + 1) % size, heard), back, Blocks((back - heard + 1) % size, heard), REPLACE
            ),
        )
