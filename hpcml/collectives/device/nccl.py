"""Collectives by NCCL, through CuPy, where each rank has a GPU of its own.

NCCL puts its kernels on the library's stream, so nothing waits on the host. What it has no call for is made of its
sends and receives in one group.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np

from hpcml.collectives.channel import Channel
from hpcml.collectives.device import kernels
from hpcml.collectives.device.links import Links
from hpcml.collectives.device.scripted import Scripted
from hpcml.collectives.ops import Op

OPS = {"sum": "NCCL_SUM", "mean": "NCCL_SUM", "prod": "NCCL_PROD", "min": "NCCL_MIN", "max": "NCCL_MAX"}
TYPES = {"i1": "INT8", "u1": "UINT8", "i4": "INT32", "u4": "UINT32", "i8": "INT64", "u8": "UINT64", "f2": "FLOAT16",
         "f4": "FLOAT32", "f8": "FLOAT64", "bf2": "BFLOAT16"}  # fmt: skip


@cache
def loaded() -> bool:
    """Whether CuPy has it."""
    try:
        from cupy.cuda import nccl
    except ImportError:
        return False
    return bool(nccl.available)


def can(collective: str, op: Op | None, dtype: np.dtype, counts: tuple[int, ...]) -> bool:
    """Whether it does that collective."""
    if op is None:
        return collective != "barrier"
    if collective == "reduce_scatter" and len(set(counts)) > 1:
        return False
    if collective not in ("allreduce", "reduce", "reduce_scatter"):
        return False
    return op.name in OPS and kernels.item(dtype) in TYPES


def communicator(channel: Channel) -> Any:
    """NCCL's communicator of these ranks. Collective."""
    from cupy.cuda import nccl

    identity = channel.comm.bcast(nccl.get_unique_id() if channel.rank == 0 else None)
    return nccl.NcclCommunicator(channel.size, identity, channel.rank)


class Nccl(Scripted):
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
        self._nccl = links.nccl_communicator

    def _script(self, tag: int, background: bool) -> Iterator[None]:
        source, target = self._source.pointer, self._target.pointer
        if self._op is None:
            self._move(source, target)
        else:
            self._reduce(self._op, source, target)
        yield from ()

    def _reduce(self, op: Op, source: int, target: int) -> None:
        from cupy.cuda import nccl

        kind = getattr(nccl, f"NCCL_{TYPES[str(kernels.item(self._dtype))]}")
        how, count, stream = getattr(nccl, OPS[op.name]), self._counts[0], self._stream
        if self._collective == "allreduce":
            self._nccl.allReduce(source, target, count, kind, how, stream)
        elif self._collective == "reduce":
            self._nccl.reduce(source, target, count, kind, how, self._root, stream)
            if self.channel.rank != self._root:
                return
        else:
            self._nccl.reduceScatter(source, target, count, kind, how, stream)
        if op.finishes:
            kernels.fold(self._runtime, op, self._dtype, [target], [target], count, stream, self.channel.size)

    def _move(self, source: int, target: int) -> None:
        from cupy.cuda import nccl

        rank, size, root, unit = self.channel.rank, self.channel.size, self._root, self._dtype.itemsize
        counts = [n * unit for n in self._counts]
        starts = list(accumulate(counts, initial=0))
        kind, stream = nccl.NCCL_UINT8, self._stream
        if self._collective == "broadcast":
            self._nccl.broadcast(source, target, counts[0], kind, root, stream)
            return
        sends: list[tuple[int, int, int]] = []  # peer, address, bytes
        receives: list[tuple[int, int, int]] = []
        if self._collective == "scatter":
            sends = [(peer, source + starts[peer], counts[peer]) for peer in range(size) if rank == root]
            receives = [(root, target, counts[rank])]
        elif self._collective == "gather":
            sends = [(root, source, counts[rank])]
            receives = [(peer, target + starts[peer], counts[peer]) for peer in range(size) if rank == root]
        elif self._collective == "allgather":
            sends = [(peer, source, counts[rank]) for peer in range(size)]
            receives = [(peer, target + starts[peer], counts[peer]) for peer in range(size)]
        else:
            mine = starts[rank * size]
            sends = [(p, source + starts[rank * size + p] - mine, counts[rank * size + p]) for p in range(size)]
            at = target
            for peer in range(size):
                receives.append((peer, at, counts[peer * size + rank]))
                at += counts[peer * size + rank]
        nccl.groupStart()
        for peer, address, nbytes in sends:
            if nbytes:
                self._nccl.send(address, nbytes, kind, peer, stream)
        for peer, address, nbytes in receives:
            if nbytes:
                self._nccl.recv(address, nbytes, kind, peer, stream)
        nccl.groupEnd()
