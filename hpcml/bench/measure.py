"""Take the times of one collective, all candidates in one run, alternating.

A timing is the mean over a batch of calls, of the slowest rank. Batches are long enough for the clock; the candidates
take turns, so that a machine that drifts drifts for all of them. They work on the same arrays, but for the results of
those that allocate them and of arrays that all ranks see; some calls that are not timed come before each batch, so that
no one finds colder caches.

From 16 KiB on the input is written anew before each call, as it is in a program that has something new to say, and what
the writing takes by itself is subtracted. With an input that stays, a rank would read what it read before out of its
own cache, and the time would be that of a copy, not of data that go from one processor to another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.bench import rivals as others
from hpcml.bench.candidates import AUTO, INTO, NOTHING, ZERO_COPY, ZERO_COPY_OF, Candidate, candidate
from hpcml.bench.data import Data, whole_bytes
from hpcml.bench.rivals import NATIVE, Rival
from hpcml.collectives.channel import channel_of
from hpcml.collectives.ops import check_dtype, find
from hpcml.collectives.shared import NAME as SHARED

BATCH_SECONDS = 6e-3
WARMING = 3  # calls before a batch, at most
TICK = 1e-9  # seconds that a call takes at least: less is noise of what is subtracted
FRESH = 16 << 10  # bytes from which on input is written anew before each call; below, before each batch
SETTLED = 256 << 10  # bytes from which on what is far behind at one size is taken to be so at larger ones


@dataclass
class Results:
    """Seconds of each timing, by (nbytes, algorithm); `nbytes` is the size of the whole array.

    left_out: rivals that were not measured, and why. line_rate: bytes per second of a link, or None if not given.
    """

    collective: str
    dtype: str
    op: str
    rank: int
    ranks: int
    nodes: int
    library: str
    seconds: dict[tuple[int, str], list[float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    line_rate: float | None = None

    def median(self, nbytes: int, name: str) -> float:
        return float(np.median(self.seconds[nbytes, name]))

    def sizes(self) -> list[int]:
        return list(dict.fromkeys(nbytes for nbytes, _ in self.seconds))

    def names(self) -> list[str]:
        return list(dict.fromkeys(name for _, name in self.seconds))

    def names_at(self, nbytes: int) -> list[str]:
        return [name for size, name in self.seconds if size == nbytes]

    def bound(self, nbytes: int) -> float | None:
        """Seconds that the bytes take on the busiest link, if its rate is known."""
        return bus_factor(self.collective, self.ranks) * nbytes / self.line_rate if self.line_rate else None


def bus_factor(collective: str, ranks: int) -> float:
    """Bytes that must cross the busiest link, as a multiple of the array's bytes, whatever the algorithm.

    The derivation is that of nccl-tests' PERFORMANCE.md: in an all-reduce each item has to leave p−1 ranks and reach
    p−1 ranks, 2(p−1) transfers over p links; in a broadcast, reduce or scan each item crosses some link once at least.
    """
    share = (ranks - 1) / ranks
    factors = {"allreduce": 2 * share, "broadcast": 1.0, "reduce": 1.0, "scan": 1.0, "exscan": 1.0, "barrier": 0.0}
    return factors.get(collective, share) if ranks > 1 else 0.0


def measure(
    collective: str,
    sizes: list[int],
    algorithms: str = "all",
    dtype: str = "float32",
    op: str = "sum",
    repeat: int = 15,
    progress: Callable[[str], None] = lambda text: None,
    comm: MPI.Intracomm | None = None,
    rivals: tuple[str, ...] = (),
    give_up: float | None = None,
    line_rate: float | None = None,
) -> Results:
    """Time ``collective`` for each size in bytes. Called by every rank; times are those of the slowest rank.

    Args:
        rivals: also time these kinds, of `hpcml.bench.rivals.KINDS`.
        give_up: an algorithm, ours or the library's, that takes more than this multiple of the fastest's time at one
            size of 256 KiB or more is not measured at larger ones; ``native``, ``auto`` and other rivals always are.
        line_rate: bytes per second of a link, for the bound in the report.
    """
    comm = MPI.COMM_WORLD if comm is None else comm
    nodes = channel_of(comm).machine.nodes
    all_ours = [n for n in hc.algorithms(collective) if nodes == 1 or n != SHARED]
    ours = all_ours if algorithms == "all" else algorithms.split(",")
    with hc.all_or_none(comm):
        unknown = set(ours) - set(hc.algorithms(collective))
        if unknown:
            known = ", ".join(hc.algorithms(collective))
            raise ValueError(f"unknown algorithm {', '.join(sorted(unknown))}: {collective} has {known}")
        found_op, kind = find(op), np.dtype(dtype)
        check_dtype(found_op, kind)
    rows, left_out = others.find(collective, kind, found_op, comm, rivals)
    by_name = {rival.name: rival for rival in rows}
    zero_copy = [ZERO_COPY] if SHARED in ours and collective in ZERO_COPY_OF else []
    into = [INTO] if nodes == 1 and collective not in ("broadcast", "barrier") else []
    names = [NATIVE, AUTO, *into, *(n for n in ours if n not in (NATIVE, AUTO)), *zero_copy, *by_name, NOTHING]
    library = MPI.Get_library_version().split("\n")[0].strip("\0 ")
    results = Results(
        collective, dtype, op, comm.rank, comm.size, nodes, library, left_out=left_out, line_rate=line_rate
    )
    for nbytes in dict.fromkeys(whole_bytes(collective, n, kind.itemsize, comm.size) for n in sizes):
        progress(f"{collective} {nbytes} B")
        data = Data(collective, nbytes, kind, found_op, comm)
        results.seconds.update({(nbytes, n): t for n, t in of_one_size(names, data, by_name, repeat).items()})
        if give_up is not None and nbytes >= SETTLED:
            best = min(results.median(nbytes, name) for name in names if name != NOTHING)
            kept = (NATIVE, AUTO, INTO, NOTHING, others.GLOO, others.LOOPS)
            names = [n for n in names if n in kept or results.median(nbytes, n) <= give_up * best]
    for rival in rows:
        rival.close()
    return results


def of_one_size(names: list[str], data: Data, rivals: dict[str, Rival], repeat: int) -> dict[str, list[float]]:
    """The timings of each, those of the slowest rank; the same on every rank."""
    rows = {name: candidate(name, data, rivals) for name in names}
    batch = {name: _batch_of(row, data) for name, row in rows.items()}
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeat):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(_time(rows[name], batch[name], data))
    for row in rows.values():
        row.close()
    return {name: hc.allreduce(np.array(times[name]), "max", comm=data.comm).tolist() for name in names}


def _batch_of(row: Candidate, data: Data) -> int:
    """How many calls make a batch, the same on every rank."""
    first = data.comm.allreduce(_time(row, 1, data), op=MPI.MAX)
    if first > 100 * BATCH_SECONDS:  # whatever the first call does once does not take as long
        return 1
    calls = 1
    while calls < 1 << 12:
        seconds = data.comm.allreduce(_time(row, calls, data) * calls, op=MPI.MAX)
        if seconds > BATCH_SECONDS:
            break
        calls *= 2
    return calls


def _time(row: Candidate, calls: int, data: Data) -> float:
    """Seconds per call of this rank, over a batch."""
    call, refresh = row.call, row.refresh
    fresh = data.nbytes >= FRESH
    with row.held():
        for _ in range(min(WARMING, calls - 1)):  # a call that is a batch by itself leaves no cache as it was
            refresh()
            call()
        data.comm.Barrier()
        start = perf_counter()
        if fresh:
            for _ in range(calls):
                refresh()
                call()
        else:
            for _ in range(calls):
                call()
        seconds = perf_counter() - start
    if fresh:
        start = perf_counter()
        for _ in range(calls):
            refresh()
        seconds = max(seconds - (perf_counter() - start), calls * TICK)
    return seconds / calls
