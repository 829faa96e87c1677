"""What a collective is measured on: the arrays that all candidates share, and the result that each must give."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from hpcml.collectives.ops import REDUCTIONS, Op

IN_PARTS = ("scatter", "gather", "allgather", "reduce_scatter", "alltoall")  # of which ranks hold equal parts


def whole_bytes(collective: str, nbytes: int, itemsize: int, ranks: int) -> int:
    """The bytes of the whole array: ``nbytes``, rounded to at least one item, and to one a rank where parts are equal.

    Equal parts are what ``MPI_Allgather`` and its kin take, which have more algorithms than those with counts.
    """
    if collective == "barrier":
        return 0
    unit = itemsize * ranks if collective in IN_PARTS else itemsize
    return max(round(nbytes / unit), 1) * unit


class Data:
    """The arrays of this rank for one size, made once for all candidates: ``x`` is passed, ``out`` takes the result.

    whole: items of the whole array, nbytes: its size. part: items that each rank has of it where ranks hold parts.
    """

    def __init__(self, collective: str, nbytes: int, dtype: np.dtype, op: Op, comm: MPI.Intracomm):
        self.collective, self.op, self.comm = collective, op, comm
        self.whole = whole_bytes(collective, nbytes, dtype.itemsize, comm.size) // dtype.itemsize
        self.part = self.whole // comm.size
        self.nbytes = self.whole * dtype.itemsize
        given = self.part if collective in ("gather", "allgather") else self.whole
        taken = self.part if collective in ("scatter", "reduce_scatter") else self.whole
        self.x = np.ones(given, dtype)
        self.out = self.x if collective == "broadcast" else np.zeros(taken, dtype)

    def refresh(self) -> None:
        """Write the input anew."""
        self.x[...] = 1

    def number(self) -> None:
        """Give every item of every rank a small number that tells where it comes from, and forget the result."""
        self.out[...] = 0
        self.x[...] = self._numbers(self.comm.rank)

    def right(self, result: np.ndarray) -> bool:
        """Whether ``result`` is what the collective makes on this rank of what `number` wrote."""
        found, expected = np.ravel(result), self._expected()
        return expected is None or (found.shape == expected.shape and bool((found == expected).all()))

    def _numbers(self, rank: int) -> np.ndarray:
        items = np.arange(len(self.x))
        return (1 + items % 5 + rank % 3).astype(self.x.dtype)

    def _expected(self) -> np.ndarray | None:
        rank, size = self.comm.rank, self.comm.size
        given = [self._numbers(r) for r in range(size)]
        if self.collective in ("scan", "exscan"):
            given = given[: rank + (self.collective == "scan")]
        if not given or (self.collective in ("reduce", "gather") and rank != 0) or self.collective == "barrier":
            return None
        if self.collective in REDUCTIONS:
            assert self.op.ufunc is not None
            given = [self.op.ufunc.reduce(given, axis=0, dtype=self.x.dtype)]
        if self.collective in ("scatter", "reduce_scatter"):
            return given[0][rank * self.part : (rank + 1) * self.part]
        if self.collective == "alltoall":
            return np.concatenate([x[rank * self.part : (rank + 1) * self.part] for x in given])
        return np.concatenate(given) if self.collective in ("gather", "allgather") else given[0]
