"""Measure every algorithm of every collective within a given time, for `hpcml.collectives.tuning`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.collectives.channel import channel_of
from hpcml.collectives.shared import NAME as SHARED
from hpcml.collectives.tuning import Times

SIZES = tuple(8 << step for step in range(0, 24, 2)) + (64 << 20,)  # bytes: 8 B to 32 MiB, and 64 MiB
COLLECTIVES = (
    "allreduce",
    "broadcast",
    "reduce",
    "allgather",
    "reduce_scatter",
    "alltoall",
    "gather",
    "scatter",
    "scan",
    "exscan",
)
HOPELESS = 3.0  # times slower than the best, at two sizes running: not measured at larger ones
ROUNDS = 7  # of taking turns, at most
BATCH_SECONDS = 2e-3  # of calls that are timed together


def measure(
    seconds: float,
    collectives: Sequence[str] = COLLECTIVES,
    sizes: Sequence[int] = SIZES,
    progress: Callable[[str], None] = lambda text: None,
    comm: MPI.Intracomm | None = None,
) -> dict[str, Times]:
    """Time started plans of every algorithm, the library's own among them, for about ``seconds``. Alike on all ranks.

    Called by every rank. Small sizes come first; each size of each collective gets an even share of the time that is
    left, and where one call of each algorithm would take longer than that, larger sizes are left out: the order found
    at the largest measured size stands for them.
    """
    comm = MPI.COMM_WORLD if comm is None else comm
    found: dict[str, Times] = {collective: {} for collective in collectives}
    slow: dict[str, dict[str, int]] = {collective: {} for collective in collectives}
    open_: list[str] = list(collectives)
    one_node = channel_of(comm).machine.nodes == 1
    end = perf_counter() + seconds
    for at, nbytes in enumerate(sizes):
        for place, collective in enumerate(list(open_)):
            pieces = (len(sizes) - at) * len(open_) - place
            share = comm.bcast((end - perf_counter()) / max(pieces, 1))
            candidates = (n for n in hc.algorithms(collective) if n != "auto" and (one_node or n != SHARED))
            names = [n for n in candidates if n == "native" or slow[collective].get(n, 0) < 2]
            progress(f"{collective} {nbytes} B")
            times = _times(collective, names, nbytes, share, comm)
            if times is None:
                open_.remove(collective)
                continue
            found[collective][nbytes] = times
            best = min(times.values())
            for name, taken in times.items():
                slow[collective][name] = slow[collective].get(name, 0) + 1 if taken > HOPELESS * best else 0
    return {collective: times for collective, times in found.items() if times}


def _times(
    collective: str, names: Sequence[str], nbytes: int, share: float, comm: MPI.Intracomm
) -> dict[str, float] | None:
    """Median seconds of each; None where the share of time does not allow one call of each."""
    x = np.ones(_items(collective, nbytes, comm), np.float32)
    plans = {name: hc.plan(collective, x, algorithm=name, comm=comm) for name in names}
    try:
        taken = {name: _slowest(plan, 1, comm) for name, plan in plans.items()}  # the first call of each also warms up
        if sum(taken.values()) > max(share, BATCH_SECONDS * len(names)) * 2:
            return None
        calls = {name: max(1, min(1024, int(BATCH_SECONDS / max(taken[name], 1e-7)))) for name in names}
        rounds = max(1, min(ROUNDS, int(share / max(sum(taken[n] * calls[n] for n in names), 1e-6))))
        samples: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds):
            for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
                samples[name].append(_slowest(plans[name], calls[name], comm))
        return {name: median(sample) for name, sample in samples.items()}
    finally:
        for plan in plans.values():
            plan.close()


def _items(collective: str, nbytes: int, comm: MPI.Intracomm) -> int:
    """Of the array that a rank passes; ``nbytes`` are of the whole where ranks hold parts."""
    items = max(nbytes // 4, 1)
    if collective in ("gather", "allgather"):
        return len(range(comm.rank, items, comm.size))
    return items


def _slowest(plan: hc.Plan, calls: int, comm: MPI.Intracomm) -> float:
    """Seconds per call on the slowest rank."""
    comm.Barrier()
    start = perf_counter()
    for _ in range(calls):
        plan.start()
        plan.wait()
    return comm.allreduce((perf_counter() - start) / calls, MPI.MAX)
