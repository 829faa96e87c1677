"""The program for a binding of device arrays, by the way that is taken."""

from __future__ import annotations

import numpy as np

from hpcml.collectives.channel import Channel
from hpcml.collectives.device.host import ThroughHost
from hpcml.collectives.device.links import Links
from hpcml.collectives.device.nccl import Nccl
from hpcml.collectives.device.peers import Peers
from hpcml.collectives.device.transport import Taken
from hpcml.collectives.device.walk import Walk
from hpcml.collectives.lowering import lowered
from hpcml.collectives.ops import Op
from hpcml.collectives.program import Program


def make(
    channel: Channel,
    links: Links,
    taken: Taken,
    collective: str,
    op: Op | None,
    dtype: np.dtype,
    counts: tuple[int, ...],
    root: int,
    tag: int,
    in_place: bool,
    on_host: Program | None,
) -> Program:
    """on_host: for the way "host", the host's program. Some programs are made by all ranks together."""
    if taken.way == "host":
        assert on_host is not None
        return ThroughHost(channel, links, tag, on_host, dtype)
    if taken.way in ("nccl", "ipc"):
        kind = Nccl if taken.way == "nccl" else Peers
        return kind(channel, links, collective, op, dtype, counts, root, tag)
    table = lowered(channel, collective, taken.algorithm, taken.segments, op, dtype, counts, root, in_place)
    return Walk(channel, links, table, tag, op, dtype, direct=taken.way == "mpi")
