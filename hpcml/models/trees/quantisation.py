"""Gradients as integers, whose sums are exact in any order.

A gradient g becomes ⌊g/unit + u⌋ with u uniform in [0, 1): unbiased, so that the errors of many rows cancel (Shi, Ke,
Chen, Zheng, Liu 2022, "Quantized training of gradient boosting decision trees", section 4). u is a hash of the row's
global number and a key, so the same on any number of ranks. The units are the largest magnitudes, a maximum over all
rows, over as many steps as keep the sums of all rows within 31 bits.
"""

from __future__ import annotations

from math import factorial
from typing import NamedTuple

import numpy as np
from mpi4py import MPI
from numba import njit, uint64

from hpcml import collectives as hc

#: Below so many bits a gradient gets two integers of its own instead of half of one.
LEAST_PACKED_BITS = 9
MOST_PACKED_BITS = 24
#: The probability that a Poisson(1) number is at most 0, 1, 2, …
POISSON = np.cumsum([np.exp(-1) / factorial(k) for k in range(20)])
MOST_BITS = 40  # of one that has an integer of its own


class Units(NamedTuple):
    """What one step of the integers stands for."""

    gradient: float
    hessian: float


def packed_bits(rows: int) -> int:
    """Bits of a packed gradient, without its sign: the sum over so many rows stays within 31; 0 if that is too few."""
    bits = min(MOST_PACKED_BITS, 31 - int(max(rows, 1) - 1).bit_length())
    return bits if bits >= LEAST_PACKED_BITS else 0


def channel_bits(rows: int) -> int:
    """Bits of one that has an integer of its own: sums of so many stay exact as float64, too."""
    return min(MOST_BITS, 53 - int(max(rows, 1) - 1).bit_length())


def key_of(seed: int, iteration: int) -> int:
    """A key of 64 bits for the draws of one iteration."""
    return int(np.random.SeedSequence((seed, iteration + 1)).generate_state(1, np.uint64)[0] >> np.uint64(1))


@njit(inline="always")
def mixed(number):
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): 64 bits that look random."""
    number = (number ^ (number >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> uint64(27))) * uint64(0x94D049BB133111EB)
    return number ^ (number >> uint64(31))


def units_of(gradients: np.ndarray, hessians: np.ndarray | None, bits: int, comm: MPI.Intracomm) -> Units:
    """The units for float32 gradients (n,) and hessians (n,), or None where they are all 1. Collective."""
    mine = np.array([largest(gradients), 0.0 if hessians is None else largest(hessians)], np.float64)
    top = hc.allreduce(mine, op="max", comm=comm)
    steps = float((1 << bits) - 1)
    return Units(top[0] / steps or 1.0, 1.0 if hessians is None else top[1] / steps or 1.0)


def integers(
    gradients: np.ndarray, hessians: np.ndarray | None, units: Units, first: int, key: int, out: np.ndarray
) -> None:
    """The integers of each row: out (n,) packed, or (n, 3) as channels. ``first``: the global number of row 0."""
    arguments = gradients, gradients if hessians is None else hessians, hessians is None
    fill = _pack if out.ndim == 1 else _spread
    fill(*arguments, 1 / units.gradient, 1 / units.hessian, first, np.uint64(key), out)


@njit(nogil=True, cache=True)
def largest(numbers):
    top = np.float32(0)
    for i in range(len(numbers)):
        top = max(top, abs(numbers[i]))
    return top


@njit(inline="always")
def _rounded(number, per_unit, bits24):
    return np.int64(np.floor(number * per_unit + float(bits24) * 2.0**-24))


@njit(inline="always")
def _bits(row, key):
    return mixed(mixed(uint64(row) + uint64(0x9E3779B97F4A7C15)) + key)


def poisson(first: int, key: int, rows: int) -> np.ndarray:
    """How often each row is drawn (n,) int64: Poisson(1), by the rows' global numbers."""
    chances = np.empty(rows)
    uniform(first, np.uint64(key), chances)
    return np.searchsorted(POISSON, chances, side="right").astype(np.int64)


@njit(nogil=True, cache=True)
def uniform(first, key, out):
    """out[i] uniform in [0, 1), float64, by the row's global number ``first + i`` and the key (uint64)."""
    for i in range(len(out)):
        out[i] = float(_bits(first + i, key) >> uint64(11)) * 2.0**-53


@njit(nogil=True, cache=True)
def _pack(gradients, hessians, constant, per_gradient, per_hessian, first, key, out):
    if constant:
        for i in range(len(out)):
            bits = _bits(first + i, key)
            out[i] = (_rounded(gradients[i], per_gradient, bits >> uint64(40)) << 32) + 1
    else:
        for i in range(len(out)):
            bits = _bits(first + i, key)
            h = _rounded(hessians[i], per_hessian, bits & uint64(0xFFFFFF))
            out[i] = (_rounded(gradients[i], per_gradient, bits >> uint64(40)) << 32) + h


@njit(nogil=True, cache=True)
def _spread(gradients, hessians, constant, per_gradient, per_hessian, first, key, out):
    for i in range(len(out)):
        bits = _bits(first + i, key)
        out[i, 0] = _rounded(gradients[i], per_gradient, bits >> uint64(40))
        out[i, 1] = 1 if constant else _rounded(hessians[i], per_hessian, bits & uint64(0xFFFFFF))
        out[i, 2] = 1
