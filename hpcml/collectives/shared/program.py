"""The program of algorithm "shared": a collective bound to a communicator, a data type and an op, in its room.

See `hpcml.collectives.program` for what a program is. This one serves a binding whether its input and output are one
array or not: the ranks' flags have to go on from call to call in the same way.
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from hpcml.collectives.channel import Channel
from hpcml.collectives.errors import CommunicationError
from hpcml.collectives.native_call import libc_address
from hpcml.collectives.ops import Op
from hpcml.collectives.program import INTERRUPTED, LOOK_AROUND, STALLED
from hpcml.collectives.shared import protocol as p
from hpcml.collectives.shared.kernels import Kernels, kernels
from hpcml.collectives.shared.mapping import PAGE, shared_memory
from hpcml.collectives.shared.segments import NOWHERE, segments
from hpcml.collectives.shared.waiting import all_messages, as_messages
from hpcml.collectives.stall import Stall
from hpcml.collectives.under_way import TAKE_TURNS, others_advance, under_way

FIRST_LOOK = 500  # polls of flags at the start: a microsecond or so
SPINS, SPINS_CROWDED = 5000, 20  # polls before the processor is offered to others: with a core for each rank, or not

CHUNK = 128 << 10  # bytes of a slot: two fit in a second-level cache beside what is read
FEW = 4 << 10  # bytes up to which an input is copied wherever it lies: looking that up would take longer
FOLD_ALL_READS = 32 << 10  # bytes beyond two inputs that a rank rather reads itself than wait once more for others


class Shape(NamedTuple):
    """How a collective is done: what with each chunk, and the bytes of a slot, of a share, and of a chunk of a part."""

    work: int
    slot: int
    share: int
    chunk: int
    chunks: int


class Shared:
    """A program (see `hpcml.collectives.program`). Made by all ranks together.

    counts: items of each rank's part, for the collectives in which ranks hold, or get, parts; else ``(n,)``. tag: the
    binding's. said: the call in words. ranks: those of the channel that take part, of this rank's node (None: all are);
    ``counts`` and ``root`` go by their order. Other nodes do the same at the same time.
    """

    def __init__(
        self,
        channel: Channel,
        collective: str,
        op: Op | None,
        dtype: np.dtype,
        counts: tuple[int, ...],
        root: int,
        tag: int,
        said: str,
        ranks: tuple[int, ...] | None = None,
    ):
        self._ranks = ranks = tuple(range(channel.size)) if ranks is None else ranks
        rank, size = ranks.index(channel.rank), len(ranks)
        item = dtype.itemsize
        unit = math.lcm(p.LINE, item) if op is not None else p.LINE
        nbytes = sum(counts) * item
        parts = [n * item for n in counts] if len(counts) == size else [0] * size
        shape = _shape(collective, nbytes, parts, size, unit)
        self._kernels: Kernels | None = None if op is None else kernels(op, dtype)
        self._peers = np.zeros((size, p.COLUMNS), np.int64)
        self._peers[:, p.BYTES] = parts
        self._peers[1:, p.START] = np.cumsum(parts)[:-1]
        self._state = state = np.zeros(p.STATE, np.int64)
        gives_alone = collective in ("broadcast", "scatter")
        takes_alone = collective in ("reduce", "gather")
        state[p.WORK], state[p.CHUNK_BYTES], state[p.CHUNKS] = shape.work, shape.chunk, shape.chunks
        state[p.RANK], state[p.SIZE] = rank, size
        state[p.GIVER] = root if gives_alone else p.EVERYBODY
        state[p.GIVES] = collective != "barrier" and (not gives_alone or rank == root)
        state[p.TAKES] = not takes_alone or rank == root
        only_root = gives_alone and rank != root
        state[p.FIRST], state[p.LAST] = (root, root + 1) if only_root else (0, size)
        state[p.NBYTES], state[p.UNIT], state[p.ITEM] = nbytes, unit, item
        state[p.TELLS] = self._tells = nbytes > FEW
        state[p.ALL_REDUCE] = collective == "allreduce"
        state[p.SPINS] = SPINS if size <= (os.cpu_count() or 1) else SPINS_CROWDED
        state[p.PEERS] = self._peers.ctypes.data
        state[p.MEMMOVE], state[p.YIELD] = libc_address("memmove"), libc_address("sched_yield")
        if self._kernels is not None:
            state[p.FOLD_KERNEL], state[p.FINISH_KERNEL] = self._kernels.fold, self._kernels.finish
        self._enter_room(channel, shape, said)
        self._overwrites = op is not None  # where input and output are one array
        self._members = frozenset(channel.processes[r] for r in ranks)
        self._segments = segments()
        self._channel, self._tag = channel, tag
        self._number = self._pending = 0
        self._address = state.ctypes.data
        self._arrays: tuple = ()

    def _enter_room(self, channel: Channel, shape: Shape, said: str) -> None:
        """Make the memory of this binding; all ranks have it mapped for as long as they have the binding."""
        state = self._state
        small = shape.slot + p.BESIDE_FLAG <= p.LINE and not self._tells
        slot = p.BESIDE_FLAG if small else p.LINE
        share = _up(slot + shape.slot, p.LINE)
        buffer = _up(share + shape.share, p.HEADER)
        area = p.HEADER + 2 * buffer
        area = _up(area, PAGE if area > PAGE else p.HEADER)
        state[p.SLOT], state[p.SHARE], state[p.BUFFER_BYTES], state[p.AREA_BYTES] = slot, share, buffer, area
        first, size = self._ranks[0], len(self._ranks)
        room = shared_memory(channel, said, area * size if channel.rank == first else 0)
        self._room = room[first]
        state[p.AREAS] = self._room.address

    def bind(self, source: np.ndarray, target: np.ndarray) -> None:
        self._arrays = source, target  # kept alive until they are released
        state = self._state
        state[p.INPUT] = at = MPI.Get_address(source)
        state[p.OUTPUT] = to = MPI.Get_address(target)
        if not self._tells:
            return
        state[p.IN_PLACE] = self._overwrites and source is target
        if len(self._ranks) == 1:
            state[p.IN_SEGMENT] = state[p.OUT_SEGMENT] = -1  # one's own memory needs no number
            return
        found = self._segments
        state[p.IN_SEGMENT], state[p.IN_OFFSET] = found.find(at, source.nbytes, self._members)
        state[p.OUT_SEGMENT], state[p.OUT_OFFSET] = found.find(to, target.nbytes, self._members)
        if state[p.IN_PLACE] and state[p.OUT_SEGMENT] == NOWHERE:
            state[p.IN_SEGMENT] = NOWHERE
        self._directory = found.directory
        state[p.DIRECTORY], state[p.SEGMENTS] = self._directory.ctypes.data, len(self._directory)

    def release(self) -> None:
        self._arrays = ()

    def start(self) -> None:
        if self._pending:
            raise CommunicationError(
                "this collective was interrupted or failed before, when only some ranks had done their part: end the "
                "program, or go on with another communicator"
            )
        self._pending = INTERRUPTED  # what stays if an exception comes from a signal between here and the next line
        self._number = self._channel.number
        self._pending = p.run(self._address, FIRST_LOOK)
        if self._pending:
            under_way().add(self)

    def wait(self) -> None:
        if self._pending:
            self._wait_long()
            self._settle()
        self._raise_what_failed()

    def launch(self, tag: int) -> None:
        """The same as `start`; nobody else drives it."""
        self.start()

    def test(self) -> bool:
        return self.poll(0)

    def poll(self, patience: int) -> bool:
        if self._pending == STALLED:
            self._pending = p.run(self._address, patience)
        if self._pending == STALLED:
            return False
        self._settle()
        self._raise_what_failed()
        return True

    def awaits(self) -> tuple[np.ndarray, int]:
        """Flags that it waits for, and has raised, as messages."""
        return as_messages(self._state, self._ranks) if self._pending else all_messages(self._ranks)

    def forget(self) -> None:
        """Nothing: it is kept while it is under way."""

    def advance(self) -> None:
        """Do what can be done at once, while this rank waits for something else."""
        if self._pending == STALLED:
            self._pending = p.run(self._address, 0)
            if not self._pending:
                under_way().discard(self)

    def _wait_long(self) -> None:
        """Control comes back now and then, so that Ctrl-C is heard, alarms of other ranks, and who else needs us."""
        polls = 0
        stall: Stall | None = None
        try:
            while self._pending == STALLED:
                patience = TAKE_TURNS if others_advance(self) else LOOK_AROUND
                self._pending = p.run(self._address, patience)
                polls += patience
                if self._pending == STALLED and polls >= LOOK_AROUND:
                    polls = 0
                    stall = stall or Stall(self._channel, self._number, self._tag)
                    stall.look_around(*self.awaits())
        finally:
            if stall:
                stall.over()

    def _settle(self) -> None:
        """It is complete, or has failed."""
        if self._pending:
            peer = self._ranks[self._state[p.PEER]]
            raise CommunicationError(
                f"rank {self._channel.rank} of {self._channel.size}: rank {peer} passed shared memory that this rank "
                "does not have"
                if self._pending == p.LOST
                else "this collective was interrupted"
            )
        under_way().discard(self)

    def _raise_what_failed(self) -> None:
        if self._kernels is not None and self._kernels.failed:
            raise self._kernels.failed.pop()


def _shape(collective: str, nbytes: int, parts: list[int], size: int, unit: int) -> Shape:
    """Cut the data, of ``nbytes`` or of those parts, into chunks."""
    if collective in ("reduce_scatter", "scatter"):
        longest = max(parts)
        chunk = min(_up(longest, unit), max(CHUNK // size // unit, 1) * unit)
        work = p.FOLD_PARTS if collective == "reduce_scatter" else p.COPY_PART
        return Shape(work, chunk * size, 0, chunk, _pieces(longest, chunk))
    if collective in ("allgather", "gather"):
        longest = max(parts)
        chunk = min(_up(longest, unit), CHUNK)
        return Shape(p.COPY_PARTS, chunk, 0, chunk, _pieces(longest, chunk))
    if collective == "barrier":
        return Shape(p.NOTHING, 0, 0, 0, 1)
    chunk = min(_up(nbytes, unit), CHUNK // unit * unit) if nbytes > p.LINE - p.BESIDE_FLAG else nbytes
    chunks = _pieces(nbytes, chunk)
    if collective == "broadcast":
        return Shape(p.COPY_ALL, chunk, 0, chunk, chunks)
    if (size - 2) * chunk <= FOLD_ALL_READS:
        return Shape(p.FOLD_ALL, chunk, 0, chunk, chunks)
    return Shape(p.FOLD_SHARES, chunk, _up(-(-chunk // size), unit), chunk, chunks)


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def _pieces(n: int, of: int) -> int:
    return max(1, -(-n // max(of, 1)))
