"""The MPI library's own collectives, as a user of mpi4py calls them on equal parts."""

from __future__ import annotations

from collections.abc import Callable

from mpi4py import MPI

from hpcml.bench.data import Data

# What a user would take; reduce_scatter has a second function that does the same on equal parts.
FUNCTIONS = {
    "allreduce": "Allreduce",
    "reduce": "Reduce",
    "broadcast": "Bcast",
    "scatter": "Scatter",
    "gather": "Gather",
    "allgather": "Allgather",
    "reduce_scatter": "Reduce_scatter_block",
    "alltoall": "Alltoall",
    "scan": "Scan",
    "exscan": "Exscan",
    "barrier": "Barrier",
}


def bound(function: str, data: Data, comm: MPI.Intracomm) -> Callable[[], object]:
    """A call of ``comm``'s method of that name that takes nothing, with everything it needs made beforehand."""
    x, out, op = data.x, data.out, data.op.mpi
    method = getattr(comm, function)
    root = comm.rank == 0
    if function in ("Allreduce", "Reduce_scatter_block", "Scan", "Exscan"):
        return lambda: method(x, out, op)
    if function == "Reduce":
        target = out if root else None
        return lambda: method(x, target, op)
    if function == "Reduce_scatter":
        counts = [data.part] * comm.size
        return lambda: method(x, out, counts, op)
    if function == "Bcast":
        return lambda: method(x)
    if function == "Gather":
        target = out if root else None
        return lambda: method(x, target)
    if function == "Scatter":
        source = x if root else None
        return lambda: method(source, out)
    if function in ("Allgather", "Alltoall"):
        return lambda: method(x, out)
    return method
