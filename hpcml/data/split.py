"""Training, validation and test rows: chosen by global row number and seed, so alike on any number of
ranks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hpcml.data.batches import permuted
from hpcml.data.table import DataError

# Keeps this permutation apart from the ones that order the batches, which come from (seed, epoch).
STREAM = (0, 0x5917)


class Split(NamedTuple):
    """Rows of this rank, numbered from 0 here, rising: one array each."""

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_rows(first: int, count: int, total: int, seed: int, *, validation: float, test: float) -> Split:
    """Split `total` rows at random into parts of the given fractions; of each part, the rows that this rank
    holds.

    first, count: the global number of the rank's first row, and how many it holds. The sizes of the parts
    over all ranks are ``round(fraction * total)``. No communication, and nothing larger than this rank's
    rows.

    Raises DataError for fractions that leave no row to train on, and for a fraction above 0 that gives no
    row.
    """
    sizes = {"test": round(test * total), "validation": round(validation * total)}
    for name, fraction in (("test", test), ("validation", validation)):
        if not 0 <= fraction < 1:
            raise DataError(f"--{name} {fraction}: a fraction of the rows, from 0 to below 1, was expected")
        if fraction > 0 and sizes[name] == 0:
            raise DataError(f"--{name} {fraction} of {total} rows is no row; give a larger fraction, or 0")
    if sum(sizes.values()) >= total:
        raise DataError(f"--test {test} and --validation {validation} leave none of {total} rows to train on")
    places = permuted(np.arange(first, first + count, dtype=np.uint64), total, (seed, *STREAM))
    part = np.searchsorted(np.cumsum([sizes["test"], sizes["validation"]]), places, side="right")
    return Split(*(np.flatnonzero(part == number) for number in (2, 1, 0)))
