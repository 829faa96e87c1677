"""Exact quantiles of groups of numbers over all ranks, by radix selection.

A float64 becomes an unsigned integer that orders as it does. In each of eight rounds, of one byte each from the highest
on, every rank adds the weights of its candidates by that byte, for each group; one all-reduce sums them; and the byte
of the quantile is the first at which the sum reaches what is wanted. 2 KiB a group and round, however many numbers
there are. Where a number ends just at the level, the quantile is the middle between it and the next (definition 2 of
Hyndman, Fan 1996; of an even number of numbers the median): one round more, of 8 bytes a group.
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
    """For each of ``many`` groups the number below and above which lie ``level`` and 1 − ``level`` of its weight.

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
            up = level * totals
            whole = np.abs(up - np.rint(up)) <= 1e-12 * totals  # a level as 0.7 is none of 10 numbers', but for this
            wanted = np.maximum(1, np.where(whole, np.rint(up), np.ceil(up))).astype(np.int64)
        up_to = sums.cumsum(axis=1)
        digit = (up_to < wanted[:, None]).sum(axis=1).clip(max=255)
        before = np.where(digit > 0, up_to[np.arange(many), digit - 1], 0)
        wanted -= before
        found |= digit.astype(np.uint64) << np.uint64(8 * byte)
        last = wanted == np.take_along_axis(sums, digit[:, None], axis=1)[:, 0]
    low = unordered(found)
    between = last & whole & (up > 0) & (up < totals)
    if between.any():  # alike on all ranks
        above = np.full(many, np.inf)
        _next(keys, numbers, groups, parts, found, above)
        hc.allreduce(above, op="min", out=above, comm=comm)
        low[between] = low[between] / 2 + above[between] / 2
    return np.where(empty, 0.0, low)


@njit(nogil=True, cache=True)
def _next(keys, numbers, groups, parts, found, above):
    """above[g] = the least number of group g beyond ``found[g]``."""
    for i in range(len(keys)):
        group = groups[i]
        if parts[i] > 0 and keys[i] > found[group]:
            above[group] = min(above[group], numbers[i])


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
