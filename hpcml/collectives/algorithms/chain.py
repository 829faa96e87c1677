"""The pipelined chain: the root's data pass from rank to rank in k segments, all links busy at once.

p − 2 + k rounds, n bytes sent per rank: with many segments the whole broadcast takes little more than one message.
"""

from __future__ import annotations

import numpy as np

from hpcml.collectives.schedule import REPLACE, Blocks, Exchange, Rank, Schedule, only_if


def broadcast(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """Segment s leaves the rank at place r of the chain in round r + s."""
    place = (rank - root) % size
    for step in range(size - 2 + segments if size > 1 else 0):
        outgoing, incoming = step - place, step - (place - 1)
        sends = (place < size - 1) & (outgoing >= 0) & (outgoing < segments)
        receives = (place > 0) & (incoming >= 0) & (incoming < segments)
        yield (
            Exchange(
                only_if(sends, (rank + 1) % size),
                Blocks(np.where(sends, outgoing, 0), 1),
                only_if(receives, (rank - 1) % size),
                Blocks(np.where(receives, incoming, 0), 1),
                REPLACE,
            ),
        )
