"""Arrays that all ranks of a node can see, and how a rank's array is found in the memory of another.

A segment is one rank's memory from one call of `empty`. It ends when its owner has no array in it any more. Its
neighbours may come to that point later or earlier, so the owner marks its segment, gives the memory back at once, and
the others let go of their mappings when they next call `empty`.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import weakref
from bisect import bisect_right
from collections.abc import Hashable
from operator import index
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from hpcml.collectives.channel import Channel, channel_of
from hpcml.collectives.shared.mapping import PAGE, Mapping, give_back, shared_memory

NOWHERE = 0  # no segment's number


class Segment(NamedTuple):
    """This rank's: its addresses, its number (no other segment on the node has it), who has it mapped."""

    start: int
    end: int
    number: int
    members: frozenset[Hashable]


class Segments:
    """What this process has of shared memory: own segments, by address, and the neighbours', by number."""

    def __init__(self) -> None:
        self._made = 0
        self.own: dict[int, Segment] = {}
        self._sorted: tuple[list[int], list[Segment]] = [], []
        self.bounds = np.zeros(2, np.int64)  # all own ones lie between these; always the same memory
        self._theirs: dict[int, Mapping] = {}
        self.directory = np.zeros((0, 2), np.int64)  # number, address here; of the neighbours' segments, in order

    def make(self, channel: Channel, nbytes: int, said: str = "empty") -> np.ndarray:
        """Memory of ``nbytes`` at least, on the boundary of a page. Collective over the channel.

        said: the call that needs it, in words.
        """
        room = -(-max(nbytes, 1) // PAGE) * PAGE
        self._made += 1
        number = os.getpid() << 32 | self._made
        mappings = shared_memory(channel, said, room + PAGE, number)  # the last page holds the mark
        own = mappings.pop(channel.rank)
        _mark(own.address + room, 1)
        members = frozenset(channel.processes[rank] for rank in channel.machine.ranks_of_node(channel.rank))
        segment = Segment(own.address, own.address + room, number, members)
        self.own[number] = segment
        weakref.finalize(own, self._end, segment, os.getpid()).atexit = False
        self._theirs = {number: mapping for number, mapping in self._theirs.items() if _marked(mapping)}
        self._theirs.update((mapping.number, mapping) for mapping in mappings.values())
        rows = [(number, mapping.address) for number, mapping in sorted(self._theirs.items())]
        self.directory = np.array(rows, np.int64).reshape(-1, 2)
        self._sort()
        return np.asarray(own)[:nbytes]

    def find(self, address: int, nbytes: int, members: frozenset[Hashable]) -> tuple[int, int]:
        """Number and offset of that memory if it lies in a segment that all ``members`` have; ``(NOWHERE, 0)`` if not.

        members: as in `Channel.members`.
        """
        starts, own = self._sorted
        at = bisect_right(starts, address) - 1
        if at >= 0:
            segment = own[at]
            if address + nbytes <= segment.end and members <= segment.members:
                return segment.number, address - segment.start
        return NOWHERE, 0

    def hold(self, x: np.ndarray, members: frozenset[Hashable]) -> bool:
        """Whether the items of ``x``, in C order, lie in a segment of this rank that all ``members`` have."""
        if not self.own or not x.flags.c_contiguous:
            return False
        return self.find(MPI.Get_address(x), x.nbytes, members)[0] != NOWHERE

    def _end(self, segment: Segment, pid: int) -> None:
        """The owner's last array is gone; its memory is still mapped: finalizers run last made, first called."""
        self.own.pop(segment.number, None)
        self._sort()
        if os.getpid() == pid:  # a forked child has the mapping, but the memory is not its own
            nbytes = segment.end - segment.start + PAGE
            _mark(segment.end, 0)
            give_back(segment.start, nbytes)

    def _sort(self) -> None:
        segments = sorted(list(self.own.values()))  # a list first: `_end` may run at any time
        self._sorted = [segment.start for segment in segments], segments
        self.bounds[:] = (segments[0].start, segments[-1].end) if segments else 0


@functools.cache
def segments() -> Segments:
    """Those of this process."""
    return Segments()


def empty(shape: int | tuple[int, ...], dtype: Any = "f8", comm: MPI.Comm | None = None) -> np.ndarray:
    """An array, not initialised, that all ranks of the node can see: collectives on it need no copies.

    Called by every rank of ``comm`` (None: MPI.COMM_WORLD); each gets memory of its own, and shapes may differ. It is
    an ordinary array in all else, and so are its views; collectives find out by its address where it lies, on ``comm``
    and on any communicator of some of its ranks. Freed, without the other ranks, when no array refers to it.

    Raises:
        ArgumentError: a shape or dtype that NumPy does not take, or items that are Python objects; on every rank.
        CollectiveError: no memory, or the system does not let ranks share it; on every rank.

    Example::

        x = hc.empty(1_000_000, "f4")
        x[:] = MPI.COMM_WORLD.rank
        hc.allreduce(x, out=x)                 # zero-copy
    """
    channel = channel_of(comm)
    error: Exception | None = None
    sizes: tuple[int, ...] = ()
    kind = np.dtype("u1")
    try:
        kind = np.dtype(dtype)
        sizes = tuple(index(n) for n in shape) if isinstance(shape, (tuple, list)) else (index(shape),)
        if kind.hasobject or not kind.itemsize:
            raise TypeError(f"items of dtype {kind} cannot be in shared memory: expected numbers of a fixed size")
        if min(sizes, default=0) < 0:
            raise ValueError(f"shape {shape!r} has a negative length")
    except (TypeError, ValueError) as caught:
        error = caught
    channel.agree("empty", "empty", error)
    return segments().make(channel, math.prod(sizes) * kind.itemsize).view(kind).reshape(sizes)


def _mark(address: int, value: int) -> None:
    ctypes.c_int64.from_address(address).value = value


def _marked(mapping: Mapping) -> bool:
    return ctypes.c_int64.from_address(mapping.address + mapping.nbytes - PAGE).value != 0
