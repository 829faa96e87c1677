"""Take the times of one collective, all algorithms in one run, alternating.

A timing is the mean over a batch of calls, of the slowest rank. Batches are long enough for the clock; the candidates
take turns, so that a machine that drifts drifts for all of them. Where one call is long enough to be a batch, its
input is written anew before it, outside the timing, so that caches do not flatter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.collectives.ops import check_dtype, find

BATCH_SECONDS = 2e-3
NOTHING, NATIVE, AUTO = "nothing", "native", "auto"


@dataclass
class Results:
    """Seconds of each timing, by (nbytes, algorithm); `nbytes` is the size of the whole array."""

    collective: str
    dtype: str
    op: str
    rank: int
    ranks: int
    nodes: int
    library: str
    seconds: dict[tuple[int, str], list[float]] = field(default_factory=dict)

    def median(self, nbytes: int, name: str) -> float:
        return float(np.median(self.seconds[nbytes, name]))

    def sizes(self) -> list[int]:
        return list(dict.fromkeys(nbytes for nbytes, _ in self.seconds))

    def names(self) -> list[str]:
        return list(dict.fromkeys(name for _, name in self.seconds))


def bus_factor(collective: str, ranks: int) -> float:
    """Bytes that must cross the busiest link, as a multiple of the array's bytes, whatever the algorithm.

    The derivation is that of nccl-tests' PERFORMANCE.md: in an all-reduce each item has to leave p−1 ranks and reach
    p−1 ranks, 2(p−1) transfers over p links; in a broadcast or reduce each item crosses each link once at least.
    """
    share = (ranks - 1) / ranks
    factors = {"allreduce": 2 * share, "broadcast": 1.0, "reduce": 1.0, "barrier": 0.0}
    return factors.get(collective, share) if ranks > 1 else 0.0


def measure(
    collective: str,
    sizes: list[int],
    algorithms: str = "all",
    dtype: str = "float32",
    op: str = "sum",
    repeat: int = 15,
    progress: Callable[[str], None] = lambda text: None,
    comm: MPI.Comm | None = None,
) -> Results:
    """Time ``collective`` for each size in bytes. Called by every rank; times are those of the slowest rank."""
    comm = MPI.COMM_WORLD if comm is None else comm
    names = hc.algorithms(collective) if algorithms == "all" else algorithms.split(",")
    with hc.all_or_none(comm):
        unknown = set(names) - set(hc.algorithms(collective))
        if unknown:
            known = ", ".join(hc.algorithms(collective))
            raise ValueError(f"unknown algorithm {', '.join(sorted(unknown))}: {collective} has {known}")
        check_dtype(find(op), np.dtype(dtype))
    names = [NATIVE, AUTO, *(n for n in names if n not in (NATIVE, AUTO)), NOTHING]
    results = Results(
        collective, dtype, op, comm.rank, comm.size, _nodes(comm), MPI.Get_library_version().split("\n")[0].strip("\0 ")
    )
    for nbytes in sizes:
        progress(f"{collective} {nbytes} B")
        calls = {name: _Candidate(collective, name, nbytes, np.dtype(dtype), op, comm) for name in names}
        batch = {name: _batch_of(call, comm) for name, call in calls.items()}
        times: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(repeat):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                times[name].append(_time(calls[name], batch[name], comm))
        for name in names:
            slowest = hc.allreduce(np.array(times[name]), "max", comm=comm)
            results.seconds[nbytes, name] = slowest.tolist()
            calls[name].close()
    return results


class _Candidate:
    """One algorithm on one size. ``call`` does it once; what it costs is all that is timed."""

    def __init__(self, collective: str, name: str, nbytes: int, dtype: np.dtype, op: str, comm: MPI.Comm):
        items = max(nbytes // dtype.itemsize, 1) if nbytes else 0
        parts = collective in ("gather", "allgather")
        mine = len(np.array_split(np.empty(items, bool), comm.size)[comm.rank]) if parts else items
        self.x = np.ones(mine, dtype)
        self._plan: hc.Plan | None = None
        if name == NOTHING:
            self.call: Callable[[], object] = _nothing
        elif name == NATIVE:
            self.call = _raw_mpi4py(collective, self.x, items, op, comm)
        elif name == AUTO or collective == "barrier":
            self.call = _public(collective, name, self.x, op, comm)
        else:
            in_place = collective == "broadcast"
            options = {} if in_place else {"op": op}
            self._plan = hc.plan(collective, self.x, algorithm=name, comm=comm, **options)  # type: ignore[arg-type]
            self.call = _started(self._plan)

    def refresh(self) -> None:
        self.x[...] = 1

    def close(self) -> None:
        if self._plan is not None:
            self._plan.close()


def _nothing() -> None:
    pass


def _started(plan: hc.Plan) -> Callable[[], object]:
    start, wait = plan.start, plan.wait

    def call() -> None:
        start()
        wait()

    return call


def _public(collective: str, name: str, x: np.ndarray, op: str, comm: MPI.Comm) -> Callable[[], object]:
    if collective == "barrier":
        return lambda: hc.barrier(algorithm=name, comm=comm)
    function = getattr(hc, collective)
    if collective in ("allreduce", "reduce"):
        return lambda: function(x, op, algorithm=name, comm=comm)
    return lambda: function(x, algorithm=name, comm=comm)


def _raw_mpi4py(collective: str, x: np.ndarray, items: int, op: str, comm: MPI.Comm) -> Callable[[], object]:
    """The call that a user of mpi4py would write, with everything it needs made beforehand."""
    mpi_op = {"sum": MPI.SUM, "prod": MPI.PROD, "min": MPI.MIN, "max": MPI.MAX}.get(op, MPI.SUM)
    out = np.empty(items, x.dtype)
    counts = [len(part) for part in np.array_split(np.empty(items, bool), comm.size)]
    root = comm.rank == 0
    if collective == "allreduce":
        return lambda: comm.Allreduce(x, out, mpi_op)
    if collective == "reduce":
        return lambda: comm.Reduce(x, out if root else None, mpi_op)
    if collective == "broadcast":
        return lambda: comm.Bcast(x)
    if collective == "allgather":
        return lambda: comm.Allgatherv(x, [out, counts])
    if collective == "gather":
        return lambda: comm.Gatherv(x, [out, counts] if root else None)
    if collective == "scatter":
        part = np.empty(counts[comm.rank], x.dtype)
        return lambda: comm.Scatterv([x, counts] if root else None, part)
    return comm.Barrier


def _batch_of(candidate: _Candidate, comm: MPI.Comm) -> int:
    """How many calls make a batch, the same on every rank."""
    candidate.call()
    calls = 1
    while calls < 1 << 12:
        seconds = comm.allreduce(_time(candidate, calls, comm) * calls, op=MPI.MAX)
        if seconds > BATCH_SECONDS:
            break
        calls *= 2
    return calls


def _time(candidate: _Candidate, calls: int, comm: MPI.Comm) -> float:
    """Seconds per call of this rank, over a batch."""
    call = candidate.call
    if calls == 1:
        candidate.refresh()
    comm.Barrier()
    start = perf_counter()
    for _ in range(calls):
        call()
    return (perf_counter() - start) / calls


def _nodes(comm: MPI.Comm) -> int:
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    nodes = comm.allreduce(int(node.rank == 0))
    node.Free()
    return nodes
