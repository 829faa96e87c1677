"""The program of algorithm "shared": a collective bound to a communicator, a data type and an op, in its room.

See `hpcml.collectives.program` for what a program is. This one serves a binding whether its input and output are one
array or not: the ranks' flags have to go on from call to call in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hpcml.collectives.channel import Channel
from hpcml.collectives.errors import CommunicationError
from hpcml.collectives.giving_way import pace
from hpcml.collectives.native_call import libc_address, undispatched
from hpcml.collectives.ops import Op
from hpcml.collectives.program import INTERRUPTED, LOOK_AROUND, STALLED, Part
from hpcml.collectives.shared import protocol
from hpcml.collectives.shared import state as p
from hpcml.collectives.shared.kernels import Kernels, kernels
from hpcml.collectives.shared.mapping import PAGE
from hpcml.collectives.shared.segments import NOWHERE, segments
from hpcml.collectives.shared.waiting import all_messages, as_messages
from hpcml.collectives.stall import Stall
from hpcml.collectives.under_way import TAKE_TURNS, others_advance, under_way

FIRST_LOOK = 500  # polls of flags at the start: a microsecond or so
SPINS = 5000  # polls before the processor is offered to others

CHUNK = 128 << 10  # bytes of a slot: two fit in a second-level cache beside what is read
FEW = 4 << 10  # bytes up to which an input is copied wherever it lies: looking that up would take longer
# Bytes of an array from which on two ranks work on each other's memory, where they can: from here on the second copy
# takes longer than the system takes to find the pages. More ranks: times (p/2)², as there are as many pairs.
REACHING = {
    "allreduce": 256 << 10,
    "reduce_scatter": 1 << 20,
    "broadcast": 2 << 20,
    "reduce": 1 << 20,
    "scatter": 1 << 20,
    "gather": 1 << 20,
    "allgather": 256 << 10,
    "alltoall": 256 << 10,
}
LONG_CHUNK = 64 << 20  # bytes of a chunk then
LONG_STREAM = 8 << 20  # and of an array from which on results go around the caches, but for what is in place
LONG_BLOCK = 256 << 10  # bytes folded at a time, where each takes a system call: they stay in the second nearest cache
STREAM = 32 << 20  # bytes of an array from which on results go around the caches, as they would not stay there
FOLD_ALL = 32 << 10  # bytes up to which two ranks fold all of an array each rather than wait once more; more: by 1/p²


class Shape(NamedTuple):
    """How a collective is done: what with each chunk, and the bytes of a slot, of a share, and of a chunk of a part."""

    work: int
    slot: int
    share: int
    chunk: int
    chunks: int


class Shared(Part):
    """A program (see `hpcml.collectives.program`). Made by all ranks together.

    counts: as a binding has them. tag: the binding's. said: the call in words. ranks: those of the channel that take
    part, of this rank's node (None: all are); ``counts`` and ``root`` go by their order. Other nodes do the same at the
    same time.
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
        reaches = bool(channel.machine.process_ids and size > 1 and nbytes > FEW)
        reaches = reaches and 4 * nbytes >= size**2 * REACHING.get(collective, math.inf)
        shape = _shape(collective, nbytes, max(counts) * item, size, unit, reaches)
        self._kernels: Kernels | None = None if op is None else kernels(op, dtype)
        self._failed: list[BaseException] = [] if self._kernels is None else self._kernels.failed
        self._peers = _peers(collective, np.array(counts, np.int64) * item, rank, size)
        self._state = state = np.zeros(p.STATE, np.int64)
        gives_alone = collective in ("broadcast", "scatter")
        takes_alone = collective in ("reduce", "gather")
        state[p.WORK], state[p.CHUNK_BYTES], state[p.CHUNKS] = shape.work, shape.chunk, shape.chunks
        state[p.RANK], state[p.SIZE] = rank, size
        state[p.GIVER] = root if gives_alone else p.EVERYBODY
        state[p.GIVES] = collective != "barrier" and (not gives_alone or rank == root)
        state[p.TAKER] = root if takes_alone else p.EVERYBODY
        state[p.TAKES] = not takes_alone or rank == root
        only_root = gives_alone and rank != root
        state[p.FIRST], state[p.LAST] = (root, root + 1) if only_root else (0, size)
        state[p.NBYTES], state[p.UNIT], state[p.ITEM] = nbytes, unit, item
        large = STREAM if collective == "broadcast" or not reaches else LONG_STREAM
        state[p.STREAMS] = nbytes // (size if collective == "alltoall" else 1) >= large
        state[p.REACHES] = reaches
        state[p.BLOCK] = block = LONG_BLOCK if reaches else p.NEAR
        self._scratch = np.empty(2 * block if state[p.STREAMS] or reaches else 0, np.uint8)
        state[p.SCRATCH] = self._scratch.ctypes.data
        state[p.FETCHED] = state[p.SCRATCH] + block
        if reaches:
            self._vectors = np.empty(4, np.int64)
            state[p.VECTORS] = self._vectors.ctypes.data
            state[p.READ], state[p.WRITE] = libc_address("process_vm_readv"), libc_address("process_vm_writev")
            self._peers[:, p.PROCESS] = [channel.machine.process_ids[r] for r in ranks]
        state[p.TELLS] = nbytes > FEW
        state[p.FOLDS] = collective in ("allreduce", "reduce") and (reaches or collective == "allreduce")
        state[p.HOLDS] = 1
        state[p.SPINS], state[p.POLLS_PER_NAP] = pace(size, SPINS)
        state[p.PEERS] = self._peers.ctypes.data
        state[p.MEMMOVE] = libc_address("memmove")
        state[p.YIELD], state[p.NAP] = libc_address("sched_yield"), libc_address("usleep")
        if self._kernels is not None:
            state[p.FOLD_KERNEL], state[p.FINISH_KERNEL] = self._kernels.fold, self._kernels.finish
        self._enter_room(channel, shape, said)
        state[p.OVERWRITES] = op is not None
        state[p.FINDS], state[p.BOUNDS] = state[p.TELLS] and size > 1, segments().bounds.ctypes.data
        if size == 1:
            state[p.IN_SEGMENT] = state[p.OUT_SEGMENT] = -1  # one's own memory needs no number
        self._members = frozenset(channel.processes[r] for r in ranks)
        self._segments = segments()
        self._channel, self._tag = channel, tag
        self._number = self._pending = 0
        self._address = state.ctypes.data
        self._begin: Callable[[int, int, int, int], int] = undispatched(protocol.begin)
        self._run: Callable[[int, int], int] = undispatched(protocol.run)
        self._words = state.data  # quicker than the array where one number is set
        self._directory: np.ndarray | None = None
        self._arrays: tuple = ()

    def _enter_room(self, channel: Channel, shape: Shape, said: str) -> None:
        """Make the memory of this binding; all ranks have it mapped for as long as they have the binding."""
        state = self._state
        small = shape.slot + p.BESIDE_FLAG <= p.LINE and not state[p.TELLS]
        slot = p.BESIDE_FLAG if small else p.LINE
        share = _up(slot + shape.slot, p.LINE)
        buffer = _up(share + shape.share, p.HEADER)
        area = p.HEADER + 2 * buffer
        area = _up(area, PAGE if area > PAGE else p.HEADER)
        state[p.SLOT], state[p.SHARE], state[p.BUFFER_BYTES], state[p.AREA_BYTES] = slot, share, buffer, area
        first, size = self._ranks[0], len(self._ranks)
        self._room, state[p.AREAS] = channel.rooms.take(channel, said, area * size, p.HEADER, first)

    def bind(self, source: np.ndarray, target: np.ndarray) -> None:
        self._arrays = source, target  # kept alive until they are released
        if self._segments.directory is not self._directory:
            self._directory = self._segments.directory
            words = self._words
            words[p.DIRECTORY], words[p.SEGMENTS] = self._directory.ctypes.data, len(self._directory)

    def _place(self, source: np.ndarray, target: np.ndarray) -> None:
        """Say where in segments the arrays lie, if they do."""
        words, find = self._words, self._segments.find
        words[p.IN_SEGMENT], words[p.IN_OFFSET] = find(words[p.INPUT], source.nbytes, self._members)
        words[p.OUT_SEGMENT], words[p.OUT_OFFSET] = find(words[p.OUTPUT], target.nbytes, self._members)
        if words[p.IN_PLACE] and words[p.OUT_SEGMENT] == NOWHERE:
            words[p.IN_SEGMENT] = NOWHERE

    @property
    def holds(self) -> bool:
        """Whether this rank's part is of the length that the others take it to have. If not, nothing is moved."""
        return bool(self._words[p.HOLDS])

    @holds.setter
    def holds(self, holds: bool) -> None:
        self._words[p.HOLDS] = holds

    @property
    def held(self) -> bool:
        """Whether it was so on every rank in the last run, of a collective to which all give something."""
        return not self._words[p.CHANGED]

    def release(self) -> None:
        self._arrays = ()

    def start(self, patience: int = FIRST_LOOK) -> None:
        if self._pending:
            raise CommunicationError(
                "this collective was interrupted or failed before, when only some ranks had done their part: end the "
                "program, or go on with another communicator"
            )
        self._pending = INTERRUPTED  # what stays if an exception comes from a signal between here and the next line
        self._number = self._channel.number
        source, target = self._arrays
        self._pending = self._begin(self._address, id(source), id(target), patience)
        if self._pending == p.UNPLACED:
            self._place(source, target)
            self._pending = self._run(self._address, patience)
        if self._pending:
            under_way().add(self)

    def wait(self) -> None:
        if self._pending:
            self._wait_long()
            self._settle()
        if self._failed:
            raise self._failed.pop()

    def run(self, source: np.ndarray, target: np.ndarray) -> None:
        self.bind(source, target)
        self.start(FIRST_LOOK if under_way() else LOOK_AROUND)
        if self._pending or self._failed:
            self.wait()
        self.release()

    def launch(self, tag: int) -> None:
        """The same as `start`; nobody else drives it."""
        self.start()

    def test(self) -> bool:
        return self.poll(0)

    def poll(self, patience: int) -> bool:
        if self._pending == STALLED:
            self._pending = self._run(self._address, patience)
        if self._pending == STALLED:
            return False
        self._settle()
        self.wait()
        return True

    def awaits(self) -> tuple[np.ndarray, int]:
        """Flags that it waits for, and has raised, as messages."""
        return as_messages(self._state, self._ranks) if self._pending else all_messages(self._ranks)

    def forget(self) -> None:
        """Nothing: it is kept while it is under way."""

    def advance(self) -> bool:
        """Do what can be done at once, while this rank waits for something else."""
        if self._pending == STALLED:
            self._pending = self._run(self._address, 0)
            if not self._pending:
                under_way().discard(self)
        return True

    def _wait_long(self) -> None:
        """Control comes back now and then, so that Ctrl-C is heard, alarms of other ranks, and who else needs us."""
        polls = 0
        stall: Stall | None = None
        try:
            while self._pending == STALLED:
                patience = TAKE_TURNS if others_advance(self) else LOOK_AROUND
                self._pending = self._run(self._address, patience)
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
            me = f"rank {self._channel.rank} of {self._channel.size}"
            said = {
                p.LOST: f"{me}: rank {peer} passed shared memory that this rank does not have",
                p.REFUSED: f"{me}: the system refuses access to an array of rank {peer}: it was freed, or rank {peer} "
                "has ended, or the system's rules have changed",
                p.HINDERED: f"{me}: the system refuses rank {peer} access to an array of another rank; see the error "
                f"of rank {peer}",
            }
            raise CommunicationError(said.get(self._pending, "this collective was interrupted"))
        under_way().discard(self)


