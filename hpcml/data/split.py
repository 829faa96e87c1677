"""Training, validation and test rows: chosen by global row number and seed, so alike on any number of
ranks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hpcml.data.table import DataError

# Keeps this permutation apart from the ones that order the batches, which come from the same seed.
STREAM = 0x5917


class Split(NamedTuple):
    """Rows of this rank, numbered from 0 here, rising: one array each."""

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_rows(first: int, count: int, total: int, seed: int, *, validation: float, test: float) -> Split:
    """Split `total` rows at random into parts of the given fractions; of each part, the rows that this rank
    holds.

    first, count: the global number of the rank's first row, and how many it holds. The sizes of the parts
    over all ranks are ``round(fraction * total)``. No communication: all ranks draw the same permutation.

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
    order = np.random.default_rng((seed, STREAM)).permutation(total)
    parts = np.split(order, [sizes["test"], sizes["test"] + sizes["validation"]])
    own = [np.sort(part[(part >= first) & (part < first + count)]) - first for part in parts]
    return Split(training=own[2], validation=own[1], test=own[0])
