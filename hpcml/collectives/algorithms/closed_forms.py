"""What the rounds of schedules ask of a network of single ranks, where counting them all would take long.

See `hpcml.collectives.phases`. What depends on the number of segments in a simple way is counted for few of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from hpcml.collectives.phases import Load, Phase, Phases, count, steady
from hpcml.collectives.schedule import Schedule, ceil_log2


def ring(p: int, k: int = 1, folds: int = 0) -> Phases:
    """p − 1 rounds of k messages; two ranks are each other's neighbours on both sides."""
    return steady(p - 1, messages=k, blocks=k, mutual=k if p == 2 else 0, folds=folds)


def binomial_scatter(p: int) -> Phases:
    """The root's messages in a binomial tree over p blocks, the longest first."""
    distances = [1 << step for step in reversed(range(ceil_log2(p)))]
    return tuple(phase for d in distances for phase in steady(1, blocks=min(d, p - d)))


def direct(p: int, mutual: int = 0, folds: int = 0) -> Phases:
    """One round of p − 1 messages."""
    return steady(min(1, p - 1), messages=p - 1, blocks=p - 1, mutual=mutual, folds=folds)


def shifts(p: int) -> Phases:
    """p − 1 rounds of one block, in one of which, where p is even, two ranks send to each other."""
    half = (p - 1) // 2
    return steady(half) + steady(p - 1 - 2 * half, mutual=1) + steady(half)


def bruck_alltoall(p: int) -> Phases:
    """In round t, the blocks whose journey has that bit."""
    phases: Phases = ()
    for step in range(ceil_log2(p)):
        whole, rest = divmod(p, 2 << step)
        blocks = (whole << step) + max(0, rest - (1 << step))
        phases += steady(1, blocks=blocks, mutual=blocks if p == 2 << step else 0)
    return phases


def in_segments(schedule: Callable[..., Schedule], p: int, k: int) -> Phases:
    """For schedules in which every message is cut into k: as one segment, k times the messages and blocks."""

    def times(load: Load) -> Load:
        return Load(*(k * n for n in load))

    return tuple(
        Phase(rounds, times(between), folds=k * folds) for rounds, between, _, folds in _counted(schedule, p, 1)
    )


def two_trees(schedule: Callable[..., Schedule], p: int, k: int) -> Phases:
    """Once all edges are busy, the same two rounds return for each segment more."""
    few = min(k, 2 * ceil_log2(p) + 2)
    rounds = [phase._replace(rounds=1) for phase in _counted(schedule, p, few) for _ in range(phase.rounds)]
    middle = len(rounds) // 2
    return (*rounds[:middle], *rounds[middle : middle + 2] * (k - few), *rounds[middle:])


@lru_cache(maxsize=256)
def _counted(schedule: Callable[..., Schedule], p: int, k: int) -> Phases:
    return count(schedule(np.arange(p), p, 0, k), p)
