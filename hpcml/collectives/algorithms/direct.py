"""Direct: the root exchanges with every rank itself, in one round. Best where messages are large or ranks are few."""

from __future__ import annotations

from hpcml.collectives.schedule import REPLACE, Blocks, Exchange, Rank, Schedule, only_if


def scatter(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Block r goes from the root to rank r. One round, (p−1)/p·n bytes at the root."""
    if size > 1:
        yield tuple(
            Exchange(
                only_if(rank == root, (root + i) % size),
                Blocks((root + i) % size, 1),
                only_if(rank == (root + i) % size, root),
                Blocks((root + i) % size, 1),
                REPLACE,
            )
            for i in range(1, size)
        )


def gather(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Block r goes from rank r to the root. One round; (p−1)/p·n bytes arrive at the root."""
    for round_ in scatter(rank, size, root, segments):
        yield tuple(Exchange(e.source, e.recv_blocks, e.dest, e.send_blocks, e.fold) for e in round_)
