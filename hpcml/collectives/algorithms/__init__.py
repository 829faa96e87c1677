"""The catalogue: every algorithm of every collective, with what it costs.

Adding an algorithm is one generator and one row here; the row enrols it in `verify`, in the tests, in ``algorithm=``
and in the benchmarks. Formulas are in rounds and blocks; n bytes are ``blocks(size, segments)`` blocks (of an
all-to-all, where a rank has n bytes of p·n: as many on each rank).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hpcml.collectives import shared
from hpcml.collectives.algorithms import (
    binomial,
    bruck,
    chain,
    circulant,
    closed_forms,
    direct,
    dissemination,
    double_tree,
    halving,
    hierarchical,
    pairwise,
    prefix,
    recursive,
    ring,
    scatter_allgather,
)
from hpcml.collectives.algorithms.recursive import core_size
from hpcml.collectives.phases import Phases, steady
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
    hierarchical: whether it works by nodes. ``schedule``, ``rounds`` and ``volume`` then take a last argument
        ``per_node``: so many ranks in a row, a divisor of their number, are one node.
    phases: what its rounds ask of a network of single ranks, in closed form, for an algorithm whose rounds are too many
        to be counted whenever it is considered (see `hpcml.collectives.phases`). None: they are counted.
    """

    collective: str
    name: str
    schedule: Callable[..., Schedule]
    blocks: Callable[[int, int], int]
    rounds: Callable[..., int]
    volume: Callable[..., int]
    segmented: bool = False
    ordered: bool = False
    hierarchical: bool = False
    phases: Callable[[int, int], Phases] | None = None

    def by_nodes(self, size: int, per_node: int) -> tuple[int, ...]:
        """What the three take last: nothing, or ranks a node; 1 where nodes are not all alike."""
        if not self.hierarchical:
            return ()
        per_node = min(per_node, size)
        return (per_node if size % per_node == 0 else 1,)


def _odd(size: int) -> int:
    """1 where the number of ranks is no power of two, else 0."""
    return int(size > core_size(size))


def _lg_core(size: int) -> int:
    return ceil_log2(core_size(size))


def _one(p: int, k: int) -> int:
    return 1


def _per_rank(p: int, k: int) -> int:
    return p


def _chunks(p: int, k: int) -> int:
    return p * k


def _per_pair(p: int, k: int) -> int:
    return p * p


