"""On which way the bytes of device arrays go from rank to rank: which there are, which one a call takes, and why.

"nccl": NCCL, where each rank has a GPU of its own. "ipc": ranks of one node work on each other's GPU memory. "mpi":
messages of an MPI library that takes device pointers. "staged": messages through pinned host memory. "host": all of it
on the host, for what there are no kernels for. They are tried in this order; an algorithm that is asked for by name is
a table, which goes by messages.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hpcml.collectives import choice, shared
from hpcml.collectives.algorithms import named, of
from hpcml.collectives.channel import Channel
from hpcml.collectives.device import kernels, nccl
from hpcml.collectives.device.links import Links
from hpcml.collectives.device.wanted import wanted
from hpcml.collectives.errors import ArgumentError
from hpcml.collectives.ops import Op

SEGMENT = 4 << 20  # bytes of a segment on the device: long enough for a kernel to be worth its launch
WAYS = {
    "nccl": "NCCL",
    "ipc": "one kernel a rank, on the GPU memory of all ranks of the node (CUDA IPC)",
    "mpi": "kernels on the device, on MPI's point-to-point messages from and to GPU memory",
    "staged": "kernels on the device, on MPI's point-to-point messages through pinned host memory, in chunks",
    "host": "copied to pinned host memory and back, and done by the host",
    "local": "copies on the device",
}


class Taken(NamedTuple):
    """way: a key of `WAYS`. algorithm, segments: of the table that goes by messages, or the way's name and 1."""

    way: str
    algorithm: str
    segments: int
    why: str
    seconds: float | None = None


def taken(
    channel: Channel,
    links: Links,
    collective: str,
    name: str,
    op: Op | None,
    dtype: np.dtype,
    counts: tuple[int, ...],
    nbytes: int,
    root: int,
) -> Taken:
    """The way for a collective where algorithm ``name`` is asked for; ArgumentError where that cannot do it.

    The same on every rank, and collective.
    """
    if name == "native":
        return Taken("host", name, 1, "the MPI library's own algorithm never gets GPU memory to reduce")
    if op is not None and not kernels.folds(op, dtype):
        what = "an MPI.Op of the user's own" if op.ufunc is None else f"{op.name} of {dtype}"
        return Taken("host", name, 1, f"there is no kernel for {what}")
    if channel.size == 1:
        return Taken("local", _first(collective), 1, "one rank has nobody to talk to")
    asked = "ipc" if name == shared.NAME else wanted()
    if name in ("auto", shared.NAME):
        has = nccl.can(collective, op, dtype, counts)
        if asked == "nccl" or (asked == "auto" and links.nccl.can and has):
            if not (links.nccl.can and has):
                why = f"it does not do {collective}" if links.nccl.can else links.nccl.why
                raise ArgumentError(
                    f"{collective}: NCCL cannot be used: {why}; use another device transport, or 'auto'"
                )
            return Taken("nccl", "nccl", 1, links.nccl.why)
        if asked == "ipc" or (asked == "auto" and links.ipc.can):
            if not links.ipc.can:
                raise ArgumentError(f"{collective}: CUDA IPC cannot be used: {links.ipc.why}; use 'auto'")
            return Taken("ipc", "ipc", 1, links.ipc.why)
    elif asked in ("nccl", "ipc"):
        asked = "auto"  # an algorithm by name is a table, which goes by messages
    if asked == "mpi" and not links.aware.can:
        raise ArgumentError(f"{collective}: MPI cannot take GPU memory: {links.aware.why}; use transport 'staged'")
    way = "staged" if asked == "staged" or not links.aware.can else "mpi"
    because = "asked for" if asked == way else links.aware.why
    if name == "auto":
        found = choice.choose(channel.machine, collective, nbytes, lambda a: a not in ("native", shared.NAME), False)
        return Taken(way, found.algorithm, _segments(channel, collective, found.algorithm, nbytes), because)
    algorithm = named(collective, name)
    if op is not None and not op.commutes and not (algorithm.ordered and root == 0):
        raise ArgumentError(
            f"{collective}: algorithm {name!r} does not fold in rank order, and this op does not commute"
        )
    return Taken(way, name, _segments(channel, collective, name, nbytes), f"asked for by name; {because}")


def _segments(channel: Channel, collective: str, name: str, nbytes: int) -> int:
    row = named(collective, name)
    if not row.segmented:
        return 1
    return max(1, min(choice.MOST_SEGMENTS, nbytes // row.blocks(channel.size, 1) // SEGMENT))


def _first(collective: str) -> str:
    """Any algorithm: on one rank they are all the same."""
    return next(of(collective)).name
