"""The catalogue: every algorithm of every collective, with what it costs.

Adding an algorithm is one generator and one row here; the row enrols it in `verify`, in the tests, in ``algorithm=``
and in the benchmarks. Formulas are in rounds and blocks; n bytes are ``blocks(size, segments)`` blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hpcml.collectives.algorithms import binomial, chain, direct, dissemination, recursive, ring, scatter_allgather
from hpcml.collectives.algorithms.recursive import core_size
from hpcml.collectives.schedule import Schedule, ceil_log2


@dataclass(frozen=True)
class Algorithm:
    """One way to do one collective.

    schedule: ``(rank, size, root, segments)`` to a generator of rounds.
    blocks: how many blocks the data are cut into.
    rounds: how many rounds it takes.
    volume: blocks that pass through the busiest rank in one direction.
    segmented: whether ``segments`` means anything to it.
    ordered: whether it folds in rank order (with root 0), as an op that does not commute needs.
    """

    collective: str
    name: str
    schedule: Callable[..., Schedule]
    blocks: Callable[[int, int], int]
    rounds: Callable[[int, int], int]
    volume: Callable[[int, int], int]
    segmented: bool = False
    ordered: bool = False


def _odd(size: int) -> int:
    """1 where the number of ranks is no power of two, else 0."""
    return int(size > core_size(size))


def _lg_core(size: int) -> int:
    return ceil_log2(core_size(size))


def _one(p: int, k: int) -> int:
    return 1


def _per_rank(p: int, k: int) -> int:
    return p


CATALOGUE = (
    Algorithm(
        "allreduce",
        "ring",
        ring.allreduce,
        blocks=lambda p, k: p * k,
        rounds=lambda p, k: 2 * (p - 1),
        volume=lambda p, k: 2 * (p - 1) * k,
        segmented=True,
    ),
    Algorithm(
        "allreduce",
        "recursive_doubling",
        recursive.doubling_allreduce,
        blocks=_one,
        rounds=lambda p, k: _lg_core(p) + 2 * _odd(p),
        volume=lambda p, k: _lg_core(p) + _odd(p),
        ordered=True,
    ),
    Algorithm(
        "allreduce",
        "rabenseifner",
        recursive.rabenseifner_allreduce,
        blocks=lambda p, k: core_size(p),
        rounds=lambda p, k: 2 * _lg_core(p) + 2 * _odd(p),
        volume=lambda p, k: 2 * (core_size(p) - 1) + core_size(p) * _odd(p),
    ),
    Algorithm(
        "allreduce",
        "binomial",
        binomial.allreduce,
        blocks=_one,
        rounds=lambda p, k: 2 * ceil_log2(p),
        volume=lambda p, k: ceil_log2(p),
        ordered=True,
    ),
    Algorithm(
        "reduce",
        "binomial",
        binomial.reduce,
        blocks=_one,
        rounds=lambda p, k: ceil_log2(p),
        volume=lambda p, k: ceil_log2(p),
        ordered=True,
    ),
    Algorithm(
        "broadcast",
        "binomial",
        binomial.broadcast,
        blocks=_one,
        rounds=lambda p, k: ceil_log2(p),
        volume=lambda p, k: ceil_log2(p),
    ),
    Algorithm(
        "broadcast",
        "chain",
        chain.broadcast,
        blocks=lambda p, k: k,
        rounds=lambda p, k: p - 2 + k if p > 1 else 0,
        volume=lambda p, k: k if p > 1 else 0,
        segmented=True,
    ),
    Algorithm(
        "broadcast",
        "scatter_allgather",
        scatter_allgather.broadcast,
        blocks=_per_rank,
        rounds=lambda p, k: ceil_log2(p) + p - 1,
        volume=lambda p, k: 2 * (p - 1),
    ),
    Algorithm(
        "scatter",
        "binomial",
        binomial.scatter,
        blocks=_per_rank,
        rounds=lambda p, k: ceil_log2(p),
        volume=lambda p, k: p - 1,
    ),
    Algorithm(
        "scatter",
        "direct",
        direct.scatter,
        blocks=_per_rank,
        rounds=lambda p, k: min(1, p - 1),
        volume=lambda p, k: p - 1,
    ),
    Algorithm(
        "gather",
        "binomial",
        binomial.gather,
        blocks=_per_rank,
        rounds=lambda p, k: ceil_log2(p),
        volume=lambda p, k: p - 1,
    ),
    Algorithm(
        "gather",
        "direct",
        direct.gather,
        blocks=_per_rank,
        rounds=lambda p, k: min(1, p - 1),
        volume=lambda p, k: p - 1,
    ),
    Algorithm(
        "allgather",
        "ring",
        ring.allgather,
        blocks=_per_rank,
        rounds=lambda p, k: p - 1,
        volume=lambda p, k: p - 1,
    ),
    Algorithm(
        "barrier",
        "dissemination",
        dissemination.barrier,
        blocks=_per_rank,
        rounds=lambda p, k: ceil_log2(p),
        volume=lambda p, k: p - 1,
    ),
)


def of(collective: str) -> Iterator[Algorithm]:
    """The algorithms of one collective, in the catalogue's order."""
    return (algorithm for algorithm in CATALOGUE if algorithm.collective == collective)


def named(collective: str, name: str) -> Algorithm:
    """The algorithm of that collective and name; ValueError with the names there are."""
    for algorithm in of(collective):
        if algorithm.name == name:
            return algorithm
    known = ", ".join(["auto", "native", *(a.name for a in of(collective))])
    raise ValueError(f"{collective} has no algorithm {name!r}; it has: {known}")
