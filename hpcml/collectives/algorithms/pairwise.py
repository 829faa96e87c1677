"""Pairwise all-to-all: p − 1 rounds, in each of which everybody sends one block to where it belongs.

Nothing is forwarded, so no algorithm moves fewer bytes; Thakur, Rabenseifner, Gropp (2005). In round i
rank r sends to r + i and receives from r − i. Partners r xor i, which exist for powers of two, would send and receive
large messages on the same connection, and transports are slower there.
"""

from __future__ import annotations

from hpcml.collectives.schedule import Blocks, Exchange, Rank, Schedule


def alltoall(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Block s·p + d goes from rank s to rank d. p − 1 rounds, (p−1)/p·n bytes sent per rank."""
    for distance in range(1, size):
        dest, source = (rank + distance) % size, (rank - distance) % size
        yield (Exchange(dest, Blocks(rank * size + dest, 1), source, Blocks(source * size + rank, 1)),)
