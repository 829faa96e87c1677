"""Persistent collectives: bind once, start many times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpi4py import MPI

from hpcml.collectives import movement, reduction, structure
from hpcml.collectives.arguments import OpLike
from hpcml.collectives.arrangement import Arrangement
from hpcml.collectives.channel import Channel, channel_of
from hpcml.collectives.manner import PERSISTENT, PERSISTENT_BACKGROUND, Manner
from hpcml.collectives.queue import Queue
from hpcml.collectives.request import Steps


class Plan:
    """A collective bound to its memory. ``start`` it, ``wait`` for it, and again: what it reads is read at each start.

    Every rank starts its plans in the same order. As a context manager it is closed at the end of the block.
    """

    def __init__(self, channel: Channel, collective: str, arrangement: Arrangement, background: bool = False):
        self._channel, self._arrangement = channel, arrangement
        self._said = f"a plan of {arrangement.binding.said or collective}"
        self._program = arrangement.binding.program(arrangement.source is arrangement.target)
        self._program.bind(arrangement.source, arrangement.target)
        self._plain = arrangement.fresh is None and not arrangement.spread
        self._started = self._complete = self._closed = False
        program, tag = self._program, arrangement.binding.tag
        self._begin = (lambda: program.launch(tag)) if background else program.start
        self.algorithm = arrangement.binding.algorithm
        self.result = arrangement.result

    def start(self) -> None:
        """Begin. The input must not be changed, nor the output read, before `wait` returns."""
        if self._closed or self._channel.freed:
            raise RuntimeError("this plan was closed" if self._closed else "this plan's communicator was freed")
        if self._started:
            raise RuntimeError("this plan was started and not waited for: call wait() before the next start()")
        self._channel.enter(self._said)
        self._started = True
        if not self._plain:
            self._arrangement.refill()
        self._begin()

    def queue(self, queue: Queue) -> None:
        """From now on each start waits for its turn in ``queue``. For a plan in the background; not while it is."""
        self._program.queue(queue)

    def test(self) -> bool:
        """Whether what was started is complete; does not wait. `wait` is called for the result all the same."""
        if not self._started:
            raise RuntimeError("this plan was not started: call start() before test()")
        self._complete = self._complete or self._program.test()
        return self._complete

    def wait(self) -> Any:
        """Complete what was started; return the result, the same array each time."""
        if not self._started:
            raise RuntimeError("this plan was not started: call start() before wait()")
        if not self._complete:
            self._program.wait()
        self._started = self._complete = False
        return self.result if self._plain else self._arrangement.delivered()

    def close(self) -> None:
        """Complete what is under way and let go of the memory; a closed plan cannot be started."""
        if self._started and not self._channel.freed:
            self.wait()
        if not self._closed:
            self._closed = True
            self._program.release()

    def __enter__(self) -> Plan:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.close()


def plan(
    collective: str,
    x: Any = None,
    *,
    op: OpLike = "sum",
    algorithm: str = "auto",
    root: int = 0,
    out: Any = None,
    comm: MPI.Comm | None = None,
    counts: Sequence[int] | None = None,
    background: bool = False,
    stream: Any = None,
) -> Plan:
    """A persistent ``collective`` of ``x``: any of `COLLECTIVES`, by name.

    Called by every rank; arguments are those of the function of that name, and so are the errors. The lengths of
    parts are fixed when it is made, so "alltoallv" gives the rows alone, without how many came from each rank.

    background: between `start` and `wait` it gets on in the library's own thread, while the caller computes; starting
        costs some microseconds more.

    Example::

        with hc.plan("allreduce", gradient, op="mean", out=gradient) as average:
            for batch in batches:
                compute(gradient, batch)
                average.start()
                average.wait()
    """
    channel = channel_of(comm)
    if structure.is_structure(x):
        raise TypeError(f"a plan is for one array, not for a {type(x).__name__} of arrays: make one for each")
    manner = (PERSISTENT_BACKGROUND if background else PERSISTENT).on(stream)
    (arrangement,) = next(_steps(channel, manner, collective, x, op, algorithm, root, out, counts))
    return Plan(channel, collective, arrangement, background)


COLLECTIVES = (
    "allreduce",
    "reduce",
    "reduce_scatter",
    "scan",
    "exscan",
    "broadcast",
    "scatter",
    "gather",
    "allgather",
    "alltoall",
    "alltoallv",
    "barrier",
)


def _steps(channel: Channel, manner: Manner, collective: str, x, op, algorithm, root, out, counts) -> Steps:
    if collective == "allreduce":
        return reduction.allreduce_steps(channel, manner, x, op, algorithm, out)
    if collective == "reduce":
        return reduction.reduce_steps(channel, manner, x, op, root, algorithm, out)
    if collective == "reduce_scatter":
        return reduction.reduce_scatter_steps(channel, manner, x, op, algorithm, out, counts)
    if collective in ("scan", "exscan"):
        return reduction.scan_steps(channel, manner, collective, x, op, algorithm, out)
    if collective == "broadcast":
        return movement.broadcast_steps(channel, manner, x, root, algorithm)
    if collective == "scatter":
        return movement.scatter_steps(channel, manner, x, root, algorithm, out, counts)
    if collective in ("gather", "allgather"):
        return movement.parts_steps(channel, manner, collective, x, algorithm, out, root, counts)
    if collective == "alltoall":
        return movement.alltoall_steps(channel, manner, x, algorithm, out)
    if collective == "alltoallv":
        return movement.alltoallv_steps(channel, manner, x, counts, algorithm, out)
    if collective == "barrier":
        return movement.barrier_steps(channel, manner, algorithm)
    raise ValueError(f"there is no plan for {collective!r}: expected one of {', '.join(COLLECTIVES)}")
