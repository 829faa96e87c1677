"""The non-blocking calls: each begins the collective of its name and returns a `Request` at once.

Arguments are those of the blocking function. Every rank begins its collectives, of both kinds, in the same order; what
is under way may be completed in any order. A wrong argument is an error on the rank that passed it, at once; calls that
do not fit together are found out while they are waited for. The calls in which ranks' lengths may differ (iscatter,
igather and iallgather without ``counts``, ialltoallv, and axis=0) first wait until every rank has made the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpi4py import MPI

from hpcml.collectives import movement, reduction
from hpcml.collectives.arguments import OpLike
from hpcml.collectives.channel import channel_of
from hpcml.collectives.manner import NONBLOCKING
from hpcml.collectives.request import Request


def iallreduce(
    x: Any,
    op: OpLike = "sum",
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    reproducible: bool = False,
    axis: int | None = None,
    stream: Any = None,
) -> Request:
    """Begin `allreduce`.

    Example::

        under_way = hc.iallreduce(gradient, out=gradient)
        compute_something_else()
        under_way.wait()
    """
    channel = channel_of(comm)
    steps = reduction.allreduce_steps(channel, NONBLOCKING.on(stream), x, op, algorithm, out, reproducible, axis)
    return Request(channel, steps, several=reproducible or axis is not None)


def ireduce(
    x: Any,
    op: OpLike = "sum",
    root: int = 0,
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    reproducible: bool = False,
    stream: Any = None,
) -> Request:
    """Begin `reduce`."""
    channel = channel_of(comm)
    steps = reduction.reduce_steps(channel, NONBLOCKING.on(stream), x, op, root, algorithm, out, reproducible)
    return Request(channel, steps, several=reproducible)


def ireduce_scatter(
    x: Any,
    op: OpLike = "sum",
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    counts: Sequence[int] | None = None,
    stream: Any = None,
) -> Request:
    """Begin `reduce_scatter`."""
    channel = channel_of(comm)
    return Request(
        channel, reduction.reduce_scatter_steps(channel, NONBLOCKING.on(stream), x, op, algorithm, out, counts)
    )


def iscan(
    x: Any,
    op: OpLike = "sum",
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    stream: Any = None,
) -> Request:
    """Begin `scan`."""
    channel = channel_of(comm)
    return Request(channel, reduction.scan_steps(channel, NONBLOCKING.on(stream), "scan", x, op, algorithm, out))


def iexscan(
    x: Any,
    op: OpLike = "sum",
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    stream: Any = None,
) -> Request:
    """Begin `exscan`."""
    channel = channel_of(comm)
    return Request(channel, reduction.scan_steps(channel, NONBLOCKING.on(stream), "exscan", x, op, algorithm, out))


def ibroadcast(
    x: Any, root: int = 0, algorithm: str = "auto", comm: MPI.Comm | None = None, stream: Any = None
) -> Request:
    """Begin `broadcast`."""
    channel = channel_of(comm)
    return Request(channel, movement.broadcast_steps(channel, NONBLOCKING.on(stream), x, root, algorithm))


def iscatter(
    x: Any,
    root: int = 0,
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    counts: Sequence[int] | None = None,
    stream: Any = None,
) -> Request:
    """Begin `scatter`."""
    channel = channel_of(comm)
    return Request(channel, movement.scatter_steps(channel, NONBLOCKING.on(stream), x, root, algorithm, out, counts))


def igather(
    part: Any,
    root: int = 0,
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    counts: Sequence[int] | None = None,
    stream: Any = None,
) -> Request:
    """Begin `gather`."""
    channel = channel_of(comm)
    return Request(
        channel, movement.parts_steps(channel, NONBLOCKING.on(stream), "gather", part, algorithm, out, root, counts)
    )


def iallgather(
    part: Any,
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    counts: Sequence[int] | None = None,
    stream: Any = None,
) -> Request:
    """Begin `allgather`."""
    channel = channel_of(comm)
    return Request(
        channel, movement.parts_steps(channel, NONBLOCKING.on(stream), "allgather", part, algorithm, out, 0, counts)
    )


def ialltoall(
    x: Any, algorithm: str = "auto", out: Any = None, comm: MPI.Comm | None = None, stream: Any = None
) -> Request:
    """Begin `alltoall`."""
    channel = channel_of(comm)
    return Request(channel, movement.alltoall_steps(channel, NONBLOCKING.on(stream), x, algorithm, out))


def ialltoallv(
    x: Any,
    counts: Sequence[int],
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    stream: Any = None,
) -> Request:
    """Begin `alltoallv`."""
    channel = channel_of(comm)
    return Request(channel, movement.alltoallv_steps(channel, NONBLOCKING.on(stream), x, counts, algorithm, out))


def ibarrier(algorithm: str = "auto", comm: MPI.Comm | None = None) -> Request:
    """Begin `barrier`."""
    channel = channel_of(comm)
    return Request(channel, movement.barrier_steps(channel, NONBLOCKING, algorithm))
