"""Broadcast as a scatter and an allgather: nobody sends much more than 2n bytes, in lg p + p − 1 rounds.

van de Geijn's algorithm; Thakur, Rabenseifner, Gropp (2005), section 4.2.
"""

from __future__ import annotations

from hpcml.collectives.algorithms import binomial, ring
from hpcml.collectives.schedule import Rank, Schedule


def broadcast(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Binomial scatter of p blocks, then the ring. 2(p−1)/p·n bytes at the root."""
    yield from binomial.scatter(rank, size, root)
    yield from ring.allgather(rank, size, root)
