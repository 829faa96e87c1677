"""The MPI library's own collectives, behind the same interface: the algorithm ``"native"``.

mpi4py finds the MPI data type of a NumPy array by itself; for what MPI has no type for it raises, and so do we.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml.collectives.channel import Channel
from hpcml.collectives.errors import ArgumentError
from hpcml.collectives.failures import deaths_of
from hpcml.collectives.memory import pin
from hpcml.collectives.ops import Op, divide
from hpcml.collectives.program import Program


class Native(Program):
    """A program (see `hpcml.collectives.program`) that is one call of the MPI library.

    counts: items of each rank's part, for the collectives in which ranks hold parts; those that rank s has for rank d,
    at s·p + d, for alltoall.
    """

    def __init__(
        self, channel: Channel, collective: str, op: Op | None, dtype: np.dtype, counts: tuple[int, ...], root: int
    ):
        self._type = _mpi_type(dtype, op)
        unit = dtype.itemsize if self._type == MPI.BYTE else 1
        self._channel, self._comm, self._op, self._root = channel, channel.comm, op, root
        self._counts = tuple(count * unit for count in counts)
        self._mpi_op = _mpi_op(op, dtype) if op is not None else MPI.OP_NULL
        self._collective = collective
        self._source = self._target = np.empty(0, dtype)
        self._in_place = False
        self._request = MPI.REQUEST_NULL

    def bind(self, source: np.ndarray, target: np.ndarray) -> None:
        self._source, self._target = source, target
        self._in_place = source is target

    def release(self) -> None:
        self._source = self._target = np.empty(0, self._target.dtype)

    def start(self) -> None:
        """Nothing: the library's blocking call is made in `wait`."""

    def launch(self, tag: int) -> None:
        """The library's own non-blocking call; whether it gets on by itself is the library's affair."""
        name, arguments = self._arguments()
        with deaths_of(self._channel):
            self._request = getattr(self._comm, f"I{name.lower()}")(*arguments)

    def test(self) -> bool:
        with deaths_of(self._channel):
            if not self._request.Test():
                return False
        self._finish()
        return True

    def forget(self) -> None:
        pin(self)

    def wait(self) -> None:
        channel = self._channel
        channel.in_native = channel.number
        try:
            with deaths_of(channel):
                if self._request != MPI.REQUEST_NULL:
                    self._request.Wait()
                else:
                    name, arguments = self._arguments()
                    getattr(self._comm, name)(*arguments)
        finally:
            channel.in_native = 0
        self._finish()

    def _arguments(self) -> tuple[str, tuple]:
        """mpi4py's name for the collective, and what it takes."""
        size, rank, root = self._comm.size, self._comm.rank, self._root
        here = rank == root
        send, into = [_flat(self._source), self._type], [_flat(self._target), self._type]
        if self._op is not None:  # the items as they are: they are reduced
            send, into = [self._source, self._type], [self._target, self._type]
        given: Any = MPI.IN_PLACE if self._in_place else send
        counts: tuple = (self._counts, None)
        if self._collective == "allreduce":
            return "Allreduce", (given, into, self._mpi_op)
        if self._collective == "reduce":
            return "Reduce", (given if here else send, into if here else None, self._mpi_op, root)
        if self._collective == "reduce_scatter":
            return "Reduce_scatter", (send, into, self._counts, self._mpi_op)
        if self._collective in ("scan", "exscan"):
            return self._collective.title(), (given, into, self._mpi_op)
        if self._collective == "broadcast":
            return "Bcast", (into, root)
        if self._collective == "scatter":
            return "Scatterv", ([send[0], counts, self._type] if here else None, into, root)
        if self._collective == "gather":
            return "Gatherv", (send, [into[0], counts, self._type] if here else None, root)
        if self._collective == "allgather":
            return "Allgatherv", (send, [into[0], counts, self._type])
        if self._collective == "alltoall":
            theirs, mine = self._counts[rank * size : (rank + 1) * size], self._counts[rank::size]
            return "Alltoallv", ([send[0], (theirs, None), self._type], [into[0], (mine, None), self._type])
        return "Barrier", ()

    def _finish(self) -> None:
        has_result = self._collective != "reduce" or self._comm.rank == self._root
        if self._op is not None and self._op.finishes and has_result:
            divide(self._target, self._comm.size, self._target)


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1).view(np.uint8)


def _mpi_type(dtype: np.dtype, op: Op | None) -> MPI.Datatype:
    """MPI's type for items of ``dtype``. What is only moved may always travel as bytes."""
    if op is None:
        return MPI.BYTE
    found = reducible(dtype)
    if found is None:
        raise ArgumentError(
            f"algorithm 'native': MPI has no data type for {dtype}; leave algorithm='auto', which needs none"
        )
    return found


def reducible(dtype: np.dtype) -> MPI.Datatype | None:
    """The type with which MPI itself can reduce items of ``dtype``, or None."""
    try:
        found = MPI.Datatype.fromcode(dtype.char)
    except (ValueError, KeyError):
        return None
    return found if dtype.isnative and found.Get_size() == dtype.itemsize else None


def _mpi_op(op: Op, dtype: np.dtype) -> MPI.Op:
    """MPI gives its logical type the logical operations only; on it the others are the same thing by another name."""
    same_for_bool = {"min": MPI.LAND, "max": MPI.LOR, "band": MPI.LAND, "bor": MPI.LOR, "bxor": MPI.LXOR}
    return same_for_bool.get(op.name, op.mpi) if dtype.kind == "b" else op.mpi
