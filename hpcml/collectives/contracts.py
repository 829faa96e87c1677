"""What a collective promises, as two predicates over (rank, block): who holds what before, and after.

The blocks of a collective in which each rank has a part of its own are split evenly among the ranks in rank order: with
m blocks on p ranks, blocks r·m/p … (r+1)·m/p − 1 are rank r's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Held = np.ndarray  # bool, shape (size, blocks)


@dataclass(frozen=True)
class Contract:
    """``before`` and ``after``: ``(size, blocks, root)`` to a boolean array of shape (size, blocks).

    reduces: a block held before is one rank's contribution, and one held after is the fold of all of them.
    rooted: ``root`` means something, so it is proved for more roots than 0.
    """

    before: Callable[[int, int, int], Held]
    after: Callable[[int, int, int], Held]
    reduces: bool = False
    rooted: bool = False


def everywhere(size: int, blocks: int, root: int) -> Held:
    return np.ones((size, blocks), bool)


def at_root(size: int, blocks: int, root: int) -> Held:
    return np.broadcast_to(np.arange(size)[:, None] == root, (size, blocks))


def own(size: int, blocks: int, root: int) -> Held:
    owner = np.arange(blocks) * size // max(blocks, 1)
    return np.arange(size)[:, None] == owner[None, :]


CONTRACTS = {
    "allreduce": Contract(everywhere, everywhere, reduces=True),
    "reduce": Contract(everywhere, at_root, reduces=True, rooted=True),
    "reduce_scatter": Contract(everywhere, own, reduces=True),
    "broadcast": Contract(at_root, everywhere, rooted=True),
    "scatter": Contract(at_root, own, rooted=True),
    "gather": Contract(own, at_root, rooted=True),
    "allgather": Contract(own, everywhere),
    "barrier": Contract(own, everywhere),
}
