"""Flat buffers in which many gradients travel as few messages."""

from __future__ import annotations

from typing import Any

import numpy as np


class Buckets:
    """Gradients of given shapes side by side in flat buffers, filled in order, each of one dtype.

    ``pairs`` are the (name, parameter) whose gradients are to travel. A buffer is closed when the next
    gradient would take it beyond ``nbytes``; a gradient that is larger than that has a buffer of its own.
    ``extra`` numbers ride at the end of the first buffer. Everything is allocated here, and used again in
    every step.

    Attributes: ``messages``, the flat buffers; ``views``, for each gradient its place in them, in its own
    shape; ``extra``, the riding numbers, in the dtype of the first parameter.
    """

    def __init__(self, pairs: list[tuple[Any, np.ndarray]], nbytes: int, extra: int) -> None:
        groups = _grouped([array for _, array in pairs], nbytes)
        self.messages: list[np.ndarray] = []
        views: dict[int, np.ndarray] = {}
        for group in groups:
            sizes = [pairs[i][1].size for i in group]
            riding = 0 if self.messages else extra
            message = np.zeros(sum(sizes) + riding, pairs[group[0]][1].dtype)
            places = np.split(message, np.cumsum(sizes))
            views.update((i, part.reshape(pairs[i][1].shape)) for i, part in zip(group, places, strict=False))
            self.messages.append(message)
        self.views = [views[i] for i in range(len(pairs))]
        self.extra = self.messages[0][self.messages[0].size - extra :]


def _grouped(arrays: list[np.ndarray], nbytes: int) -> list[list[int]]:
    """Positions of arrays that share a buffer: of one dtype, in their order, at most ``nbytes`` together."""
    groups: list[list[int]] = []
    open_group: dict[np.dtype, tuple[list[int], int]] = {}
    for i, array in enumerate(arrays):
        group, filled = open_group.get(array.dtype, ([], 0))
        if not group or filled + array.nbytes > nbytes:
            group, filled = [], 0
            groups.append(group)
        group.append(i)
        open_group[array.dtype] = group, filled + array.nbytes
    return groups
