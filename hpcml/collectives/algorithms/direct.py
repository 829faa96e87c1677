"""Direct: the root exchanges with every rank itself, in one round. Best where messages are large or ranks are few."""

from __future__ import annotations

from hpcml.collectives.schedule import REPLACE, Blocks, Exchange, Rank, Round, Schedule, only_if


def scatter(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Block r goes from the root to rank r. One round, (p−1)/p·n bytes at the root."""
    if size > 1:
        yield _from_root(rank, size, root)


def gather(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Block r goes from rank r to the root. One round; (p−1)/p·n bytes arrive at the root."""
    if size > 1:
        yield tuple(
            Exchange(e.source, e.recv_blocks, e.dest, e.send_blocks, e.fold) for e in _from_root(rank, size, root)
        )


def _from_root(rank: Rank, size: int, root: int) -> Round:
    others = [(root + i) % size for i in range(1, size)]
    return tuple(
        Exchange(
            only_if(rank == root, other), Blocks(other, 1), only_if(rank == other, root), Blocks(other, 1), REPLACE
        )
        for other in others
    )
