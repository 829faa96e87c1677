"""Exact quantiles of groups of numbers over all ranks, by radix selection.

A float64 becomes an unsigned integer that orders as it does. In each of eight rounds, of one byte each from the highest
on, every rank adds the weights of its candidates by that byte, for each group; one all-reduce sums them; and the byte
of the quantile is the first at which the sum reaches what is wanted. 2 KiB a group and round, however many numbers
there are.
"""

from __future__ import annotations

import numpy as np
from mpi4py import MPI
from numba import njit, uint64

from hpcml import collectives as hc

TOP = np.uint64(1 << 63)
#: Weights are counted in such parts of the largest: so sums are integers, the same in any order.
PARTS = float(1 << 20)


def quantiles(
    numbers: np.ndarray, groups: np.ndarray, many: int, level: float, weights: np.ndarray | None, comm: MPI.Intracomm
) -> np.ndarray:
    """For each of ``many`` groups the least number with at least ``level`` of the group's weight at or below it.

    Returns (many,). numbers (n,) float64 and groups (n,) int64, those of this rank; weights (n,), or None on all
    ranks for equal ones. A group without numbers gets 0. Collective.
    """
    parts = np.ones(len(numbers), np.int64)
    if weights is not None:
        top = hc.allreduce(np.array([weights.max(initial=0.0)]), op="max", comm=comm)[0]
        parts = np.rint(weights * (PARTS / (top or 1.0))).astype(np.int64)
    keys = ordered(np.ascontiguousarray(numbers, np.float64))
    found = np.zeros(many, np.uint64)
    wanted = np.zeros(many, np.int64)
    empty = np.zeros(many, np.bool_)
    for byte in range(7, -1, -1):
        sums = np.zeros((many, 256), np.int64)
        _count(keys, groups, parts, found, byte, sums)
        hc.allreduce(sums, op="sum", out=sums, comm=comm)
        if byte == 7:
            totals = sums.sum(axis=1)
            empty = totals == 0
            wanted = np.maximum(1, np.ceil(level * totals)).astype(np.int64)
        up_to = sums.cumsum(axis=1)
        digit = (up_to < wanted[:, None]).sum(axis=1).clip(max=255)
        before = np.where(digit > 0, up_to[np.arange(many), digit - 1], 0)
        wanted -= before
        found |= digit.astype(np.uint64) << np.uint64(8 * byte)
    return np.where(empty, 0.0, unordered(found))


def ordered(numbers: np.ndarray) -> np.ndarray:
    """Unsigned integers (n,) that order as the float64 numbers do."""
    bits = numbers.view(np.uint64)
    return np.where(bits & TOP, ~bits, bits | TOP)


def unordered(keys: np.ndarray) -> np.ndarray:
    return np.where(keys & TOP, keys & ~TOP, ~keys).view(np.float64)


@njit(nogil=True, cache=True)
def _count(keys, groups, parts, found, byte, sums):
    """Add the weights of those that agree with what is found above this byte."""
    shift = uint64(8 * byte)
    for i in range(len(keys)):
        above = keys[i] ^ found[groups[i]]
        # A shift by 64 has no meaning: of the highest byte nothing is above.
        if byte == 7 or above >> (shift + uint64(8)) == uint64(0):
            sums[groups[i], (keys[i] >> shift) & uint64(255)] += parts[i]
