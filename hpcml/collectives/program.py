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
from hpcml.collectives.background import FULL, background
from hpcml.collectives.channel import Channel
from hpcml.collectives.errors import CommunicationError
from hpcml.collectives.giving_way import naps, pace
from hpcml.collectives.native_call import undispatched
from hpcml.collectives.ops import Op, divide, fold
from hpcml.collectives.queue import Queue
from hpcml.collectives.stall import Rows, Stall
from hpcml.collectives.under_way import TAKE_TURNS, others_advance, under_way

STALLED = -1  # what the engine returns where a message has not come yet
INTERRUPTED = -2  # it did not return at all
SPINS = 200  # polls before the processor is offered to others: other programs may want it
FIRST_LOOK = 64  # polls at the start: a microsecond or so, in which a short message has come and all is done
NOWHERE_YET = -2  # the place on the background's board of what is about to be handed over
LOOK_AROUND = 20_000  # polls of the engine between two looks at Python's signals: milliseconds


class Program(Protocol):
    """``start`` posts what can be posted, ``wait`` completes. One start, one wait, in turn, any number of times.

    ``bind`` says on which memory, ``release`` lets go of it, ``run`` does all four. ``launch`` starts in the background
    with a tag of that run's own (several may be under way); ``test`` tells whether it is complete, without waiting;
    ``forget`` says that nobody will ask.
    """

    def bind(self, source: np.ndarray, target: np.ndarray) -> None: ...
    def release(self) -> None: ...
    def start(self) -> None: ...
    def launch(self, tag: int) -> None: ...
    def test(self) -> bool: ...
    def wait(self) -> None: ...
    def forget(self) -> None: ...

    def queue(self, queue: Queue) -> None:
        """What is launched from now on waits for its turn in ``queue``, if it is run by the engine."""
        return None

    def run(self, source: np.ndarray, target: np.ndarray) -> None:
        self.bind(source, target)
        self.start()
        self.wait()
        self.release()


class Part(Program, Protocol):
    """A program that can be a part of a longer one (see `hpcml.collectives.staged`), which does the waiting.

    ``poll`` goes on for so many fruitless polls, and tells whether it is complete. ``awaits``: its messages as rows of
    a table, and the row at which it is; their number where it is complete.
    """

    def poll(self, patience: int) -> bool: ...
    def awaits(self) -> tuple[Rows, int]: ...
    def advance(self) -> bool: ...


def make_program(channel: Channel, table: t.Table, tag: int, op: Op | None, dtype: np.dtype) -> Part:
    """The executor for that op (None: nothing is folded) and data type."""
    from hpcml.collectives import fold as kernels

    if op is None or kernels.has_kernel(op, dtype):
        return Compiled(channel, table, tag, op, dtype)
    return Walked(channel, table, tag, op, dtype)


def path(algorithm: str, op: Op | None, dtype: np.dtype) -> str:
    """Who moves and folds the data, in words."""
    from hpcml.collectives import fold

    if algorithm == "native":
        return "one call of the MPI library"
    if op is None or fold.has_kernel(op, dtype):
        return "the compiled engine, on MPI's point-to-point messages"
    return f"Python and NumPy, on MPI's point-to-point messages: the engine has no kernel for {op.name} of {dtype}"


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
        e.NAP: libc_address("usleep"),
    }


