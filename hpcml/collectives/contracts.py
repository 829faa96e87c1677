"""What a collective promises, as two predicates over (rank, block): who holds what before, and after.

The blocks of a collective in which each rank has a part of its own are split evenly among the ranks in rank order: with
m blocks on p ranks, blocks r·m/p … (r+1)·m/p − 1 are rank r's. In an all-to-all there are p² blocks: block s·p + d is
what rank s has for rank d.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hpcml.collectives.schedule import Rank

Held = np.ndarray  # bool, of shape (blocks,) for one rank, (size, blocks) for ranks of shape (size, 1)


@dataclass(frozen=True)
class Contract:
    """``before`` and ``after``: ``(rank, size, blocks, root)`` to booleans, one a block.

    ``rank`` is an int, or ``everybody(size)`` for all ranks at once. reduces: a block held before is one rank's
    contribution, and one held after is the fold of all of them. rooted: ``root`` means something. prefix: where a rank
    ends with the fold of the first few ranks only, ``(rank, size)`` to how many those are.
    """

    before: Callable[[Rank, int, int, int], Held]
    after: Callable[[Rank, int, int, int], Held]
    reduces: bool = False
    rooted: bool = False
    prefix: Callable[[Rank, int], Rank] | None = None


def everybody(size: int) -> np.ndarray:
    """All ranks, as a column."""
    return np.arange(size)[:, None]


def _everywhere(rank: Rank, size: int, blocks: int, root: int) -> Held:
    return (rank >= 0) & np.ones(blocks, bool)


def _at_root(rank: Rank, size: int, blocks: int, root: int) -> Held:
    return (rank == root) & np.ones(blocks, bool)


def _own(rank: Rank, size: int, blocks: int, root: int) -> Held:
    return rank == np.arange(blocks) * size // max(blocks, 1)


def _meant_for(rank: Rank, size: int, blocks: int, root: int) -> Held:
    return rank == np.arange(blocks) % size


def _but_first(rank: Rank, size: int, blocks: int, root: int) -> Held:
    return (rank > 0) & np.ones(blocks, bool)


CONTRACTS = {
    "allreduce": Contract(_everywhere, _everywhere, reduces=True),
    "reduce": Contract(_everywhere, _at_root, reduces=True, rooted=True),
    "reduce_scatter": Contract(_everywhere, _own, reduces=True),
    "broadcast": Contract(_at_root, _everywhere, rooted=True),
    "scatter": Contract(_at_root, _own, rooted=True),
    "gather": Contract(_own, _at_root, rooted=True),
    "allgather": Contract(_own, _everywhere),
    "alltoall": Contract(_own, _meant_for),
    "scan": Contract(_everywhere, _everywhere, reduces=True, prefix=lambda rank, size: rank + 1),
    "exscan": Contract(_everywhere, _but_first, reduces=True, prefix=lambda rank, size: rank),
    "barrier": Contract(_own, _everywhere),
}
