"""The table of one rank of a communicator for a collective by name: algorithm, layout and lowering put together."""

from __future__ import annotations

import numpy as np

from hpcml.collectives import algorithms
from hpcml.collectives.channel import Channel
from hpcml.collectives.layouts import layout
from hpcml.collectives.ops import Op
from hpcml.collectives.table import Table, lower


def lowered(
    channel: Channel,
    collective: str,
    name: str,
    segments: int,
    op: Op | None,
    dtype: np.dtype,
    counts: tuple[int, ...],
    root: int,
    in_place: bool,
) -> Table:
    """The steps of this rank; counts and root as for a `hpcml.collectives.binding.Binding`."""
    rank, size = channel.rank, channel.size
    algorithm = algorithms.named(collective, name)
    blocks = algorithm.blocks(size, segments)
    return lower(
        algorithm.schedule(rank, size, root, segments, *algorithm.by_nodes(size, channel.machine.lanes)),
        rank,
        size,
        layout(collective, rank, size, counts, blocks, dtype.itemsize, root, in_place),
        dtype.itemsize,
        finish=op is not None and op.finishes,
        empty=collective == "barrier",
    )
