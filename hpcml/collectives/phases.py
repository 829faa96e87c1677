"""What the rounds of a schedule ask of the network, counted: messages and blocks at the busiest place, round by round.

A *phase* is a stretch of rounds that ask for the same. Phases know blocks, never bytes or seconds, so they hold for any
amount of data on any network; `hpcml.collectives.cost` gives them a time. They are counted by playing the schedule for
all ranks at once, or stated in closed form by a row of the catalogue where it has thousands of rounds.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

import numpy as np

from hpcml.collectives.schedule import NONE, REPLACE, BlockSet, Exchange, Finish, Listed, Round, Schedule


class Load(NamedTuple):
    """What passes through the busiest port in one direction in one round.

    messages: of the busiest rank. blocks: of the busiest port. mutual: of these, blocks between two ranks that send to
    each other in one exchange, which some transports do in turns.
    """

    messages: int = 0
    blocks: int = 0
    mutual: int = 0


class Phase(NamedTuple):
    """``rounds`` rounds, each of which asks for this much.

    between: through the port of a node. inside: through the port of a rank, within its node. folds: blocks folded by
    the busiest rank. Where each rank is counted as a node of its own, everything is ``between``.
    """

    rounds: int
    between: Load
    inside: Load = Load()
    folds: int = 0


Phases = tuple[Phase, ...]


def steady(rounds: int, messages: int = 1, blocks: int = 1, mutual: int = 0, folds: int = 0) -> Phases:
    """The closed form of ``rounds`` equal rounds between nodes of one rank; no phase where there is no round."""
    return (Phase(rounds, Load(messages, blocks, mutual), Load(), folds),) if rounds > 0 else ()


def merged(phases: Iterable[Phase]) -> Phases:
    """Neighbours that ask for the same made one."""
    return tuple(
        Phase(sum(phase.rounds for phase in same), *demand)
        for demand, same in groupby(phases, key=lambda phase: phase[1:])
    )


def count(schedule: Schedule, size: int, per_node: int = 1) -> Phases:
    """The phases of a schedule made for ``np.arange(size)``; ranks 0 … per_node−1 are the first node, and so on.

    Rounds in which nobody sends are left out. Takes the time of generating the schedule for all ranks.
    """
    return merged(_phase(item, size, per_node) for item in schedule if not isinstance(item, Finish) and _moves(item))


def _moves(round_: Round) -> bool:
    return any(np.any((np.asarray(e.dest) != NONE) & (lengths(e.send_blocks) > 0)) for e in round_)


def lengths(blocks: BlockSet) -> np.ndarray:
    """How many blocks the message of each rank has."""
    return np.asarray(np.shape(blocks.numbers)[-1] if isinstance(blocks, Listed) else blocks.count)


def _phase(round_: Round, size: int, per_node: int) -> Phase:
    node = np.arange(size) // per_node
    nodes = int(node[-1]) + 1
    # Per rank and direction: messages and blocks, inside the node and out of it; blocks folded.
    inside, between = _Ports(size), _Ports(size)
    folds = np.zeros(size, np.int64)
    for e in round_:
        dest, sent, source, received, fold = columns(e, size)
        mutual = np.where((dest == source) & (dest != NONE), np.minimum(sent, received), 0)
        sends, receives = sent > 0, received > 0
        near_out, near_in = sends & (node[dest] == node), receives & (node[source] == node)
        inside.add(near_out, sent, near_in, received, mutual)
        between.add(sends & ~near_out, sent, receives & ~near_in, received, mutual)
        folds += np.where(fold != REPLACE, received, 0)
    return Phase(1, between.load(node, nodes), inside.load(np.arange(size), size), int(folds.max(initial=0)))


def columns(e: Exchange, size: int) -> tuple[np.ndarray, ...]:
    """dest, blocks sent, source, blocks received and fold, one entry a rank; no blocks to or from `NONE`."""
    dest, source, fold = (np.broadcast_to(np.asarray(x, np.int64), size) for x in (e.dest, e.source, e.fold))
    sent = np.where(dest != NONE, lengths(e.send_blocks), 0)
    received = np.where(source != NONE, lengths(e.recv_blocks), 0)
    return dest, sent, source, received, fold


class _Ports:
    """Messages, blocks and mutual blocks of each rank, out (row 0) and in (row 1)."""

    def __init__(self, size: int):
        self.messages, self.blocks, self.mutual = (np.zeros((2, size), np.int64) for _ in range(3))

    def add(self, sends, sent, receives, received, mutual) -> None:
        for way, (moves, blocks) in enumerate(((sends, sent), (receives, received))):
            self.messages[way] += moves
            self.blocks[way] += np.where(moves, blocks, 0)
            self.mutual[way] += np.where(moves, mutual, 0)

    def load(self, port: np.ndarray, ports: int) -> Load:
        """The busiest port; ``port`` of each rank."""
        through = [max(_by(port, way, ports) for way in blocks) for blocks in (self.blocks, self.mutual)]
        return Load(int(self.messages.max()), *through)


def _by(port: np.ndarray, blocks: np.ndarray, ports: int) -> int:
    return int(np.bincount(port, blocks, ports).max())
