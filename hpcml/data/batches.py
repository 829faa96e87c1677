"""The global order of rows: batches cut from one seeded permutation, whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isqrt

import numpy as np

# With 4 or 6 rounds some orders of fewer than 30 rows come visibly more often than others; with 10 none does.
ROUNDS = 10


class Batches:
    """Which rows each rank contributes to each batch.

    The rows of a data set are numbered globally: those of rank 0 first, ``counts[r]`` on rank r. In every
    epoch they are put in the order of a permutation that ``seed`` and the epoch determine, and cut into
    batches of ``batch_size`` rows (the last may be smaller). A rank takes those rows of a batch that it
    holds: any number, also none. So the batches hold the same rows on any number of ranks.

    Nothing is communicated, and a rank computes the places of its own rows only: time O(n log n) and memory
    O(n) for n rows here, however many there are elsewhere.

    Attributes: ``rows``, globally; ``steps``, batches per epoch; ``largest``, a bound on this rank's rows
    in a batch.

    >>> batches = Batches(counts=[3, 2], rank=1, batch_size=2, seed=0)
    >>> [(size, len(mine)) for size, mine in batches.epoch(0)]
    [(2, 0), (2, 1), (1, 1)]
    """

    def __init__(self, counts: Sequence[int], rank: int, batch_size: int, seed: int) -> None:
        self.rows = sum(counts)
        self.batch_size = batch_size
        self.seed = seed
        self.steps = -(-self.rows // batch_size)
        self.largest = min(batch_size, counts[rank])
        self._first, self._count = sum(counts[:rank]), counts[rank]

    def epoch(self, epoch: int) -> Iterator[tuple[int, np.ndarray]]:
        """For each batch: how many rows it has globally, and the local numbers (int64) of those held here."""
        mine = np.arange(self._first, self._first + self._count, dtype=np.uint64)
        places = permuted(mine, self.rows, (self.seed, epoch))
        order = np.argsort(places, kind="stable")
        cuts = np.searchsorted(places[order], np.arange(self.steps + 1, dtype=np.uint64) * np.uint64(self.batch_size))
        for step in range(self.steps):
            size = min(self.batch_size, self.rows - step * self.batch_size)
            yield size, order[cuts[step] : cuts[step + 1]]


def permuted(numbers: np.ndarray, size: int, seed: tuple[int, ...]) -> np.ndarray:
    """Where a permutation of 0 … size − 1, chosen by ``seed``, sends ``numbers`` (uint64, below ``size``).

    A Feistel network over pairs (l, r) with l, r < a = ⌈√size⌉, of rounds (l, r) → (r, l + F(r) mod a),
    permutes 0 … a² − 1; what it sends to ``size`` or beyond is sent on until it falls below (cycle walking:
    at most one number in √size/2 needs it). Black & Rogaway 2002, "Ciphers with arbitrary finite domains",
    sections 3 and 4. F mixes with SplitMix64 (Steele, Lea, Flood 2014), keyed from NumPy's SeedSequence,
    whose stream is fixed for good.
    """
    side = np.uint64(isqrt(max(size - 1, 0)) + 1)
    keys = np.random.SeedSequence(seed).generate_state(ROUNDS, np.uint64)
    places = _feistel(numbers, side, keys)
    beyond = np.flatnonzero(places >= size)
    while beyond.size:
        places[beyond] = _feistel(places[beyond], side, keys)
        beyond = beyond[places[beyond] >= size]
    return places


def _feistel(numbers: np.ndarray, side: np.uint64, keys: np.ndarray) -> np.ndarray:
    left, right = numbers // side, numbers % side
    for key in keys:
        # Scaling 32 mixed bits to 0 … side − 1, and subtracting, cost a third of two remainders.
        mixed = ((_mixed(right, key) >> np.uint64(32)) * side) >> np.uint64(32)
        mixed += left
        left, right = right, mixed - side * (mixed >= side)
    return left * side + right


def _mixed(numbers: np.ndarray, key: np.uint64) -> np.ndarray:
    """SplitMix64's finaliser of ``numbers + key``; array arithmetic on uint64 wraps, as it should."""
    mixed = numbers + key
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
