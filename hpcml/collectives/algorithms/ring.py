"""The ring: every rank sends to its right neighbour only, 1/p of the data at a time.

Bandwidth-optimal for any number of ranks; 2(p−1) rounds of latency, so it is for large arrays. Patarasuk and Yuan,
"Bandwidth optimal all-reduce algorithms for clusters of workstations", JPDC 69 (2009).

The data are p chunks of ``segments`` blocks. A segment can be folded while the next one is on its way, which hides the
time of the fold.
"""

from __future__ import annotations

from hpcml.collectives.schedule import REPLACE, RIGHT, Blocks, Exchange, Finish, Rank, Round, Schedule


def reduce_scatter(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Chunk r, reduced, ends on rank r. p−1 rounds, (p−1)/p·n bytes sent per rank."""
    for step in range(size - 1):
        yield _step(rank, size, segments, sent=rank - 1 - step, fold=RIGHT)
    yield Finish(Blocks(rank * segments, segments))


def allgather(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Chunk r, held by rank r, ends on every rank. p−1 rounds, (p−1)/p·n bytes sent per rank."""
    for step in range(size - 1):
        yield _step(rank, size, segments, sent=rank - step, fold=REPLACE)


def allreduce(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Reduce-scatter, then allgather. 2(p−1) rounds, 2(p−1)/p·n bytes sent per rank."""
    yield from reduce_scatter(rank, size, root, segments)
    yield from allgather(rank, size, root, segments)


def _step(rank: Rank, size: int, segments: int, sent: Rank, fold: int) -> Round:
    """Pass chunk ``sent`` to the right; the one before it comes from the left."""
    right, left = (rank + 1) % size, (rank - 1) % size
    outgoing, incoming = sent % size * segments, (sent - 1) % size * segments
    return tuple(Exchange(right, Blocks(outgoing + s, 1), left, Blocks(incoming + s, 1), fold) for s in range(segments))
