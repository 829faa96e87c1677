"""Training, validation and test rows: the same ones for a seed on any number of ranks, each class in its share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.data.batches import permuted

# Batches are ordered by the permutations of (seed, epoch); the split takes the one of an epoch never reached.
STREAM = 2**32 - 1


class Split(NamedTuple):
    """Rows of this rank, numbered from 0 here, rising: one array each."""

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_rows(
    labels: np.ndarray, first: int, total: int, seed: int, comm: MPI.Comm, *, validation: float, test: float
) -> Split:
    """Split the rows at random by fractions, class by class, so that every part has the classes in the same
    proportion: of a class with n rows, ``test * n``, rounded, are for the test.

    labels: (rows,) of this rank; first: the global number of its first row; total: the rows of all ranks.
    Which part a row is in depends on the seed and on its global number. Collective: about log2(total)
    all-reduces of a count per class; no rank sees more than its own rows.

    Raises CollectiveError for fractions that leave no row to train on, and for a fraction above 0 that gives
    no row.
    """
    places = permuted(np.arange(first, first + len(labels), dtype=np.uint64), total, (seed, STREAM))
    classes = np.array(sorted(set().union(*comm.allgather(set(np.unique(labels).tolist())))))
    codes = np.searchsorted(classes, labels)
    sizes = hc.allreduce(np.bincount(codes, minlength=len(classes)), comm=comm)
    wanted = {"test": np.floor(test * sizes + 0.5), "validation": np.floor(validation * sizes + 0.5)}
    for name, part in (("test", test), ("validation", validation)):
        if part > 0 and wanted[name].sum() == 0:
            raise hc.CollectiveError(
                f"--{name} {part} of {total} rows in {len(classes)} classes is no row; give a larger part, or 0"
            )
    if test + validation >= 1 or sum(wanted.values()).sum() >= total:
        raise hc.CollectiveError(f"--test {test} and --validation {validation} leave none of {total} rows to train on")
    # In each class the rows with the first places are for the test, those with the next ones for validation.
    cuts = _cuts(codes, places.astype(np.int64), np.cumsum([*wanted.values()], axis=0), total, comm)
    part = (places >= cuts[0, codes]).astype(int) + (places >= cuts[1, codes])
    return Split(*(np.flatnonzero(part == number) for number in (2, 1, 0)))


def _cuts(codes: np.ndarray, places: np.ndarray, wanted: np.ndarray, total: int, comm: MPI.Comm) -> np.ndarray:
    """For each class c and each count of ``wanted[:, c]``, the least cut below which that many rows of the
    class have their places, over all ranks. Found for all at once by bisection."""
    begins = np.arange(wanted.shape[1]) * total
    keys = np.sort(codes * total + places)  # by class, then by place
    before = np.searchsorted(keys, begins)
    low, high = np.zeros(wanted.shape, np.int64), np.full(wanted.shape, total)
    while (low < high).any():
        middle = (low + high) // 2
        below = hc.allreduce(np.searchsorted(keys, begins + middle) - before, comm=comm)
        enough = below >= wanted
        high = np.where(enough, middle, high)
        low = np.where(enough, low, np.minimum(middle + 1, high))
    return high
