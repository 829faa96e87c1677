"""A table bound to a communicator, a data type and an op: what is left to say is which memory to work on.

There are two executors of one table. `Compiled` gives it to the engine. `Walked` steps through it in Python, with
mpi4py and NumPy's own functions: for data types that the compiler does not know and for a user's own `MPI.Op`. It reads
like the engine and is its oracle in the tests.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import NoReturn, Protocol

import numpy as np
from mpi4py import MPI

from hpcml.collectives import table as t
from hpcml.collectives.arrays import new
from hpcml.collectives.channel import Channel
from hpcml.collectives.errors import CommunicationError
from hpcml.collectives.ops import Op, divide
from hpcml.collectives.stall import Stall

STALLED = -1  # what the engine returns where a message has not come yet
INTERRUPTED = -2  # it did not return at all
FIRST_LOOK = 64  # polls at the start: a microsecond or so, in which a short message has come and all is done
LOOK_AROUND = 20_000  # polls of the engine between two looks at Python's signals: milliseconds


class Program(Protocol):
    """``start`` posts what can be posted, ``wait`` completes. One start, one wait, in turn, any number of times.

    ``bind`` says on which memory; ``release`` lets go of it.
    """

    def bind(self, source: np.ndarray, target: np.ndarray) -> None: ...
    def release(self) -> None: ...
    def start(self) -> None: ...
    def wait(self) -> None: ...


def make_program(channel: Channel, table: t.Table, tag: int, op: Op | None, dtype: np.dtype) -> Program:
    """The executor for that op (None: nothing is folded) and data type."""
    from hpcml.collectives import fold

    if op is None or fold.has_kernel(op, dtype):
        return Compiled(channel, table, tag, op, dtype)
    return Walked(channel, table, tag, op, dtype)


@functools.cache
def _addresses() -> dict[int, int]:
    """The C functions that the engine calls, at their places in a plan's state."""
    from hpcml.collectives import engine as e
    from hpcml.collectives.native_call import libc_address, mpi_address

    return {
        e.ISEND: mpi_address("MPI_Isend"),
        e.IRECV: mpi_address("MPI_Irecv"),
        e.TEST: mpi_address("MPI_Test"),
        e.MEMMOVE: libc_address("memmove"),
        e.YIELD: libc_address("sched_yield"),
    }


class Compiled:
    """Runs a table in the engine."""

    def __init__(self, channel: Channel, table: t.Table, tag: int, op: Op | None, dtype: np.dtype):
        from hpcml.collectives import engine as e
        from hpcml.collectives import fold

        self._rows = table.rows
        self._requests = np.zeros(max(table.slots, 1) * MPI._sizeof(MPI.Request), np.uint8)
        self._status = np.zeros(8 + MPI._sizeof(MPI.Status), np.uint8)
        self._scratch = new((table.scratch,), np.dtype(np.uint8))
        self._state = state = np.zeros(e.STATE, np.int64)
        state[e.ROWS], state[e.ROW_COUNT] = table.rows.ctypes.data, len(table.rows)
        state[e.REQUESTS], state[e.HANDLE_BYTES] = self._requests.ctypes.data, MPI._sizeof(MPI.Comm)
        state[e.COMM], state[e.BYTE], state[e.TAG] = _signed(channel.comm.handle), _signed(MPI.BYTE.handle), tag
        state[e.FLAG], state[e.STATUS] = self._status.ctypes.data, self._status.ctypes.data + 8
        for place, address in _addresses().items():
            state[place] = address
        if op is not None:
            state[e.FOLD_KERNEL] = fold.fold_kernel(op.name, dtype).address
            state[e.FINISH_KERNEL] = fold.finish_kernel(dtype).address if op.finishes else 0
        state[e.RANKS] = channel.size
        state[e.BUFFERS + t.SCRATCH] = self._scratch.ctypes.data
        self._input, self._output = e.BUFFERS + t.INPUT, e.BUFFERS + t.OUTPUT
        self._address = state.ctypes.data
        self._run: Callable[[int, int], int] = e.run
        self._next = e.NEXT
        self._channel = channel
        self._number = 0  # of the call that it runs in
        self._pending = 0
        self._arrays: tuple = ()

    def bind(self, source: np.ndarray, target: np.ndarray) -> None:
        self._arrays = source, target  # kept alive until they are released
        state = self._state
        state[self._input] = MPI.Get_address(source)
        state[self._output] = MPI.Get_address(target)

    def release(self) -> None:
        self._arrays = ()

    def start(self) -> None:
        if self._pending:
            raise CommunicationError(
                "this collective was interrupted or failed before, in the middle of its messages: end the program, "
                "or go on with another communicator"
            )
        self._pending = INTERRUPTED  # what stays if an exception comes from a signal between here and the next line
        self._number = self._channel.number
        self._pending = self._run(self._address, FIRST_LOOK)
        if self._pending:
            _under_way().add(self)

    def wait(self) -> None:
        if self._pending:
            self._wait_long()

    def _wait_long(self) -> None:
        """Control comes back from the engine now and then, so that Ctrl-C is heard, and alarms of other ranks."""
        stall: Stall | None = None
        while self._pending == STALLED:
            self._pending = self._run(self._address, LOOK_AROUND)
            if self._pending == STALLED:
                stall = stall or Stall(self._channel, self._number)
                stall.look_around(int(self._rows[self._state[self._next], t.PEER]))
        if self._pending:
            self._fail(self._pending)
        _under_way().discard(self)

    def _fail(self, code: int) -> NoReturn:
        row = self._rows[self._state[self._next]]
        doing = {t.SEND: "sending to", t.RECV: "receiving from", t.WAIT: "waiting for"}[int(row[t.CODE])]
        raise CommunicationError(
            f"rank {self._channel.rank} of {self._channel.size}: the MPI library failed while {doing} "
            f"rank {row[t.PEER]}: {MPI.Get_error_string(code)}"
        )


