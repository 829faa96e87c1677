"""The algorithm "shared": ranks of one node read and write each other's memory, without messages.

A rank passes `hpcml.collectives.empty` arrays, which all ranks of the node have mapped, and its neighbours work on them
where they are; or it passes ordinary arrays, and they go through slots that all have mapped. `protocol` is the
compiled part: who waits for whom, who reads what.
"""

from __future__ import annotations

NAME = "shared"

COLLECTIVES = (
    "allreduce",
    "reduce",
    "reduce_scatter",
    "broadcast",
    "scatter",
    "gather",
    "allgather",
    "alltoall",
    "barrier",
)

WORTHWHILE = 64 << 10  # bytes from which "auto" takes it for arrays of `hpcml.collectives.empty`
ROOM = 512 << 10  # bytes of a rank's part of a binding's common memory, at most
