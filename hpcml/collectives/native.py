"""The MPI library's own collectives, behind the same interface: the algorithm ``"native"``.

mpi4py finds the MPI data type of a NumPy array by itself; for what MPI has no type for it raises, and so do we.
"""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from hpcml.collectives.channel import Channel
from hpcml.collectives.errors import ArgumentError
from hpcml.collectives.ops import Op, divide


class Native:
    """A program (see `hpcml.collectives.program`) that is one call of the MPI library.

    counts: items of each rank's part, for the collectives in which ranks hold parts.
    """

    def __init__(
        self, channel: Channel, collective: str, op: Op | None, dtype: np.dtype, counts: tuple[int, ...], root: int
    ):
        self._type = _mpi_type(dtype, op)
        unit = dtype.itemsize if self._type == MPI.BYTE else 1
        self._comm, self._op, self._root = channel.comm, op, root
        self._counts = tuple(count * unit for count in counts)
        self._mpi_op = _mpi_op(op, dtype) if op is not None else MPI.OP_NULL
        self._call = getattr(self, f"_{collective}")
        self._source = self._target = np.empty(0, dtype)
        self._in_place = False

    def bind(self, source: np.ndarray, target: np.ndarray) -> None:
        self._source, self._target = source, target
        self._in_place = source is target

    def release(self) -> None:
        self._source = self._target = np.empty(0, self._target.dtype)

    def start(self) -> None:
        """Nothing: the library's blocking call is made in `wait`."""

    def wait(self) -> None:
        self._call()

    def _allreduce(self) -> None:
        self._comm.Allreduce(self._given(), [self._target, self._type], self._mpi_op)
        self._finish()

    def _reduce(self) -> None:
        here = self._comm.rank == self._root
        given = self._given() if here else [self._source, self._type]
        self._comm.Reduce(given, [self._target, self._type] if here else None, self._mpi_op, self._root)
        if here:
            self._finish()

    def _broadcast(self) -> None:
        self._comm.Bcast([_flat(self._target), self._type], self._root)

    def _scatter(self) -> None:
        given = [_flat(self._source), (self._counts, None), self._type] if self._comm.rank == self._root else None
        self._comm.Scatterv(given, [_flat(self._target), self._type], self._root)

    def _gather(self) -> None:
        wanted = [_flat(self._target), (self._counts, None), self._type] if self._comm.rank == self._root else None
        self._comm.Gatherv([_flat(self._source), self._type], wanted, self._root)

    def _allgather(self) -> None:
        self._comm.Allgatherv(
            [_flat(self._source), self._type], [_flat(self._target), (self._counts, None), self._type]
        )

    def _barrier(self) -> None:
        self._comm.Barrier()

    def _given(self):
        return MPI.IN_PLACE if self._in_place else [self._source, self._type]

    def _finish(self) -> None:
        if self._op is not None and self._op.finishes:
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
