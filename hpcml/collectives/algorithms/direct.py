"""Direct: everybody sends to everybody what is theirs, in one round, and nothing is forwarded.

Best where messages are large or ranks are few. Partners are taken by their distance, so that not all ranks send to the
same one at once, and two ranks seldom exchange large messages with each other, which some transports do in turns.
"""

from __future__ import annotations

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
    backwards,
    only_if,
)


def scatter(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Block r goes from the root to rank r. One round, (p−1)/p·n bytes at the root."""
    if size > 1:
        yield _from_root(rank, size, root)


def gather(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Block r goes from rank r to the root. One round; (p−1)/p·n bytes arrive at the root."""
    if size > 1:
        yield backwards(_from_root(rank, size, root))


def reduce_scatter(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Block r is folded on rank r, in rank order: r − 1, …, 0 to the left of its own, r + 1, …, p − 1 to the right.

    One round, (p−1)/p·n bytes sent per rank.
    """
    if size > 1:
        steps = range(1, size)
        from_left = tuple(_to_block(rank, size, step, LEFT) for step in steps)
        from_right = tuple(_to_block(rank, size, -step, RIGHT) for step in steps)
        yield from_left + from_right
    yield Finish(Blocks(rank, 1))


def allgather(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Block r, held by rank r, ends on every rank. One round, (p−1)/p·n bytes sent per rank."""
    if size > 1:
        yield tuple(
            Exchange((rank + step) % size, Blocks(rank, 1), source, Blocks(source, 1))
            for step in range(1, size)
            for source in [(rank - step) % size]
        )


def allreduce(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Reduce-scatter, then allgather; folds in rank order. 2 rounds, 2(p−1)/p·n bytes sent per rank."""
    yield from reduce_scatter(rank, size)
    yield from allgather(rank, size)


def _to_block(rank: Rank, size: int, step: int, fold: int) -> Exchange:
    """Every rank sends the block of the rank ``step`` further, where there is one."""
    dest, source = (only_if((r >= 0) & (r < size), r) for r in (rank + step, rank - step))
    return Exchange(dest, Blocks(dest, 1), source, Blocks(rank, 1), fold)


def _from_root(rank: Rank, size: int, root: int) -> Round:
    others = [(root + i) % size for i in range(1, size)]
    return tuple(
        Exchange(
            only_if(rank == root, other), Blocks(other, 1), only_if(rank == other, root), Blocks(other, 1), REPLACE
        )
        for other in others
    )
