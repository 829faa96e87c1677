"""Collectives by nodes: shared memory inside each node, and lanes between the nodes.

q ranks a node, the ranks of a node in a row. A lane is the q-th part of the data and one rank of each node, those that
have the same place in their nodes; all lanes are busy at the same time. An all-reduce is three stages: a reduce-scatter
in each node, through memory that its ranks share; an all-reduce in each lane, by messages, with the algorithm that the
cost model takes for so many nodes where q lanes share a link; an allgather in each node. A broadcast begins with a
scatter in the root's node, and has a broadcast in each lane. Each rank's part lies in memory that its node shares, so
that the last stage copies every byte once.

It is what `algorithms.hierarchical` does by messages alone, which runs where the ranks of a node cannot map each
other's memory, and in the background. Träff and Hunold, CLUSTER 2020.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hpcml.collectives import choice
from hpcml.collectives.algorithms import named
from hpcml.collectives.channel import Channel
from hpcml.collectives.layouts import even, layout
from hpcml.collectives.ops import Op
from hpcml.collectives.program import Part, make_program
from hpcml.collectives.shared.program import FEW, Shared
from hpcml.collectives.shared.segments import segments
from hpcml.collectives.staged import BETWEEN, SOURCE, TARGET, Stage, Staged
from hpcml.collectives.table import PEER, Table, lower


def program(
    channel: Channel,
    collective: str,
    op: Op | None,
    dtype: np.dtype,
    counts: tuple[int, ...],
    root: int,
    tag: int,
    said: str,
) -> Staged:
    """The program for an allreduce or broadcast of ``(n,)`` items. Made by all ranks together.

    tag: the binding's. said: the call in words.
    """
    lanes = channel.machine.lanes
    node, lane = divmod(channel.rank, lanes)
    ranks = channel.machine.ranks_of_node(channel.rank)
    parts = tuple(even(sum(counts), lanes))
    if not sum(counts):
        return Staged(channel, [], np.empty(0, dtype), tag)

    def inside(collective: str, op: Op | None) -> Part:
        return Shared(channel, collective, op, dtype, parts, root % lanes, tag, said, ranks)

    stages = []
    if op is None:
        begin: Part = inside("scatter", None)  # all ranks make it, as it has memory in common
        if node == root // lanes:
            stages.append(Stage(begin, SOURCE, BETWEEN))
    else:
        stages.append(Stage(inside("reduce_scatter", replace(op, finishes=False)), SOURCE, BETWEEN))
    if parts[lane]:
        taken = choice.lane_choice(channel.machine, collective, parts[0] * dtype.itemsize)
        table = _lane(channel, collective, taken, op, dtype, parts[lane], root // lanes)
        stages.append(Stage(make_program(channel, table, tag, op, dtype), BETWEEN, BETWEEN))
    stages.append(Stage(inside("allgather", None), BETWEEN, TARGET))
    between = np.empty(parts[lane], dtype)
    if sum(counts) * dtype.itemsize > FEW:
        between = segments().make(channel, between.nbytes, said).view(dtype)
    return Staged(channel, stages, between, tag)


def _lane(
    channel: Channel, collective: str, taken: choice.Choice, op: Op | None, dtype: np.dtype, count: int, root: int
) -> Table:
    """The steps of this rank in its lane, in place, by the algorithm ``taken``. root: the node of the root."""
    lanes, nodes = channel.machine.lanes, channel.machine.nodes
    node, lane = divmod(channel.rank, lanes)
    algorithm = named(collective, taken.algorithm)
    blocks = algorithm.blocks(nodes, taken.segments)
    table = lower(
        algorithm.schedule(node, nodes, root, taken.segments, *algorithm.by_nodes(nodes, 1)),
        node,
        nodes,
        layout(collective, node, nodes, (count,), blocks, dtype.itemsize, root, in_place=True),
        dtype.itemsize,
        finish=op is not None and op.finishes,
    )
    table.rows[:, PEER] = table.rows[:, PEER] * lanes + lane  # as the channel numbers them
    return table
