"""Collectives as a careful user writes them on NumPy arrays with mpi4py's point-to-point calls, in Python."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mpi4py import MPI

from hpcml.bench.data import Data

SEGMENT = 128 << 10  # bytes


def bound(data: Data, comm: MPI.Intracomm) -> Callable[[], object] | None:
    """The call that takes nothing, and leaves its result in ``data.out``; None for a collective not written here."""
    if data.collective not in ("allreduce", "reduce_scatter", "allgather", "alltoall", "broadcast"):
        return None
    if data.collective == "broadcast":
        return _chain(data.x, comm)
    if data.collective == "alltoall":
        return _pairwise(data, comm)
    return _ring(data, comm)


def _ring(data: Data, comm: MPI.Intracomm) -> Callable[[], object]:
    """Blocks go round, folded at each rank, until every rank has one complete; then complete ones go round."""
    rank, size, x, out, fold = comm.rank, comm.size, data.x, data.out, data.op.ufunc
    right, left = (rank + 1) % size, (rank - 1) % size
    work = out if data.collective != "reduce_scatter" else np.empty_like(x)
    blocks = np.array_split(work, size)
    spare = np.empty_like(blocks[0])

    def folded() -> None:
        """Rank r ends with block r complete."""
        work[...] = x
        for step in range(size - 1):
            sent, taken = blocks[(rank - step - 1) % size], blocks[(rank - step - 2) % size]
            came = spare[: len(taken)]
            comm.Sendrecv(sent, right, recvbuf=came, source=left)
            fold(taken, came, out=taken)  # type: ignore[misc]

    def gathered() -> None:
        for step in range(size - 1):
            comm.Sendrecv(blocks[(rank - step) % size], right, recvbuf=blocks[(rank - step - 1) % size], source=left)

    def allreduce() -> None:
        folded()
        gathered()

    def allgather() -> None:
        blocks[rank][...] = x
        gathered()

    def reduce_scatter() -> None:
        folded()
        out[...] = blocks[rank]

    return {"allreduce": allreduce, "allgather": allgather, "reduce_scatter": reduce_scatter}[data.collective]


def _chain(x: np.ndarray, comm: MPI.Intracomm) -> Callable[[], object]:
    """From each rank to the next in segments, so that all links are busy."""
    rank, last = comm.rank, comm.size - 1
    step = max(SEGMENT // x.itemsize, 1)
    segments = [x[start : start + step] for start in range(0, len(x), step)]

    def call() -> None:
        sending = MPI.REQUEST_NULL
        for segment in segments:
            if rank > 0:
                comm.Recv(segment, rank - 1)
            if rank < last:
                sending.Wait()
                sending = comm.Isend(segment, rank + 1)
        sending.Wait()

    return call


def _pairwise(data: Data, comm: MPI.Intracomm) -> Callable[[], object]:
    rank, size = comm.rank, comm.size
    sent, taken = np.split(data.x, size), np.split(data.out, size)

    def call() -> None:
        taken[rank][...] = sent[rank]
        for step in range(1, size):
            to, source = (rank + step) % size, (rank - step) % size
            comm.Sendrecv(sent[to], to, recvbuf=taken[source], source=source)

    return call
