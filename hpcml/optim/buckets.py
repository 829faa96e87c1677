"""Which gradients travel together, and which part of them each rank owns. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hpcml.optim.norms import BLOCK
from hpcml.optim.precision import working


class Bucket(NamedTuple):
    """Arrays side by side in a flat one. members: their positions; starts: where each begins; size: items in all."""

    members: tuple[int, ...]
    starts: tuple[int, ...]
    size: int
    dtype: np.dtype

    def spans(self) -> list[tuple[int, int, int]]:
        """Of each member its position, and where it begins and ends."""
        return list(zip(self.members, self.starts, (*self.starts[1:], self.size), strict=True))

    def cuts(self, ranks: int) -> list[int]:
        """Where the part of each rank begins, and the size: as even as possible without cutting a block of `norms`."""
        blocks = [np.arange(start, stop, BLOCK) for _, start, stop in self.spans()]
        allowed = np.unique(np.concatenate([*blocks, [0, self.size]]))
        wanted = np.arange(ranks + 1) * (self.size / ranks)
        return allowed[np.abs(allowed - wanted[:, None]).argmin(axis=1)].tolist()


def buckets(arrays: Sequence[np.ndarray], nbytes: int) -> list[Bucket]:
    """Buckets for gradients of ``arrays``, each of one dtype, at most ``nbytes``, or one array that is longer.

    The last arrays are in the first bucket: a backward pass comes to them first.
    """
    groups: list[list[int]] = []
    open_group: dict[np.dtype, tuple[list[int], int]] = {}
    for i in reversed(range(len(arrays))):
        dtype = working(arrays[i].dtype)
        length = arrays[i].size * dtype.itemsize
        group, filled = open_group.get(dtype, ([], 0))
        if not group or filled + length > nbytes:
            group, filled = [], 0
            groups.append(group)
        group.append(i)
        open_group[dtype] = group, filled + length
    return [_bucket(arrays, group) for group in groups]


def _bucket(arrays: Sequence[np.ndarray], group: list[int]) -> Bucket:
    members = sorted(group)
    ends = np.cumsum([arrays[i].size for i in members]).tolist()
    return Bucket(tuple(members), (0, *ends[:-1]), ends[-1], working(arrays[members[0]].dtype))
