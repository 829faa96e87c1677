"""BLAS threads: as many per rank as there are cores for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mpi4py import MPI


@contextmanager
def own_cores(comm: MPI.Intracomm, most: int | None = None) -> Iterator[None]:
    """Within it, ranks that share cores share them out: ranks × threads stays within the cores. Collective.

    most: threads a rank, at most; results of BLAS may depend on their number.

    Does nothing where threadpoolctl is not installed. A thread count that the user has set lower
    (OMP_NUM_THREADS and the like) stays.
    """
    mine = MPI.Get_processor_name(), frozenset(_cores())
    everyones = comm.allgather(mine)
    try:
        from threadpoolctl import threadpool_info, threadpool_limits
    except ImportError:
        yield
        return
    wanted = share(mine, everyones)
    present = [pool["num_threads"] for pool in threadpool_info()]
    with threadpool_limits(limits=min([wanted, *present, *([] if most is None else [most])])):
        yield


def share(mine: tuple[str, frozenset[int]], everyones: list[tuple[str, frozenset[int]]]) -> int:
    """Threads for a process on (host, cores) ``mine``, when ``everyones`` are there: at least 1.

    >>> share(("a", frozenset({0, 1, 2, 3})), [("a", frozenset({0, 1, 2, 3}))] * 2 + [("b", frozenset({0}))])
    2
    """
    host, cores = mine
    sharing = sum(1 for other, theirs in everyones if other == host and not cores.isdisjoint(theirs))
    return max(1, len(cores) // max(1, sharing))


def _cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
