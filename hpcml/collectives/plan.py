"""Persistent collectives: bind once, start many times."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml.collectives import arrangement
from hpcml.collectives.arrangement import Arrangement, OpLike
from hpcml.collectives.channel import Channel, channel_of


class Plan:
    """A collective bound to its memory. ``start`` it, ``wait`` for it, and again: what it reads is read at each start.

    Every rank starts its plans in the same order. As a context manager it is closed at the end of the block.
    """

    def __init__(self, channel: Channel, collective: str, arrangement: Arrangement):
        self._channel, self._arrangement = channel, arrangement
        self._said = f"a plan of {arrangement.binding.said or collective}"
        self._program = arrangement.binding.program(arrangement.source is arrangement.target)
        self._program.bind(arrangement.source, arrangement.target)
        self._plain = arrangement.fresh is None and not arrangement.spread
        self._started = self._closed = False
        self.algorithm = arrangement.binding.algorithm
        self.result = arrangement.result

    def start(self) -> None:
        """Begin. The input must not be changed, nor the output read, before `wait` returns."""
        if self._closed or self._channel.freed:
            raise RuntimeError("this plan was closed" if self._closed else "this plan's communicator was freed")
        if self._started:
            raise RuntimeError("this plan was started and not waited for: call wait() before the next start()")
        self._started = True
        self._channel.enter(self._said)
        if not self._plain:
            self._arrangement.refill()
        self._program.start()

    def wait(self) -> Any:
        """Complete what was started; return the result, the same array each time."""
        if not self._started:
            raise RuntimeError("this plan was not started: call start() before wait()")
        self._program.wait()
        self._started = False
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
    x: np.ndarray | None = None,
    *,
    op: OpLike = "sum",
    algorithm: str = "auto",
    root: int = 0,
    out: np.ndarray | None = None,
    comm: MPI.Comm | None = None,
) -> Plan:
    """A persistent ``collective``: "allreduce", "reduce", "broadcast", "scatter", "gather" or "allgather" of ``x``.

    Called by every rank; arguments are those of the function of that name, and so are the errors. The lengths of
    parts are fixed when it is made.

    Example::

        with hc.plan("allreduce", gradient, op="mean", out=gradient) as average:
            for batch in batches:
                compute(gradient, batch)
                average.start()
                average.wait()
    """
    channel = channel_of(comm)
    if collective in ("allreduce", "reduce"):
        made = arrangement.reduction(channel, collective, x, op, algorithm, out, root, keep=False)
    elif collective == "broadcast":
        made = arrangement.broadcast(channel, x, algorithm, root, keep=False)
    elif collective == "scatter":
        made = arrangement.scatter(channel, x, algorithm, out, root, keep=False)
    elif collective in ("gather", "allgather"):
        made = arrangement.parts(channel, collective, x, algorithm, out, root, keep=False)
    else:
        raise ValueError(
            f"there is no plan for {collective!r}: expected allreduce, reduce, broadcast, scatter, gather or allgather"
        )
    return Plan(channel, collective, made)
