"""What no algorithm can beat: lower bounds of each collective for latency, bytes on the wire and folding.

Chan, Heimlich, Purkayastha, van de Geijn, "Collective communication: theory, practice, and experience", CCPE 19 (2007),
section 3. Their bound for latency, ⌈lg p⌉α, is for ranks that are busy with a message for all of α; where a further
message takes less, the bound is that of Karp, Sahay, Santos, Schauser, "Optimal broadcast and summation in the LogP
model", SPAA 1993.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from hpcml.collectives.cost import Level, Network
from hpcml.collectives.schedule import ceil_log2

# Bytes that must leave or reach some rank, and bytes that must be folded by some rank, in n bytes on p ranks. n is all
# blocks of the collective together: an all-to-all has p arrays of p blocks.
WIRE = {
    "allreduce": lambda p: 2 * (p - 1) / p,
    "reduce": lambda p: 1.0,
    "reduce_scatter": lambda p: (p - 1) / p,
    "broadcast": lambda p: 1.0,
    "scatter": lambda p: (p - 1) / p,
    "gather": lambda p: (p - 1) / p,
    "allgather": lambda p: (p - 1) / p,
    "alltoall": lambda p: (p - 1) / p**2,
    "scan": lambda p: 1.0,
    "exscan": lambda p: 1.0,
    "barrier": lambda p: 0.0,
}
FOLDED = {
    "allreduce": lambda p: (p - 1) / p,
    "reduce": lambda p: (p - 1) / p,
    "reduce_scatter": lambda p: (p - 1) / p,
    "scan": lambda p: (p - 1) / p,
    "exscan": lambda p: (p - 2) / p,
}


class Bound(NamedTuple):
    """Seconds that a collective takes at least, for each of three reasons alone: `seconds` is the largest of them."""

    latency: float
    bandwidth: float
    fold: float

    @property
    def seconds(self) -> float:
        return max(self)


def lower_bound(collective: str, size: int, nbytes: float, network: Network) -> Bound:
    """The bound for ``nbytes`` (as in `cost.predict`) on ``size`` ranks, for any algorithm.

    With several ranks a node it is the sum of the fastest that either kind of link allows: a message may stay inside,
    and the bytes of a node's ranks pass through its port once at least.
    """
    if size == 1:
        return Bound(0.0, 0.0, 0.0)
    per_node = min(network.per_node, size)
    latency = _spreading(size, _faster(network, per_node))
    if per_node < size:
        latency = max(latency, _spreading(-(-size // per_node), network.between))
        wire = WIRE[collective](size / per_node) * network.between.beta  # a last node with fewer ranks counts in part
    else:
        wire = WIRE[collective](size) * network.inside.beta
    fold = FOLDED[collective](size) if collective in FOLDED else 0.0
    return Bound(latency, wire * nbytes, fold * nbytes * network.gamma)


def _faster(network: Network, per_node: int) -> Level:
    if per_node == 1:
        return network.between
    levels = network.between, network.inside
    return Level(min(level.alpha for level in levels), 0.0, min(level.further() for level in levels))


def _spreading(size: int, level: Level) -> float:
    """Seconds for one rank's news to reach ``size`` ranks."""
    return _spreading_time(size, level.alpha, level.further())


@lru_cache(maxsize=1024)
def _spreading_time(size: int, alpha: float, overhead: float) -> float:
    """Everybody informed sends to one more rank every ``overhead``, and it knows ``alpha`` later."""
    if size == 1:
        return 0.0
    if overhead >= alpha:
        return ceil_log2(size) * alpha
    if overhead < alpha / 1000:
        return alpha
    delay = int(alpha / overhead + 1e-9)  # in steps of the overhead; downwards, so that it stays a bound
    informed = [1] * delay
    while informed[-1] < size:
        informed.append(informed[-1] + informed[-delay])
    return (len(informed) - 1) * overhead
