"""How the messages of all ranks are summed: each kind starts, and then waits for this rank's part of the sum."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.collectives.arrays import DEVICE, kind_of
from hpcml.collectives.queue import Queue
from hpcml.optim.messages import Message


class Reduction(Protocol):
    """The sum of a message over the ranks. Every rank starts its reductions in the same order.

    part: where in the message this rank's part of the sum begins and ends.
    """

    message: Message
    part: tuple[int, int]

    def start(self) -> None: ...

    def turn(self) -> None:
        """Begin the second half, where there is one, as soon as the first is there."""

    def wait(self) -> np.ndarray:
        """This rank's part of the sum, flat; good until the next start."""
        ...


class Wire(Protocol):
    """A way to send less: `optim.TopK` and its kin. ``repr`` says it whole, for ranks compare that."""

    def reduction(
        self, message: Message, shapes: list[tuple[int, ...]], comm: MPI.Intracomm, algorithm: str, background: bool
    ) -> Reduction:
        """The sum of a message, of members of these shapes, to good approximation; the whole of it on every rank."""
        ...


class Part:
    """This rank's part of a sum of which it has the whole."""

    def __init__(self, whole: Reduction, rank: int, ranks: int) -> None:
        self._whole, self.message = whole, whole.message
        cuts = whole.message.bucket.cuts(ranks)
        self.part = cuts[rank], cuts[rank + 1]
        self.start, self.turn = whole.start, whole.turn

    def wait(self) -> np.ndarray:
        return self._whole.wait()[slice(*self.part)]


class Summed:
    """Everybody gets the whole sum, by one all-reduce in place."""

    def __init__(self, message: Message, comm: MPI.Intracomm, algorithm: str, background: bool) -> None:
        self.message, self.part = message, (0, message.bucket.size)
        flat = message.flat
        # Bound once: a step then costs no checks of arguments, which cannot differ any more.
        self._sum = flat if kind_of(flat) == DEVICE else flat[: message.bucket.size]
        self._plan = hc.plan(
            "allreduce", flat, op="sum", algorithm=algorithm, out=flat, comm=comm, background=background
        )

    def queue(self, queue: Queue) -> None:
        """Once started, in the background, it waits for its turn."""
        self._plan.queue(queue)

    def start(self) -> None:
        self.message.close()
        self._plan.start()

    def turn(self) -> None:
        """There is one half."""

    def wait(self) -> np.ndarray:
        self._plan.wait()
        return self._sum


class Scattered:
    """Everybody gets its own part of the sum, by one reduce-scatter."""

    def __init__(self, message: Message, comm: MPI.Intracomm, algorithm: str, background: bool) -> None:
        self.message = message
        cuts = message.bucket.cuts(comm.size)
        self.part = cuts[comm.rank], cuts[comm.rank + 1]
        self._sum = np.empty(self.part[1] - self.part[0], message.rows.dtype)
        self._plan = hc.plan(
            "reduce_scatter",
            message.flat,
            op="sum",
            algorithm=algorithm,
            out=self._sum,
            comm=comm,
            counts=np.diff(cuts).tolist(),
            background=background,
        )

    def queue(self, queue: Queue) -> None:
        """Once started, in the background, it waits for its turn."""
        self._plan.queue(queue)

    def start(self) -> None:
        self.message.close()
        self._plan.start()

    def turn(self) -> None:
        """There is one half."""

    def wait(self) -> np.ndarray:
        self._plan.wait()
        return self._sum


class Exact:
    """The exact sum of the rows of all ranks, rounded once: the same bits however the rows are spread over them."""

    def __init__(self, message: Message, comm: MPI.Intracomm, algorithm: str, background: bool) -> None:
        self.message, self._comm, self._algorithm, self._background = message, comm, algorithm, background
        self.part = 0, message.bucket.size
        self._sum = np.empty(message.bucket.size, message.rows.dtype)
        self._request: hc.Request | None = None

    def start(self) -> None:
        rows = self.message.close()
        begin = hc.iallreduce if self._background else hc.allreduce
        self._request = begin(rows, "sum", self._algorithm, out=self._sum, comm=self._comm, reproducible=True, axis=0)

    def turn(self) -> None:
        """There is one half."""

    def wait(self) -> np.ndarray:
        if self._background and self._request is not None:
            self._request.wait()
        return self._sum