class Compiled(Part):
    """Runs a table in the engine."""

    def __init__(self, channel: Channel, table: t.Table, tag: int, op: Op | None, dtype: np.dtype):
        from hpcml.collectives import engine as e
        from hpcml.collectives import fold as kernels

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
        state[e.SPINS], state[e.POLLS_PER_NAP] = pace(channel.machine.per_node, SPINS)
        if (network := channel.machine.network) is not None:
            state[e.NAP_PER_MEBIBYTE], state[e.NAP_LONGEST] = naps(network.between.beta)
        if op is not None:
            state[e.FOLD_KERNEL] = kernels.fold_kernel(op.name, dtype).address
            state[e.FINISH_KERNEL] = kernels.finish_kernel(dtype).address if op.finishes else 0
        state[e.RANKS] = channel.size
        state[e.BUFFERS + t.SCRATCH] = self._scratch.ctypes.data
        self._input, self._output = e.BUFFERS + t.INPUT, e.BUFFERS + t.OUTPUT
        self._address = state.ctypes.data
        self._words = state.data  # quicker than the array where one number is set
        self._run: Callable[[int, int], int] = undispatched(e.run)
        self._next, self._tag = e.NEXT, e.TAG
        self._place = FULL  # on the board of the background thread
        self._queue: Queue | None = None
        self._channel = channel
        self._number = 0  # of the call that it runs in
        self._pending = 0
        self._forgotten = False
        self._arrays: tuple = ()

    def bind(self, source: np.ndarray, target: np.ndarray) -> None:
        self._arrays = source, target  # kept alive until they are released
        words = self._words
        words[self._input] = MPI.Get_address(source)
        words[self._output] = MPI.Get_address(target)

    def release(self) -> None:
        self._arrays = ()

    def queue(self, queue: Queue) -> None:
        from hpcml.collectives.engine import LETS, QUEUE

        if steps := len(self._rows):
            self._queue = queue
            nbytes = max(array.nbytes for array in self._arrays)
            self._state[QUEUE], self._state[LETS] = queue.address, queue.lets(nbytes, steps)

    def launch(self, tag: int) -> None:
        from hpcml.collectives.engine import POST_ONLY, TURN

        self._state[self._tag] = tag
        if self._queue is not None:
            self._state[TURN] = self._queue.join()
        self._place = NOWHERE_YET  # so that nobody who waits for something else drives it meanwhile
        self.start(POST_ONLY)
        _let_go_of_forgotten()
        thread = background() if self._pending == STALLED else None
        self._place = FULL if thread is None else thread.hand_over(self._address)

    def start(self, patience: int = FIRST_LOOK) -> None:
        if self._pending:
            raise CommunicationError(
                "this collective was interrupted or failed before, in the middle of its messages: end the program, "
                "or go on with another communicator"
            )
        self._pending = INTERRUPTED  # what stays if an exception comes from a signal between here and the next line
        self._number = self._channel.number
        self._pending = self._run(self._address, patience)
        if self._pending:
            under_way().add(self)

    def test(self) -> bool:
        return self.poll(FIRST_LOOK)

    def poll(self, patience: int) -> bool:
        if self._place != FULL:
            if not background().is_complete(self._place):  # type: ignore[union-attr]
                return False
            self._take_back()
        elif self._pending == STALLED:
            self._pending = self._run(self._address, patience)
        if self._pending == STALLED:
            return False
        self._settle()
        return True

    def wait(self) -> None:
        if self._pending:
            self._wait_long()

    def run(self, source: np.ndarray, target: np.ndarray) -> None:
        self.bind(source, target)
        self.start(FIRST_LOOK if under_way() else LOOK_AROUND)
        if self._pending:
            self._wait_long()
        self.release()

    def _wait_long(self) -> None:
        """Control comes back from the engine now and then, so that Ctrl-C is heard, and alarms of other ranks."""
        stall: Stall | None = None
        polls = 0
        try:
            while self._pending == STALLED:
                patience = TAKE_TURNS if others_advance(self) else LOOK_AROUND
                self._go_on(patience)
                polls += patience
                if self._pending == STALLED and polls >= LOOK_AROUND:
                    polls = 0
                    stall = stall or Stall(self._channel, self._number, int(self._state[self._tag]))
                    stall.look_around(*self.awaits())
        finally:
            if self._place != FULL:
                self._take_back()
            if stall:
                stall.over()
        self._settle()

    def _go_on(self, patience: int) -> None:
        """Drive it, and with it what else is in the background, where it is there."""
        if self._place == FULL:
            self._pending = self._run(self._address, patience)
            return
        thread = background()
        assert thread is not None
        if thread.drive(self._place, patience):
            self._take_back()

    def awaits(self) -> tuple[Rows, int]:
        return self._rows, int(self._state[self._next]) if self._pending else len(self._rows)

    def advance(self) -> bool:
        if self._place != FULL:
            return False
        if self._pending == STALLED:
            self._pending = self._run(self._address, 0)
            if not self._pending:
                under_way().discard(self)
        return True

    def forget(self) -> None:
        self._forgotten = True

    def _take_back(self) -> None:
        """From the thread that drove it in the background."""
        self._pending = background().take_back(self._place)  # type: ignore[union-attr]
        self._place = FULL

    def _settle(self) -> None:
        if self._pending:
            self._fail(self._pending)
        under_way().discard(self)

    def _fail(self, code: int) -> NoReturn:
        row = self._rows[self._state[self._next]]
        doing = {t.SEND: "sending to", t.RECV: "receiving from", t.WAIT: "waiting for"}[int(row[t.CODE])]
        raise CommunicationError(
            f"rank {self._channel.rank} of {self._channel.size}: the MPI library failed while {doing} "
            f"rank {row[t.PEER]}: {MPI.Get_error_string(code)}"
        )


