"""Features over ranks: each has some of them, of the rows of all ranks; for wide data, whose histograms are long.

Nothing of histograms is sent. Once, each row's bins go to the ranks of their features, (p − 1)/p · d bytes a row; for
each tree the integers of all rows to all ranks, (p − 1)/p · 8 bytes a row; and where a node is split, the rank that has
the feature tells the others which rows go left, a bit a row.
"""

from __future__ import annotations

import numpy as np
from mpi4py import MPI
from numba import njit

from hpcml import collectives as hc
from hpcml.models.trees.binning import Binned


def by_features(binned: Binned, lengths: list[int], everyones: list[int], comm: MPI.Intracomm) -> Binned:
    """The bins of this rank's features for the rows of all ranks. Collective.

    lengths: how many features each rank has; everyones: how many rows.
    """
    rows, own = len(binned.rows), lengths[comm.rank]
    sent = np.ascontiguousarray(binned.columns).reshape(-1)  # feature after feature, so rank after rank
    came, _ = hc.alltoallv(sent, [length * rows for length in lengths], comm=comm)
    columns = np.empty((own, sum(everyones)), np.uint8)
    first = 0
    for theirs in everyones:
        columns[:, first : first + theirs] = came[own * first : own * (first + theirs)].reshape(own, theirs)
        first += theirs
    return Binned(binned.edges, np.ascontiguousarray(columns.T), columns)


def exchanged_sides(
    mine: list[np.ndarray], owners: list[int], lengths: list[int], comm: MPI.Intracomm
) -> tuple[list[np.ndarray], int]:
    """Which rows go left (rows,) bool, of each node in turn, and the bytes this rank sent. Collective.

    mine: those of the nodes that this rank owns, in turn. owners, lengths: of all nodes: the rank, and how many rows.
    """
    nbytes = [(length + 7) // 8 for length in lengths]
    counts = [sum(n for n, owner in zip(nbytes, owners, strict=True) if owner == r) for r in range(comm.size)]
    packed = np.concatenate([np.empty(0, np.uint8), *(np.packbits(one) for one in mine)])
    everyones = hc.allgather(packed, comm=comm, counts=counts)
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    sides = []
    for length, n, owner in zip(lengths, nbytes, owners, strict=True):
        start = starts[owner]
        sides.append(np.unpackbits(everyones[start : start + n], count=length).astype(np.bool_))
        starts[owner] += n
    return sides, (comm.size - 1) * packed.nbytes


@njit(nogil=True, cache=True)
def part_by(left, rows, begin, spare):
    """Put those of ``rows[begin:begin + len(left)]`` first that go ``left``, and return where the others begin."""
    place, others = begin, 0
    for i in range(len(left)):
        row = rows[begin + i]
        if left[i]:
            rows[place] = row
            place += 1
        else:
            spare[others] = row
            others += 1
    rows[place : place + others] = spare[:others]
    return place


@njit(nogil=True, cache=True)
def of_rank(rows, begins, ends, first, count, out, out_begins, out_ends):
    """Of each leaf the rows from ``first`` on, ``count`` of them, as numbers of their rank's rows; ``out`` (count,)."""
    found = 0
    for leaf in range(len(begins)):
        out_begins[leaf] = found
        for i in range(begins[leaf], ends[leaf]):
            row = rows[i] - first
            if 0 <= row < count:
                out[found] = row
                found += 1
        out_ends[leaf] = found
