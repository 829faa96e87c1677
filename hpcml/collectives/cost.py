"""The time of a collective on paper: seconds from latency α, time per byte β and time per byte folded γ.

What is modelled. A rank sends and receives at the same time, one message each way after the other. A message of m bytes
takes α + mβ; of several messages in one round each further one takes o + mβ more (o ≤ α: what a message costs the
processor, while the α of the others pass by). Folding a byte takes γ. A round lasts as long as its busiest rank, and
rounds follow one another; but in a row of rounds of k > 1 messages each the k pipelines overlap (message s of a round
needs only message s of the one before), so wire, latency and folds hide behind each other. With ``per_node`` ranks a
node, the ranks of a node share one port to the others, and messages inside have α and β of their own.

What is not: noise, ranks that arrive late, contention inside the network (`hpcml.paper` has that), copies in memory,
the limits of caches, and protocols whose latency changes with the length of a message.

Hockney, "The communication challenge for MPP", Parallel Computing 20 (1994); Culler et al., "LogP", PPoPP 1993; Thakur,
Rabenseifner, Gropp, "Optimization of collective communication operations in MPICH", IJHPCA 19 (2005), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from hpcml.collectives.algorithms import Algorithm, of
from hpcml.collectives.phases import Load, Phase, Phases, count, merged

SEGMENTS = tuple(1 << i for i in range(11))  # numbers of segments that are tried
SEGMENT_BYTES = 4 << 10  # no segment is cut below this: a message that short is all latency


@dataclass(frozen=True)
class Level:
    """Links of one kind. Seconds, and seconds per byte.

    alpha: latency of a message. beta: per byte. overhead: of each further message of a round; None: as much as alpha.
    beta_mutual: per byte where two ranks send to each other at once; None: as beta (a link that is full duplex).
    """

    alpha: float
    beta: float
    overhead: float | None = None
    beta_mutual: float | None = None

    def further(self) -> float:
        return self.alpha if self.overhead is None else self.overhead

    def wire(self, load: Load, nbytes: float) -> float:
        """Seconds that the bytes of a round are on the wire, with ``nbytes`` in a block."""
        mutual = self.beta if self.beta_mutual is None else self.beta_mutual
        return (load.blocks * self.beta + load.mutual * (mutual - self.beta)) * nbytes


@dataclass(frozen=True)
class Network:
    """The figures of a machine: links ``between`` nodes, ``inside`` one of ``per_node`` ranks, and γ [s/byte folded].

    The default is a fast cluster of our day: 1.5 µs and 12.5 GB/s between nodes, folds at 10 GB/s.
    """

    between: Level = Level(1.5e-6, 8e-11, 3e-7)
    gamma: float = 1e-10
    inside: Level = Level(5e-7, 1e-10, 2e-7)
    per_node: int = 1


class Prediction(NamedTuple):
    """``seconds``, and what makes them up: what latency alone takes, what bytes add to it, and folds to both."""

    seconds: float
    latency: float
    bandwidth: float
    fold: float


def predict(algorithm: Algorithm, size: int, nbytes: float, network: Network, segments: int = 1) -> Prediction:
    """The time of one row of the catalogue on ``size`` ranks.

    nbytes: of all blocks of the collective together; that is the whole array, for an all-to-all the arrays of all
    ranks. Takes microseconds where the row states its phases, or once they have been counted.
    """
    phases = phases_of(algorithm, size, segments, min(network.per_node, size))
    block = nbytes / max(algorithm.blocks(size, segments), 1)
    return timed(phases, block, network)


def seconds(algorithm: Algorithm, size: int, nbytes: float, network: Network, segments: int = 1) -> float:
    """The `predict`\\ ed seconds alone."""
    phases = phases_of(algorithm, size, segments, min(network.per_node, size))
    return duration(phases, nbytes / max(algorithm.blocks(size, segments), 1), network)


def best_segments(algorithm: Algorithm, size: int, nbytes: float, network: Network) -> int:
    """The number of segments, a power of two, with the least predicted time; 1 where segments mean nothing.

    Where phases are stated it is the best for nodes of one rank: the slower links decide, and nothing is counted.
    """
    if not algorithm.segmented:
        return 1
    if algorithm.phases is not None and network.per_node > 1:
        link = network.between if network.per_node < size else network.inside
        network = replace(network, between=link, per_node=1)
    smallest = nbytes / max(algorithm.blocks(size, 1), 1)
    allowed = [k for k in SEGMENTS if k == 1 or smallest / k >= SEGMENT_BYTES]
    return min(allowed, key=lambda k: seconds(algorithm, size, nbytes, network, k))


class Choice(NamedTuple):
    """An algorithm of the catalogue, in how many segments, and the time that the model gives it."""

    seconds: float
    algorithm: Algorithm
    segments: int


def ranking(collective: str, size: int, nbytes: float, network: Network) -> list[Choice]:
    """Every algorithm of a collective with its best number of segments, the fastest first."""
    choices = []
    for row in of(collective):
        segments = best_segments(row, size, nbytes, network)
        choices.append(Choice(seconds(row, size, nbytes, network, segments), row, segments))
    return sorted(choices, key=lambda choice: choice.seconds)


@lru_cache(maxsize=4096)
def phases_of(algorithm: Algorithm, size: int, segments: int = 1, per_node: int = 1) -> Phases:
    """The phases of one row of the catalogue: those that it states, or else counted once and kept."""
    if algorithm.phases is not None and per_node == 1:
        return merged(algorithm.phases(size, segments))
    schedule = algorithm.schedule(np.arange(size), size, 0, segments, *algorithm.by_nodes(size, per_node))
    return count(schedule, size, per_node)


def timed(phases: Phases, block: float, network: Network) -> Prediction:
    """The time of phases whose blocks have ``block`` bytes, and its parts."""
    total = duration(phases, block, network)
    unfolded = duration(phases, block, replace(network, gamma=0.0))
    latency = duration(phases, 0.0, network)
    return Prediction(total, latency, unfolded - latency, total - unfolded)


def duration(phases: Phases, block: float, network: Network) -> float:
    """Seconds that ``phases`` take."""
    return elapsed([_pace(phase, block, network) for phase in phases])


class Lane(NamedTuple):
    """What the rounds of a pace do on links of one kind: messages of the busiest rank; seconds, as in `Level`."""

    messages: int
    alpha: float
    further: float
    wire: float


class Pace(NamedTuple):
    """``rounds`` equal rounds: what they do on each kind of link, and seconds of folding."""

    rounds: int
    lanes: tuple[Lane, ...]
    fold: float


def elapsed(paces: Sequence[Pace]) -> float:
    """Seconds that rounds take one after the other; where neighbours have as many messages, their pipelines overlap."""
    total = 0.0
    for at, pace in enumerate(paces):
        whole, overlapped = _round(pace)
        goes_on = at + 1 < len(paces) and _messages(paces[at + 1]) == _messages(pace)
        total += pace.rounds * overlapped if goes_on else (pace.rounds - 1) * overlapped + whole
    return total


def _pace(phase: Phase, block: float, network: Network) -> Pace:
    levels = (network.between, phase.between), (network.inside, phase.inside)
    lanes = (Lane(load.messages, level.alpha, level.further(), level.wire(load, block)) for level, load in levels)
    return Pace(phase.rounds, tuple(lanes), phase.folds * block * network.gamma)


def _round(pace: Pace) -> tuple[float, float]:
    """Seconds of a round by itself, and of one that overlaps with the next."""
    whole = overlapped = posted = 0.0  # posted: seconds in which a rank handed over its messages to the lane before
    for m, alpha, further, wire in pace.lanes:
        if m:
            first = alpha + (wire + pace.fold) / m
            whole = max(whole, posted + first + (m - 1) * max(further + wire / m, pace.fold / m))
            posted += m * further
            overlapped = max(overlapped, first, posted + wire, pace.fold)
    return (whole, overlapped) if max(_messages(pace)) > 1 else (whole, whole)


def _messages(pace: Pace) -> tuple[int, ...]:
    return tuple(lane.messages for lane in pace.lanes)