def _peers(collective: str, parts: np.ndarray, rank: int, size: int) -> np.ndarray:
    """The table of ranks, for parts of that many bytes."""
    peers = np.zeros((size, p.COLUMNS), np.int64)
    if collective == "alltoall":
        parts = parts.reshape(size, size)
        peers[:, p.GIVEN_BYTES], peers[:, p.GIVEN_AT] = parts[rank], _starts(parts[rank])
        peers[:, p.FROM] = [_starts(given)[rank] for given in parts]
        peers[:, p.TO] = [_starts(taken)[rank] for taken in parts.T]
        parts = parts[:, rank]
    if len(parts) == size:
        peers[:, p.BYTES], peers[:, p.START] = parts, _starts(parts)
    return peers


def _starts(parts: np.ndarray) -> np.ndarray:
    return np.cumsum(parts) - parts


def _shape(collective: str, nbytes: int, longest: int, size: int, unit: int, reaches: bool) -> Shape:
    """Cut the data, of ``nbytes``, or of parts of which the longest has that many, into chunks.

    reaches: they do not go through slots.
    """
    if reaches:
        shape = _in_slots(collective, nbytes, longest, size, unit, LONG_CHUNK)
        return shape._replace(slot=0, share=0)
    return _in_slots(collective, nbytes, longest, size, unit, CHUNK)


