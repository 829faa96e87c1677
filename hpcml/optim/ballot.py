"""What the ranks tell each other in every step beside the gradients: a few numbers, summed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

#: A weight travels as whole-number digits to this base: float32 sums of them are exact on up to 4096 ranks.
BASE = 4096
DIGITS = 4
LIMIT = BASE**DIGITS  # of a weight
LENGTH = 3 + DIGITS + 1  # numbers before the caller's own


class Ballot(NamedTuple):
    """failed: how many ranks' arguments are wrong; finished: how many have no more samples; rows: virtual shards."""

    failed: float
    finished: float
    rows: float
    weight: float
    values: np.ndarray

    def write(self, place: np.ndarray) -> None:
        """Put it into `LENGTH` + len(values) floats."""
        place[:LENGTH] = [self.failed, self.finished, self.rows, *split(self.weight)]
        place[LENGTH:] = self.values

    @classmethod
    def read(cls, place: np.ndarray) -> Ballot:
        """The sum of those that were written."""
        failed, finished, rows, *digits = place[:LENGTH].tolist()
        return cls(failed, finished, rows, joined(digits), place[LENGTH:].astype(np.float64))


def split(weight: float) -> list[float]:
    """``weight`` < 2⁴⁸ as whole-number digits to base 4096, lowest first, and its fraction."""
    whole = math.floor(weight)
    return [*(float(whole // BASE**k % BASE) for k in range(DIGITS)), weight - whole]


def joined(digits: list[float]) -> float:
    """The number, or sum of numbers, that was ``split``; digits that carry (are 4096 or more) are welcome.

    >>> joined(split(16777217.5))
    16777217.5
    """
    return math.fsum([*(digit * BASE**k for k, digit in enumerate(digits[:DIGITS])), digits[DIGITS]])
