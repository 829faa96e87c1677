"""Collectives between ranks of one node that read and write each other's GPU memory (CUDA IPC), on one GPU or on peers.

A collective is three steps. The ranks tell each other where their arrays are, which also says that these may be
touched. Each rank does its part in one kernel, straight from all arrays to all arrays: of a reduction of n items, it
folds the r-th of p slices of all ranks' inputs, in rank order, and writes it to all who want it; of what is only moved,
it copies what it wants. Then a barrier: nobody leaves while others still work on his memory. So an all-reduce moves p
inputs and p outputs through memory once, which no way of doing it goes below.

A handle is one of a whole allocation, of which an array may be a piece (CuPy and PyTorch cut arrays from pools), so the
distance from its start travels along. Memory of which there is no handle (of cudaMallocAsync, or of virtual memory) is
copied to, and from, memory of our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import numpy as np

from hpcml.collectives.channel import Channel
from hpcml.collectives.device import kernels
from hpcml.collectives.device.arrays import DeviceArray
from hpcml.collectives.device.links import Links
from hpcml.collectives.device.runtime import Memory
from hpcml.collectives.device.scripted import Scripted
from hpcml.collectives.lowering import lowered
from hpcml.collectives.ops import Op
from hpcml.collectives.program import Part, make_program

HANDLE = 72
PLACE = np.dtype([("handle", f"V{HANDLE}"), ("offset", "<i8")])  # of an array; a handle of zeros: no array
PAGE = 16  # bytes: where slices begin


class Peers(Scripted):
    """counts: items, as for a `hpcml.collectives.binding.Binding`."""

    def __init__(
        self,
        channel: Channel,
        links: Links,
        collective: str,
        op: Op | None,
        dtype: np.dtype,
        counts: tuple[int, ...],
        root: int,
        tag: int,
    ):
        super().__init__(channel, links, tag)
        self._collective, self._op, self._dtype, self._counts, self._root = collective, op, dtype, counts, root
        size, record = channel.size, 2 * PLACE.itemsize
        self._mine = np.zeros(2, PLACE)
        self._all = np.zeros((size, 2), PLACE)
        byte = np.dtype(np.uint8)
        tables = (
            lowered(channel, "allgather", "bruck", 1, None, byte, (record,) * size, 0, False),
            lowered(channel, "barrier", "dissemination", 1, None, byte, (0,) * size, 0, False),
        )
        self._tell, self._part = (make_program(channel, table, tag, None, byte) for table in tables)
        self._own: list[Memory | None] = [None, None]
        self._scratch: Memory | None = None

    def _script(self, tag: int, background: bool) -> Iterator[None]:
        runtime, stream = self._runtime, self._stream
        source, target = self._source, self._target
        # A scan is not done in place: what a rank writes the ranks above it still read.
        apart = target is source and self._collective in ("scan", "exscan")
        given = self._shared(0, source, copied=True)
        wanted = given if target is source and not apart else self._shared(1, target, copied=False, apart=apart)
        self._mine[0], self._mine[1] = given[1], wanted[1]
        ready = runtime.record(stream)
        while not ready.done():  # peers work on streams of theirs, which do not see this one's events
            yield
        self._links.mapped.begin()
        try:
            yield from self._messages(self._tell, self._mine, self._all, tag, background)
            self._do(given[0], wanted[0])
            done = runtime.record(stream)
            while not done.done():
                yield
            yield from self._messages(self._part, np.empty(0, np.uint8), np.empty(0, np.uint8), tag, background)
        finally:
            self._links.mapped.end()
        left = self._collective == "exscan" and self.channel.rank == 0  # as it was
        if wanted[0] != target.pointer and target.nbytes and not left:
            runtime.copy(target.pointer, wanted[0], target.nbytes, stream)

    def _messages(
        self, program: Part, source: np.ndarray, target: np.ndarray, tag: int, background: bool
    ) -> Iterator[None]:
        """Run a program on the host."""
        program.bind(*(a.reshape(-1).view(np.uint8) for a in (source, target)))
        if background:
            program.launch(tag)
        else:
            program.start()
        while not program.test():
            self._rows, self._at = program.awaits()
            yield
        self._rows, self._at = (), 0
        program.release()

    def _shared(self, which: int, array: DeviceArray, copied: bool, apart: bool = False) -> tuple[int, np.ndarray]:
        """Where an array is, or memory of ours in its place (``apart``: in any case), here and for others.

        copied: with what is in it.
        """
        place = np.zeros((), PLACE)
        if not array.nbytes:
            return array.pointer, place
        pointer = array.pointer
        try:
            if apart:
                raise OSError("it is not to be written yet")
            handle, offset = self._runtime.handle(pointer)
        except OSError:
            own = self._own[which] = self._own[which] or self._runtime.shareable(self._room(which))
            pointer = own.pointer
            if copied:
                self._runtime.copy(pointer, array.pointer, array.nbytes, self._stream)
            handle, offset = self._runtime.handle(pointer)
        place["handle"], place["offset"] = np.void(handle.ljust(HANDLE, b"\0")), offset
        return pointer, place

    def _room(self, which: int) -> int:
        """Bytes of the array of this rank; the same in every run."""
        return max((self._source, self._target)[which].nbytes, 1)

    def _addresses(self, rank: int) -> list[int]:
        """Of that rank's input and output, here; 0 where it has none."""
        found = []
        for place in self._all[rank]:
            handle = bytes(place["handle"]).ljust(HANDLE, b"\0")
            if not any(handle):
                found.append(0)
            else:
                found.append(self._links.mapped.address(rank, handle) + int(place["offset"]))
        return found

    def _do(self, source: int, target: int) -> None:
        """This rank's part, put on the stream."""
        rank = self.channel.rank
        addresses = [[source, target] if r == rank else self._addresses(r) for r in range(self.channel.size)]
        sources, targets = [a for a, _ in addresses], [a for _, a in addresses]
        if self._op is None:
            self._move(sources, target)
            return
        unit = self._dtype.itemsize
        if self._collective in ("allreduce", "reduce"):
            start, stop = _slice(sum(self._counts), rank, self.channel.size, max(1, PAGE // unit))
            to = targets if self._collective == "allreduce" else [targets[self._root]]
            self._fold([t + start * unit for t in to], [s + start * unit for s in sources], stop - start)
        elif self._collective == "reduce_scatter":
            start = sum(self._counts[:rank])
            self._fold([target], [s + start * unit for s in sources], self._counts[rank])
        else:
            below = sources[: rank + (self._collective == "scan")]
            if below:
                self._fold([target], below, sum(self._counts))

    def _fold(self, targets: list[int], sources: list[int], count: int) -> None:
        assert self._op is not None
        divisor = self.channel.size if self._op.finishes else 0
        scratch = 0
        if len(sources) > kernels.MOST:
            self._scratch = self._scratch or self._runtime.empty(count * self._dtype.itemsize, self._stream)
            scratch = self._scratch.pointer
        kernels.fold(self._runtime, self._op, self._dtype, targets, sources, count, self._stream, divisor, scratch)

    def _move(self, sources: list[int], target: int) -> None:
        """Copy what this rank wants: from each rank, items (from, to, count)."""
        rank, size, root = self.channel.rank, self.channel.size, self._root
        counts = self._counts
        starts = list(accumulate(counts, initial=0))
        wanted: list[tuple[int, int, int, int]] = []  # rank, items before in its input, before in the output, items
        if self._collective == "broadcast":
            wanted = [(root, 0, 0, sum(counts))]
        elif self._collective == "scatter":
            wanted = [(root, starts[rank], 0, counts[rank])]
        elif self._collective == "allgather" or (self._collective == "gather" and rank == root):
            wanted = [(peer, 0, starts[peer], counts[peer]) for peer in range(size)]
        elif self._collective == "alltoall":
            came = 0
            for peer in range(size):
                before = starts[peer * size + rank] - starts[peer * size]
                wanted.append((peer, before, came, counts[peer * size + rank]))
                came += counts[peer * size + rank]
        unit = self._dtype.itemsize
        turned = [wanted[(rank + i) % len(wanted)] for i in range(len(wanted))]  # so that not all begin with rank 0
        for peer, before, at, count in turned:
            read, write = sources[peer] + before * unit, target + at * unit
            if count and read != write:
                self._runtime.copy(write, read, count * unit, self._stream)


def _slice(count: int, rank: int, size: int, unit: int) -> tuple[int, int]:
    """The items of that rank's slice, which begins on a multiple of ``unit``."""
    units = -(-count // unit)
    return tuple(min(count, units * r // size * unit) for r in (rank, rank + 1))  # type: ignore[return-value]