def _in_slots(collective: str, nbytes: int, longest: int, size: int, unit: int, most: int) -> Shape:
    if collective in ("reduce_scatter", "scatter", "alltoall"):
        chunk = min(_up(longest, unit), max(most // size // unit, 1) * unit)
        work = {"reduce_scatter": p.FOLD_PARTS, "scatter": p.COPY_PART, "alltoall": p.EXCHANGE}[collective]
        return Shape(work, chunk * size, 0, chunk, _pieces(longest, chunk))
    if collective in ("allgather", "gather"):
        chunk = min(_up(longest, unit), most)
        return Shape(p.COPY_PARTS, chunk, 0, chunk, _pieces(longest, chunk))
    if collective == "barrier":
        return Shape(p.NOTHING, 0, 0, 0, 1)
    chunk = min(_up(nbytes, unit), most // unit * unit) if nbytes > p.LINE - p.BESIDE_FLAG else nbytes
    chunks = _pieces(nbytes, chunk)
    if collective == "broadcast":
        return Shape(p.COPY_ALL, chunk, 0, chunk, chunks)
    if size**2 * nbytes <= 4 * FOLD_ALL:
        return Shape(p.FOLD_ALL, chunk, 0, chunk, chunks)
    return Shape(p.FOLD_SHARES, chunk, _up(-(-chunk // size), unit), chunk, chunks)


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def _pieces(n: int, of: int) -> int:
    return max(1, -(-n // max(of, 1)))