@functools.cache
def _under_way() -> set[Compiled]:
    """Programs whose messages are not complete. MPI still works on their memory, whoever else has forgotten them."""
    return set()


class Walked:
    """Runs a table in Python."""

    def __init__(self, channel: Channel, table: t.Table, tag: int, op: Op | None, dtype: np.dtype):
        self._channel = channel
        self._comm, self._tag, self._op, self._dtype, self._ranks = channel.comm, tag, op, dtype, channel.size
        self._rows = table.rows.tolist()
        self._requests = [MPI.REQUEST_NULL] * table.slots
        self._buffers = [np.empty(0, np.uint8)] * 2 + [np.empty(table.scratch, np.uint8)]
        self._next = 0

    def bind(self, source: np.ndarray, target: np.ndarray) -> None:
        self._buffers[:2] = [a.reshape(-1).view(np.uint8) for a in (source, target)]

    def release(self) -> None:
        self._buffers[:2] = [np.empty(0, np.uint8)] * 2

    def start(self) -> None:
        self._next = 0
        while self._next < len(self._rows) and self._rows[self._next][t.CODE] != t.WAIT:
            self._step(self._rows[self._next])
            self._next += 1

    def wait(self) -> None:
        for row in self._rows[self._next :]:
            self._step(row)

    def _step(self, row: list[int]) -> None:
        code, peer, slot, count = row[t.CODE], row[t.PEER], row[t.SLOT], row[t.COUNT]
        dst, a, b = ((row[i], row[i + 1]) for i in (t.DST, t.A, t.B))
        if code == t.SEND:
            self._requests[slot] = self._comm.Isend([self._bytes(a, count), MPI.BYTE], peer, self._tag)
        elif code == t.RECV:
            self._requests[slot] = self._comm.Irecv([self._bytes(dst, count), MPI.BYTE], peer, self._tag)
        elif code == t.WAIT:
            self._wait_for(self._requests[slot], peer)
        elif code == t.COPY:
            self._bytes(dst, count)[:] = self._bytes(a, count)
        elif code == t.FOLD:
            self._fold(self._items(dst, count), self._items(a, count), self._items(b, count))
        elif code == t.FINISH:
            divide(self._items(a, count), self._ranks, self._items(dst, count))

    def _wait_for(self, request: MPI.Request, peer: int) -> None:
        polls, stall = 0, None
        while not request.Test():
            os.sched_yield()
            polls += 1
            if not polls % LOOK_AROUND:
                stall = stall or Stall(self._channel, self._channel.number)
                stall.look_around(peer)

    def _fold(self, dst: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
        assert self._op is not None
        if self._op.ufunc is not None:
            self._op.ufunc(a, b, out=dst, casting="unsafe")  # logical ufuncs give booleans
            return
        result = b.copy()  # MPI reduces into its right operand
        self._op.mpi.Reduce_local(a, result)
        dst[:] = result

    def _bytes(self, place: tuple[int, int], count: int) -> np.ndarray:
        return self._buffers[place[0]][place[1] : place[1] + count]

    def _items(self, place: tuple[int, int], count: int) -> np.ndarray:
        return self._bytes(place, count * self._dtype.itemsize).view(self._dtype)


def _signed(handle: int) -> int:
    """An MPI handle as the int64 of the same bits: handles are C ints or pointers, mpi4py shows them unsigned."""
    return handle - (1 << 64) if handle >> 63 else handle