CATALOGUE = (
    Algorithm(
        "allreduce",
        "ring",
        ring.allreduce,
        blocks=_chunks,
        rounds=lambda p, k: 2 * (p - 1),
        volume=lambda p, k: 2 * (p - 1) * k,
        segmented=True,
        phases=lambda p, k: closed_forms.ring(p, k, folds=k) + closed_forms.ring(p, k),
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
        halving.allreduce,
        blocks=_chunks,
        rounds=lambda p, k: 2 * ceil_log2(p),
        volume=lambda p, k: 2 * (p - 1) * k,
        segmented=True,
        phases=lambda p, k: closed_forms.in_segments(halving.allreduce, p, k),
    ),
    Algorithm(
        "allreduce",
        "circulant",
        circulant.allreduce,
        blocks=_chunks,
        rounds=lambda p, k: 2 * ceil_log2(p),
        volume=lambda p, k: 2 * (p - 1) * k,
        segmented=True,
        phases=lambda p, k: closed_forms.in_segments(circulant.allreduce, p, k),
    ),
    Algorithm(
        "allreduce",
        "double_tree",
        double_tree.allreduce,
        blocks=lambda p, k: 2 * k,
        rounds=double_tree.allreduce_rounds,
        volume=lambda p, k: min(p, 4) * k if p > 1 else 0,
        segmented=True,
        phases=lambda p, k: closed_forms.two_trees(double_tree.allreduce, p, k),
    ),
    Algorithm(
        "allreduce",
        "direct",
        direct.allreduce,
        blocks=_per_rank,
        rounds=lambda p, k: min(2, 2 * (p - 1)),
        volume=lambda p, k: 2 * (p - 1),
        ordered=True,
        phases=lambda p, k: closed_forms.direct(p, folds=p - 1) + closed_forms.direct(p, mutual=1 - p % 2),
    ),
    Algorithm(
        "allreduce",
        "hierarchical",
        hierarchical.allreduce,
        blocks=_chunks,
        rounds=lambda p, k, q=1: 2 * ceil_log2(q) + 2 * ceil_log2(p // q),
        volume=lambda p, k, q=1: 2 * (p - 1) * k,
        segmented=True,
        hierarchical=True,
        phases=lambda p, k: closed_forms.in_segments(hierarchical.allreduce, p, k),
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
        "reduce",
        "rabenseifner",
        halving.reduce,
        blocks=_per_rank,
        rounds=lambda p, k: 2 * ceil_log2(p),
        volume=lambda p, k: 2 * (p - 1),
    ),
    Algorithm(
        "reduce",
        "double_tree",
        double_tree.reduce,
        blocks=lambda p, k: 2 * k,
        rounds=double_tree.one_way_rounds,
        volume=lambda p, k: 2 * k if p > 1 else 0,
        segmented=True,
        phases=lambda p, k: closed_forms.two_trees(double_tree.reduce, p, k),
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
        phases=lambda p, k: steady(p - 2 + k if p > 1 else 0),
    ),
    Algorithm(
        "broadcast",
        "double_tree",
        double_tree.broadcast,
        blocks=lambda p, k: 2 * k,
        rounds=double_tree.one_way_rounds,
        volume=lambda p, k: 2 * k if p > 1 else 0,
        segmented=True,
        phases=lambda p, k: closed_forms.two_trees(double_tree.broadcast, p, k),
    ),
    Algorithm(
        "broadcast",
        "scatter_allgather",
        scatter_allgather.broadcast,
        blocks=_per_rank,
        rounds=lambda p, k: ceil_log2(p) + p - 1,
        volume=lambda p, k: 2 * (p - 1),
        phases=lambda p, k: closed_forms.binomial_scatter(p) + closed_forms.ring(p),
    ),
    Algorithm(
        "broadcast",
        "hierarchical",
        hierarchical.broadcast,
        blocks=_per_rank,
        rounds=lambda p, k, q=1: 2 * ceil_log2(q) + 2 * (p // q - 1),
        volume=lambda p, k, q=1: 2 * (p - p // q) + (p // q if p > q else 0),
        hierarchical=True,
        phases=lambda p, k: steady(2 * (p - 1)),
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
        phases=lambda p, k: closed_forms.direct(p),
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
        phases=lambda p, k: closed_forms.direct(p),
    ),
    Algorithm(
        "allgather",
        "ring",
        ring.allgather,
        blocks=_per_rank,
        rounds=lambda p, k: p - 1,
        volume=lambda p, k: p - 1,
        phases=lambda p, k: closed_forms.ring(p),
    ),
    Algorithm(
        "allgather",
        "recursive_doubling",
        halving.allgather,
        blocks=_per_rank,
        rounds=lambda p, k: ceil_log2(p),
        volume=lambda p, k: p - 1,
    ),
    Algorithm(
        "allgather",
        "circulant",
        circulant.allgather,
        blocks=_per_rank,
        rounds=lambda p, k: ceil_log2(p),
        volume=lambda p, k: p - 1,
    ),
    Algorithm(
        "allgather",
        "bruck",
        bruck.allgather,
        blocks=_per_rank,
        rounds=lambda p, k: ceil_log2(p),
        volume=lambda p, k: p - 1,
    ),
    Algorithm(
        "allgather",
        "direct",
        direct.allgather,
        blocks=_per_rank,
        rounds=lambda p, k: min(1, p - 1),
        volume=lambda p, k: p - 1,
        phases=lambda p, k: closed_forms.direct(p, mutual=1 - p % 2),
    ),
    Algorithm(
        "reduce_scatter",
        "ring",
        ring.reduce_scatter,
        blocks=_chunks,
        rounds=lambda p, k: p - 1,
        volume=lambda p, k: (p - 1) * k,
        segmented=True,
        phases=lambda p, k: closed_forms.ring(p, k, folds=k),
    ),
    Algorithm(
        "reduce_scatter",
        "recursive_halving",
        halving.reduce_scatter,
        blocks=_chunks,
        rounds=lambda p, k: ceil_log2(p),
        volume=lambda p, k: (p - 1) * k,
        segmented=True,
        phases=lambda p, k: closed_forms.in_segments(halving.reduce_scatter, p, k),
    ),
    Algorithm(
        "reduce_scatter",
        "circulant",
        circulant.reduce_scatter,
        blocks=_chunks,
        rounds=lambda p, k: ceil_log2(p),
        volume=lambda p, k: (p - 1) * k,
        segmented=True,
        phases=lambda p, k: closed_forms.in_segments(circulant.reduce_scatter, p, k),
    ),
    Algorithm(
        "reduce_scatter",
        "direct",
        direct.reduce_scatter,
        blocks=_per_rank,
        rounds=lambda p, k: min(1, p - 1),
        volume=lambda p, k: p - 1,
        ordered=True,
        phases=lambda p, k: closed_forms.direct(p, folds=p - 1),
    ),
    Algorithm(
        "alltoall",
        "pairwise",
        pairwise.alltoall,
        blocks=_per_pair,
        rounds=lambda p, k: p - 1,
        volume=lambda p, k: p - 1,
        phases=lambda p, k: closed_forms.shifts(p),
    ),
    Algorithm(
        "alltoall",
        "bruck",
        bruck.alltoall,
        blocks=_per_pair,
        rounds=lambda p, k: ceil_log2(p),
        volume=lambda p, k: bruck.alltoall_volume(p),
        phases=lambda p, k: closed_forms.bruck_alltoall(p),
    ),
    Algorithm(
        "scan",
        "recursive_doubling",
        prefix.scan,
        blocks=_one,
        rounds=lambda p, k: ceil_log2(p),
        volume=lambda p, k: ceil_log2(p),
        ordered=True,
    ),
    Algorithm(
        "exscan",
        "recursive_doubling",
        prefix.exscan,
        blocks=_one,
        rounds=lambda p, k: 1 + ceil_log2(p - 1) if p > 1 else 0,
        volume=lambda p, k: 1 + ceil_log2(p - 1) if p > 1 else 0,
        ordered=True,
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
    raise ValueError(f"{collective} has no algorithm {name!r}; it has: {', '.join(names(collective))}")


def names(collective: str) -> list[str]:
    """The names that ``algorithm=`` takes for that collective: those of no schedule first, then the catalogue's."""
    unscheduled = ["auto", "native", *([shared.NAME] if collective in shared.COLLECTIVES else [])]
    return [*unscheduled, *(row.name for row in of(collective))]
