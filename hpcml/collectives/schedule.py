"""The vocabulary in which every collective algorithm is written.

A *schedule* is a generator of rounds. A round is a tuple of `Exchange`; all exchanges of a round are concurrent: what
is sent is what the rank held when the round began. A schedule knows ranks and blocks, never bytes, data types, devices
or tags, so it is a pure function of ``(rank, size)``.

``rank`` is an ``int`` (my part) or ``np.arange(size)`` (everybody at once): the arithmetic is the same. A rank that
has nothing to do in a round has the partner `NONE`, MPI's PROC_NULL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

Rank = Any  # an int, or an integer array of shape (size,)

NONE = -1

# What becomes of the blocks that arrive.
REPLACE = 0
RIGHT = 1  # mine ∘ theirs
LEFT = -1  # theirs ∘ mine


class Blocks(NamedTuple):
    """The cyclic run of blocks ``first, first + 1, …``, ``count`` of them, modulo the schedule's number of blocks."""

    first: Rank
    count: Rank


class Listed(NamedTuple):
    """Any blocks, in this order: ``numbers`` is an integer array of shape ``rank.shape + (n,)``, or ``(n,)``."""

    numbers: np.ndarray


BlockSet = Blocks | Listed


class Exchange(NamedTuple):
    """Send ``send_blocks`` to ``dest``; receive ``recv_blocks`` from ``source`` and fold or store them."""

    dest: Rank
    send_blocks: BlockSet
    source: Rank
    recv_blocks: BlockSet
    fold: Rank = REPLACE


class Finish(NamedTuple):
    """These blocks are now fully reduced here: what an op does last (the division of a mean) is done now.

    It stands between the rounds of a schedule and moves no data. A block is finished on one rank and then passed
    on, so that the last step is done once and the result is the same on every rank.
    """

    blocks: BlockSet


Round = tuple[Exchange, ...]
Schedule = Iterator[Round | Finish]


def only_if(condition: Rank, peer: Rank) -> Rank:
    """``peer`` where ``condition`` holds, `NONE` elsewhere."""
    return np.where(condition, peer, NONE)


def look_up(table: np.ndarray, index: Rank) -> Rank:
    """``table[index]``. As NumPy's other functions, it is left to an array-like ``index`` that brings its own."""
    if not hasattr(index, "__array_function__"):
        index = np.asarray(index)
    return index.__array_function__(np.take, (type(index),), (table[None], index), {})


def exchange_one_way(sends: Rank, dest: Rank, receives: Rank, source: Rank, blocks: BlockSet, fold: int) -> Round:
    """A round in which some ranks send ``blocks``, others receive them, and nobody does both."""
    return (Exchange(only_if(sends, dest), blocks, only_if(receives, source), blocks, fold),)


def in_segments(exchange: Exchange, segments: int) -> Round:
    """Runs of chunks, each chunk ``segments`` blocks, sent in as many messages: one is folded while the next comes."""

    def cut(run: BlockSet, segment: int) -> Blocks:
        assert isinstance(run, Blocks)
        return Blocks(run.first * segments + segment * run.count, run.count)

    return tuple(
        exchange._replace(send_blocks=cut(exchange.send_blocks, s), recv_blocks=cut(exchange.recv_blocks, s))
        for s in range(segments)
    )


def backwards(round_: Round) -> Round:
    """The round in which everybody gives back what it got: a reduce-scatter backwards is an allgather."""
    return tuple(Exchange(e.source, e.recv_blocks, e.dest, e.send_blocks, REPLACE) for e in round_)


def ceil_log2(n: int) -> int:
    """⌈lg n⌉, the least number of rounds in which one rank's data can reach n ranks."""
    return (n - 1).bit_length()
