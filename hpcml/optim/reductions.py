"""How the messages of all ranks are summed: each kind starts, and then waits for this rank's part of the sum."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.optim.messages import Message


class Reduction(Protocol):
    """The sum of a message over the ranks. Every rank starts its reductions in the same order.

    part: where in the message this rank's part of the sum begins and ends.
    """

    message: Message
    part: tuple[int, int]

    def start(self) -> None: ...

    def wait(self) -> np.ndarray:
        """This rank's part of the sum, flat; good until the next start."""
        ...


class Summed:
    """Everybody gets the whole sum, by one all-reduce in place."""

    def __init__(self, message: Message, comm: MPI.Intracomm, algorithm: str, background: bool) -> None:
        self.message, self.part = message, (0, message.bucket.size)
        flat = message.flat
        # Bound once: a step then costs no checks of arguments, which cannot differ any more.
        self._plan = hc.plan(
            "allreduce", flat, op="sum", algorithm=algorithm, out=flat, comm=comm, background=background
        )

    def start(self) -> None:
        self.message.close()
        self._plan.start()

    def wait(self) -> np.ndarray:
        self._plan.wait()
        return self.message.flat[: self.message.bucket.size]


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

    def start(self) -> None:
        self.message.close()
        self._plan.start()

    def wait(self) -> np.ndarray:
        self._plan.wait()
        return self._sum


class Exact:
    """The exact sum of the rows of all ranks, rounded once: the same bits however the rows are spread over them."""

    def __init__(
        self, message: Message, comm: MPI.Intracomm, algorithm: str, background: bool, shard: bool = False
    ) -> None:
        self.message, self._comm, self._algorithm, self._background = message, comm, algorithm, background
        size = message.bucket.size
        cuts = message.bucket.cuts(comm.size)
        self.part = (cuts[comm.rank], cuts[comm.rank + 1]) if shard else (0, size)
        self._sum = np.empty(size, message.rows.dtype)
        self._request: hc.Request | None = None

    def start(self) -> None:
        rows = self.message.close()
        begin = hc.iallreduce if self._background else hc.allreduce
        self._request = begin(rows, "sum", self._algorithm, out=self._sum, comm=self._comm, reproducible=True, axis=0)

    def wait(self) -> np.ndarray:
        if self._background and self._request is not None:
            self._request.wait()
        return self._sum[slice(*self.part)]
