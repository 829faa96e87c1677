"""Hierarchical lanes: the ranks of a node share out the data, so that all of them use the network, each for its part.

q ranks a node, m nodes, the ranks of a node in a row: a reduce-scatter in each node; then q all-reduces of n/q bytes at
once, each among the ranks that have the same place in their nodes (a lane); then an allgather in each node. Träff and
Hunold, "Decomposing MPI collectives for exploiting multi-lane communication", CLUSTER 2020. Both levels use `halving`:
there messages are runs of chunks, for any number of ranks. A broadcast is a scatter in the root's node, a chain in each
lane, and an allgather in each node.

Where the ranks of a node can map each other's memory, a call that waits goes that way inside the node, and by messages
in the lanes only: see `hpcml.collectives.by_node`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from hpcml.collectives.algorithms import binomial, chain
from hpcml.collectives.algorithms.halving import halve
from hpcml.collectives.schedule import (
    NONE,
    Blocks,
    BlockSet,
    Exchange,
    Finish,
    Rank,
    Round,
    Schedule,
    backwards,
    only_if,
)


def allreduce(rank: Rank, size: int, root: int = 0, segments: int = 1, per_node: int = 1) -> Schedule:
    """2(⌈lg q⌉ + ⌈lg m⌉) rounds, 2(p−1)/p·n bytes sent per rank, of which 2(m−1)/p·n leave the node.

    per_node: q, a divisor of ``size``. The data are q parts, one a lane, of m chunks each.
    """
    nodes = _nodes(size, per_node)
    node, lane = rank // per_node, rank % per_node
    inside = _placed(halve(lane, per_node, segments), lambda r: node * per_node + r, nodes)
    across = _placed(halve(node, nodes, segments), lambda r: r * per_node + lane, 1, lane * nodes * segments)
    yield from inside
    yield from across
    yield Finish(Blocks((lane * nodes + node) * segments, segments))
    yield from map(backwards, reversed(across))
    yield from map(backwards, reversed(inside))


def broadcast(rank: Rank, size: int, root: int = 0, segments: int = 1, per_node: int = 1) -> Schedule:
    """2⌈lg q⌉ + 2(m−1) rounds; n bytes leave each node but the last, n/q from each rank, in m messages.

    per_node: q, as for `allreduce`. The root sends up to (2q−1)/q·n bytes, most of them inside its node.
    """
    nodes = _nodes(size, per_node)
    node, lane = rank // per_node, rank % per_node

    def within(r: Rank) -> Rank:
        return node * per_node + r

    here = node == root // per_node
    for (exchange,) in _placed(binomial.scatter(lane, per_node, root % per_node), within, nodes):
        yield (exchange._replace(dest=only_if(here, exchange.dest), source=only_if(here, exchange.source)),)
    in_lane = chain.broadcast(node, nodes, root // per_node, nodes)
    yield from _placed(in_lane, lambda r: r * per_node + lane, 1, lane * nodes)
    yield from map(backwards, reversed(_placed(halve(lane, per_node), within, nodes)))


def _nodes(size: int, per_node: int) -> int:
    if size % per_node:
        raise ValueError(f"hierarchical needs nodes of equal size, got {size} ranks and {per_node} per node")
    return size // per_node


def _placed(rounds: Iterable[Any], rank_of: Callable[[Rank], Rank], scale: int, offset: Rank = 0) -> list[Round]:
    """Rounds of a group, among all ranks: the rank of each member, and ``scale`` blocks from ``offset`` on for each."""

    def peer(member: Rank) -> Rank:
        return only_if(np.asarray(member) != NONE, rank_of(member))

    def run(blocks: BlockSet) -> Blocks:
        assert isinstance(blocks, Blocks)
        return Blocks(offset + scale * blocks.first, scale * blocks.count)

    return [
        tuple(Exchange(peer(e.dest), run(e.send_blocks), peer(e.source), run(e.recv_blocks), e.fold) for e in round_)
        for round_ in rounds
    ]
