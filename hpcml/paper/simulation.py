"""A schedule put on a topology: what each of its rounds takes, for tens of thousands of ranks.

The schedule is the one that runs, made for all ranks at once. Rounds follow one another and each takes as long as its
most loaded link and longest path ask (`hpcml.paper.topology`); rounds of several messages overlap, and folds hide
behind the wire, by the rule of `hpcml.collectives.cost`.

A ring of 65,536 ranks has 131,070 rounds that are all alike. So rounds are made as expressions (`deferred`) and looked
at on a few ranks. One in which these all do the same (send so far to the right so much) is the same for all ranks as
the one before that looked so, and is worked out once. Of the others the first `WORKED_OUT` are worked out, and as many
of the rest, evenly spread; those in between are taken to be like the last of these, and the result says it is sampled.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from hpcml.collectives.algorithms import Algorithm
from hpcml.collectives.cost import Lane, Level, Network, Pace, Prediction, elapsed
from hpcml.collectives.phases import columns
from hpcml.collectives.schedule import NONE, REPLACE, Blocks, BlockSet, Exchange, Finish, Rank, Round, Schedule
from hpcml.paper.deferred import Deferred
from hpcml.paper.topology import Topology

WORKED_OUT = 256  # rounds that are not like others and yet worked out
LOOKED_AT = 48  # ranks by which a round is known
LARGEST_ROUND = 1 << 27  # exchanges times ranks


class TooLargeError(Exception):
    """A schedule too large to be simulated; the message says what is too large."""


@dataclass(frozen=True)
class Machine:
    """A topology of nodes with ``per_node`` ranks each, numbered node by node; seconds and seconds per byte.

    overhead: of each further message of a round between nodes. inside: the links within a node. gamma: to fold a byte.
    """

    topology: Topology
    overhead: float
    inside: Level
    gamma: float
    per_node: int = 1

    def network(self) -> Network:
        """This machine without its topology: ports only, for lower bounds and numbers of segments."""
        port = Level(self.topology.alpha[0], self.topology.beta[0], self.overhead)
        return Network(port, self.gamma, self.inside, self.per_node)


class Demand(NamedTuple):
    """What one round takes: messages of the busiest rank, latency [s] and seconds for each byte of a block, between
    nodes and inside them; blocks folded by the busiest rank."""

    between: tuple[int, float, float]
    inside: tuple[int, float, float]
    folds: int


@dataclass(frozen=True)
class Simulated:
    """The rounds of an algorithm on a machine, as ``(rounds, demand)`` in order; ``sampled``: not all worked out."""

    algorithm: Algorithm
    size: int
    segments: int
    machine: Machine
    stretches: tuple[tuple[int, Demand], ...]
    sampled: bool

    def predict(self, nbytes: float) -> Prediction:
        """The time for ``nbytes`` (of all blocks together) and its parts."""
        block = nbytes / max(self.algorithm.blocks(self.size, self.segments), 1)
        total = self._seconds(block, self.machine.gamma)
        unfolded, latency = self._seconds(block, 0.0), self._seconds(0.0, 0.0)
        return Prediction(total, latency, unfolded - latency, total - unfolded)

    def _seconds(self, block: float, gamma: float) -> float:
        further = self.machine.overhead, self.machine.inside.further()
        paces = []
        for rounds, demand in self.stretches:
            lanes = zip((demand.between, demand.inside), further, strict=True)
            made = tuple(Lane(messages, alpha, more, slope * block) for (messages, alpha, slope), more in lanes)
            paces.append(Pace(rounds, made, demand.folds * block * gamma))
        return elapsed(paces)


def simulate(
    algorithm: Algorithm, size: int, segments: int, machine: Machine, worked_out: int = WORKED_OUT
) -> Simulated:
    """Put one row of the catalogue on a machine. Raises ValueError if the machine has no ``size`` ranks."""
    machine.topology.check(-(-size // machine.per_node))
    nodes = algorithm.by_nodes(size, machine.per_node)
    schedule = algorithm.schedule(Deferred.ranks(size), size, 0, segments, *nodes)
    rounds = _Rounds(machine, size, worked_out, algorithm.rounds(size, segments, *nodes))
    stretches = tuple(
        (sum(1 for _ in alike), demand) for demand, alike in groupby(rounds.demands(schedule)) if demand is not None
    )
    return Simulated(algorithm, size, segments, machine, stretches, rounds.sampled)


class _Rounds:
    """Works out the rounds of one schedule: those alike once, of ``rounds`` others the first and some."""

    def __init__(self, machine: Machine, size: int, worked_out: int, rounds: int):
        self.machine, self.size = machine, size
        self.at_once = worked_out
        self.stride = -(-rounds // worked_out) | 1  # odd, so as not to fall in step with what is a power of two wide
        self.looked_at = _some_ranks(size, machine.per_node)
        self.known: dict[Hashable, Demand | None] = {}
        self.sampled = False

    def demands(self, schedule: Schedule) -> Iterator[Demand | None]:
        """Of each round in turn; None for one in which nobody sends."""
        last, since, worked_out = None, 0, 0
        for item in schedule:
            if isinstance(item, Finish):
                continue
            since += 1
            look = self._look(item)
            if look in self.known:
                yield self.known[look]
            elif look is not None:
                self.known[look] = self._work_out(item)
                yield self.known[look]
            elif worked_out < self.at_once or since >= self.stride:
                last, since, worked_out = self._work_out(item), 0, worked_out + 1
                yield last
            else:
                self.sampled = True
                yield last

    def _look(self, round_: Round) -> Hashable | None:
        """What all ranks do, if those looked at do the same."""
        alike = []
        ranks = self.looked_at
        for e in round_:
            sent, received = (_some(_length(blocks, ranks), ranks) for blocks in (e.send_blocks, e.recv_blocks))
            dest, source, fold = (_some(x, ranks) for x in (e.dest, e.source, e.fold))
            if (dest == NONE).any() or (source == NONE).any():
                return None
            done = (dest - ranks) % self.size, sent, (source - ranks) % self.size, received, fold != REPLACE
            if any((x != x[0]).any() for x in done):
                return None
            alike.append(tuple(int(x[0]) for x in done))
        return tuple(alike)

    def _work_out(self, round_: Round) -> Demand | None:
        if len(round_) * self.size > LARGEST_ROUND:
            raise TooLargeError(f"a round has {len(round_)} messages a rank, on {self.size} ranks")
        size, machine = self.size, self.machine
        messages, inside, folds = np.zeros((2, 2, size)), np.zeros((2, size)), np.zeros(size, np.int64)
        crossing: list[tuple[np.ndarray, ...]] = []
        for e in round_:
            dest, sent, _, received, fold = columns(self._counted(e), size)
            folds += np.where(fold != REPLACE, received, 0)
            source = np.flatnonzero(sent > 0)
            dest, sent = dest[source], sent[source]
            near = source // machine.per_node == dest // machine.per_node
            for lane, which in enumerate((~near, near)):
                for way, end in enumerate((source, dest)):
                    messages[lane, way] += np.bincount(end[which], minlength=size)
            for way, end in enumerate((source, dest)):
                inside[way] += np.bincount(end[near], sent[near], size)
            crossing.append((source[~near], dest[~near], sent[~near]))
        most = messages.max(axis=(1, 2)).astype(int)
        if not most.any():
            return None
        return Demand(
            self._between(int(most[0]), crossing),
            (int(most[1]), machine.inside.alpha, float(inside.max()) * machine.inside.beta) if most[1] else (0, 0, 0),
            int(folds.max()),
        )

    def _counted(self, e: Exchange) -> Exchange:
        """The same, but for which blocks they are: of listed ones there can be as many as ranks, for each rank."""
        lengths = (_length(blocks, self.looked_at) for blocks in (e.send_blocks, e.recv_blocks))
        sent, received = (Blocks(0, length) for length in lengths)
        return e._replace(send_blocks=sent, recv_blocks=received)

    def _between(self, messages: int, crossing: list[tuple[np.ndarray, ...]]) -> tuple[int, float, float]:
        if not messages:
            return 0, 0.0, 0.0
        machine = self.machine
        source, dest, blocks = (np.concatenate(parts) for parts in zip(*crossing, strict=True))
        nodes = -(-self.size // machine.per_node)
        passage = machine.topology.passage(source // machine.per_node, dest // machine.per_node, blocks, nodes)
        return messages, *passage


def _some_ranks(size: int, per_node: int) -> np.ndarray:
    """Both ends, what lies about powers of two and node borders, and others at random."""
    powers = [1 << i for i in range(size.bit_length())]
    telling = {0, 1, 2, size - 1, size - 2, size // 2, *powers[-3:], *(p - 1 for p in powers[-3:]), per_node}
    chosen = np.random.default_rng(5).integers(0, size, LOOKED_AT)
    return np.unique([rank % size for rank in (*telling, *chosen.tolist())])


def _some(x: Rank, ranks: np.ndarray) -> np.ndarray:
    """What stands for these ranks in an expression, or in an array of all ranks; a plain number stands for all."""
    if isinstance(x, Deferred):
        return np.broadcast_to(x.at(ranks), ranks.shape)
    return np.broadcast_to(x[ranks] if np.ndim(x) else x, ranks.shape)


def _length(blocks: BlockSet, ranks: np.ndarray) -> Rank:
    if isinstance(blocks, Blocks):
        return blocks.count
    numbers: Rank = blocks.numbers
    return np.shape(numbers.at(ranks) if isinstance(numbers, Deferred) else numbers)[-1]
