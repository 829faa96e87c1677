"""What the ranks of a communicator have for arrays in GPU memory: streams, and which ways lead between their GPUs."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np

from hpcml.collectives.channel import Channel
from hpcml.collectives.device.arrays import CUPY, DeviceArray, new
from hpcml.collectives.device.awareness import Verdict, awareness
from hpcml.collectives.device.runtime import Runtime
from hpcml.collectives.waits import waiting

KEPT_OPEN = 128  # allocations of other processes that stay mapped


class Streams(NamedTuple):
    """Of the library. work: folds and copies on the device. down, up: copies to the host, and from it."""

    work: int
    down: int
    up: int


@cache
def streams_of(runtime: Any) -> Streams:
    """One set a device."""
    return Streams(runtime.new_stream(), runtime.new_stream(), runtime.new_stream())


class Links:
    """Of one channel, of which every rank makes them at its first collective with an array in GPU memory.

    ipc, nccl, aware: whether ranks can map each other's memory, NCCL can be used, MPI takes device pointers; the same
    on every rank.
    """

    def __init__(self, channel: Channel, runtime: Runtime):
        self._channel, self.runtime = channel, runtime
        self.streams = streams_of(runtime)  # type: ignore[arg-type]
        self.nothing = new(runtime, (0,), np.dtype(np.uint8), CUPY, None)
        self.mapped = Mapped(runtime)
        with waiting("the first collective with GPU memory on a communicator"):
            self._gpus = channel.comm.allgather((channel.machine.node_of[channel.rank], runtime.gpu))
            self.ipc = self._ipc()
        self.nccl = self._nccl()

    def _ipc(self) -> Verdict:
        """Every rank maps a little memory of every other and reads what that has written there."""
        channel, runtime, stream = self._channel, self.runtime, self.streams.work
        if channel.machine.nodes > 1:
            return Verdict(False, f"the ranks are on {channel.machine.nodes} nodes")
        memory = runtime.shareable(8)
        word = runtime.pinned(8)
        word.view(np.int64)[:] = channel.rank
        runtime.copy(memory.pointer, word.ctypes.data, 8, stream)
        runtime.record(stream).synchronize()
        error = ""
        try:
            mine = runtime.handle(memory.pointer)
        except OSError as caught:
            mine, error = (b"", 0), str(caught)
        for rank, (handle, offset) in enumerate(channel.comm.allgather(mine)):
            if rank == channel.rank or error:
                continue
            try:
                address = runtime.open(handle) if handle else 0
                if not handle:
                    raise OSError("it has no handle")
                runtime.copy(word.ctypes.data, address + offset, 8, stream)
                runtime.record(stream).synchronize()
                if word.view(np.int64)[0] != rank:
                    raise OSError("it is not that rank's memory")
                runtime.close(address)
            except OSError as caught:
                error = f"memory of rank {rank}: {caught}"
        errors = [found for found in channel.comm.allgather(error) if found]
        if errors:
            return Verdict(False, errors[0])
        shared = len(set(self._gpus)) < channel.size
        return Verdict(True, "all ranks are on one node and map each other's memory" + ", on one GPU" * shared)

    def _nccl(self) -> Verdict:
        """NCCL takes one rank a GPU."""
        if len(set(self._gpus)) < self._channel.size:
            return Verdict(False, "several ranks share a GPU")
        from hpcml.collectives.device.nccl import loaded

        has = self._channel.comm.allgather(loaded())
        return Verdict(all(has), "every rank has a GPU of its own" if all(has) else "NCCL is not installed")

    @cached_property
    def nccl_communicator(self) -> Any:
        """Collective where it is first asked for."""
        from hpcml.collectives.device.nccl import communicator

        self.runtime.use()
        with waiting("NCCL's first collective on a communicator"):
            return communicator(self._channel)

    @cached_property
    def aware(self) -> Verdict:
        """Collective where it is first asked for. One rank of each node finds out."""
        nodes = self._channel.machine.node_of
        first = nodes.index(nodes[self._channel.rank]) == self._channel.rank
        with waiting("a trial of MPI with GPU memory"):
            said = [found for found in self._channel.comm.allgather(awareness() if first else None) if found]
        return next((verdict for verdict in said if not verdict.can), said[0])

    def check(self, x: DeviceArray) -> None:
        if x.runtime is not self.runtime:
            raise ValueError(
                f"the array is on {x.runtime.name} ({x.runtime.gpu}), and this communicator has worked on "
                f"{self.runtime.name} ({self.runtime.gpu}) on this rank: use one GPU a rank"
            )


class Mapped:
    """Other processes' allocations, mapped into this one; the one unused for longest goes first."""

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        self._addresses: OrderedDict[tuple[int, bytes], int] = OrderedDict()
        self._busy = 0  # runs that use some of them

    def begin(self) -> None:
        self._busy += 1

    def end(self) -> None:
        self._busy -= 1
        while len(self._addresses) > KEPT_OPEN and not self._busy:
            self._runtime.close(self._addresses.popitem(last=False)[1])

    def address(self, rank: int, handle: bytes) -> int:
        """Where the allocation of that handle is here."""
        key = rank, handle
        if key not in self._addresses:
            try:
                self._addresses[key] = self._runtime.open(handle)
            except OSError:  # it may overlap one that its owner has freed since
                for stale in [known for known in self._addresses if known[0] == rank and self._busy <= 1]:
                    self._runtime.close(self._addresses.pop(stale))
                self._addresses[key] = self._runtime.open(handle)
        self._addresses.move_to_end(key)
        return self._addresses[key]


def links_of(channel: Channel, runtime: Runtime) -> Links:
    """The channel's. The first call is collective."""
    if channel.links is None:
        channel.links = Links(channel, runtime)
    return channel.links