def _let_go_of_forgotten() -> None:
    """End those that nobody will wait for and that are complete by now."""
    for program in [p for p in list(under_way()) if isinstance(p, Compiled) and p._forgotten]:
        if program.test():
            program.release()


class Walked(Part):
    """Runs a table in Python."""

    def __init__(self, channel: Channel, table: t.Table, tag: int, op: Op | None, dtype: np.dtype):
        self._channel = channel
        self._comm, self._tag, self._op, self._dtype, self._ranks = channel.comm, tag, op, dtype, channel.size
        self._rows = table.rows.tolist()
        self._requests = [MPI.REQUEST_NULL] * table.slots
        self._buffers = [np.empty(0, np.uint8)] * 2 + [np.empty(table.scratch, np.uint8)]
        self._next = self._number = 0

    def bind(self, source: np.ndarray, target: np.ndarray) -> None:
        self._buffers[:2] = [a.reshape(-1).view(np.uint8) for a in (source, target)]

    def release(self) -> None:
        self._buffers[:2] = [np.empty(0, np.uint8)] * 2

    def start(self) -> None:
        self._next, self._number = 0, self._channel.number
        under_way().add(self)
        while self._next < len(self._rows) and self._rows[self._next][t.CODE] != t.WAIT:
            self._step(self._rows[self._next])
            self._next += 1

    def launch(self, tag: int) -> None:
        """It gets on when it is tested or waited for: Python has no thread to spare for it."""
        self._tag = tag
        self.start()

    def test(self) -> bool:
        while self._next < len(self._rows):
            row = self._rows[self._next]
            if row[t.CODE] == t.WAIT:
                if not self._requests[row[t.SLOT]].Test():
                    return False
            else:
                self._step(row)
            self._next += 1
        under_way().discard(self)
        return True

    def poll(self, patience: int) -> bool:
        for _ in range(patience):
            if self.test():
                return True
            os.sched_yield()
        return self.test()

    def awaits(self) -> tuple[Rows, int]:
        return self._rows, self._next

    def advance(self) -> bool:
        self.test()
        return True

    def wait(self) -> None:
        polls, stall = 0, None
        try:
            while not self.test():
                others_advance(self)
                os.sched_yield()
                polls += 1
                if not polls % LOOK_AROUND:
                    stall = stall or Stall(self._channel, self._number, self._tag)
                    stall.look_around(*self.awaits())
        finally:
            if stall:
                stall.over()

    def forget(self) -> None:
        """Nothing: it is kept while it is under way."""

    def _step(self, row: list[int]) -> None:
        code, peer, slot, count = row[t.CODE], row[t.PEER], row[t.SLOT], row[t.COUNT]
        dst, a, b = ((row[i], row[i + 1]) for i in (t.DST, t.A, t.B))
        if code == t.SEND:
            self._requests[slot] = self._comm.Isend([self._bytes(a, count), MPI.BYTE], peer, self._tag)
        elif code == t.RECV:
            self._requests[slot] = self._comm.Irecv([self._bytes(dst, count), MPI.BYTE], peer, self._tag)
        elif code == t.COPY:
            self._bytes(dst, count)[:] = self._bytes(a, count)
        elif code == t.FOLD:
            assert self._op is not None
            fold(self._op, self._items(a, count), self._items(b, count), self._items(dst, count))
        elif code == t.FINISH:
            divide(self._items(a, count), self._ranks, self._items(dst, count))

    def _bytes(self, place: tuple[int, int], count: int) -> np.ndarray:
        return self._buffers[place[0]][place[1] : place[1] + count]

    def _items(self, place: tuple[int, int], count: int) -> np.ndarray:
        return self._bytes(place, count * self._dtype.itemsize).view(self._dtype)


def _signed(handle: int) -> int:
    """An MPI handle as the int64 of the same bits: handles are C ints or pointers, mpi4py shows them unsigned."""
    return handle - (1 << 64) if handle >> 63 else handle
