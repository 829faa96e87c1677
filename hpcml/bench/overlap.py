"""How much of an all-reduce's time is hidden behind a computation that runs meanwhile.

    mpiexec -n 2 python -m hpcml.bench.overlap --bytes 8M

With Tm the time of the communication alone, Tc that of the computation alone and T that of both, the hidden share is
(Tc + Tm − T) / min(Tc, Tm): 1 where the shorter of the two costs nothing, 0 where they might as well follow each
other, and less where they get into each other's way. The computation is a fixed amount of NumPy work on one thread
that takes about as long as the communication; it makes no MPI calls, so the communication has to get on by itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.commands.numbers import byte_sizes, fraction, positive_count

SLICE_SECONDS = 1e-3
ITEMS = 4096  # of the array that is worked on: it stays in the first cache


@dataclass(frozen=True)
class Way:
    """One non-blocking all-reduce: ``begin`` returns what ``complete`` takes."""

    name: str
    begin: Callable[[], object]
    complete: Callable[[object], object]
    close: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Times:
    """Seconds, one for each turn, of the slowest rank."""

    communication: np.ndarray
    computation: np.ndarray
    both: np.ndarray

    def hidden(self) -> np.ndarray:
        """The hidden share of each turn."""
        shorter = np.minimum(self.computation, self.communication)
        return (self.computation + self.communication - self.both) / shorter


class Computation:
    """Slices of about a millisecond, each the same count of NumPy calls; idle for the rest of the slice if not busy.

    busy: share of the time in which it uses its core. Below 1 it stands for a computation on another core, or on a
    device, where ranks share the cores there are.
    """

    def __init__(self, busy: float):
        self._x = np.ones(ITEMS)
        self._idle = (1 - busy) * SLICE_SECONDS
        start = time.perf_counter()
        self._work(1000)
        self._calls = max(1, int(busy * SLICE_SECONDS / (time.perf_counter() - start) * 1000))

    def run(self, slices: int) -> None:
        for _ in range(slices):
            self._work(self._calls)
            if self._idle:
                time.sleep(self._idle)

    def _work(self, calls: int) -> None:
        for _ in range(calls):
            np.sqrt(self._x, out=self._x)


def ways(x: np.ndarray, comm: MPI.Intracomm) -> list[Way]:
    """Ours, ours as a plan, and the MPI library's own."""
    out = np.empty_like(x)
    plan = hc.plan("allreduce", x, out=np.empty_like(x), comm=comm, background=True)
    return [
        Way("hc.iallreduce", lambda: hc.iallreduce(x, comm=comm), lambda request: request.wait()),  # type: ignore[attr-defined]
        Way("plan, background=True", plan.start, lambda _: plan.wait(), plan.close),
        Way("MPI_Iallreduce", lambda: comm.Iallreduce(x, out), lambda request: request.Wait()),  # type: ignore[attr-defined]
    ]


def measure(way: Way, x: np.ndarray, computation: Computation, turns: int, comm: MPI.Intracomm) -> Times:
    """Take the three times in turn; the computation is as long as the communication is in the first three."""
    trials = [_seconds(way, x, None, comm) for _ in range(4)][1:]
    start = time.perf_counter()
    computation.run(20)
    one = comm.allreduce((time.perf_counter() - start) / 20, MPI.MAX)
    slices = max(1, round(float(np.median(trials)) / one))
    taken: list[tuple[float, float, float]] = []
    for _ in range(turns):
        alone = _seconds(way, x, None, comm)
        comm.Barrier()
        start = time.perf_counter()
        computation.run(slices)
        work = comm.allreduce(time.perf_counter() - start, MPI.MAX)
        taken.append((alone, work, _seconds(way, x, lambda: computation.run(slices), comm)))
    return Times(*np.array(taken).T)


def _seconds(way: Way, x: np.ndarray, meanwhile: Callable[[], object] | None, comm: MPI.Intracomm) -> float:
    x[...] = 1
    comm.Barrier()
    start = time.perf_counter()
    request = way.begin()
    if meanwhile is not None:
        meanwhile()
    way.complete(request)
    return comm.allreduce(time.perf_counter() - start, MPI.MAX)


def line(nbytes: int, name: str, times: Times) -> str:
    """Medians in milliseconds, and the hidden share with its quartiles."""
    parts = [float(np.median(t)) * 1e3 for t in (times.communication, times.computation, times.both)]
    low, share, high = np.percentile(times.hidden(), [25, 50, 75])
    columns = "".join(f"{part:12.3f}" for part in parts)
    return f"{nbytes:>10}  {name:<24}{columns}{share:9.2f}  [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bytes", type=byte_sizes, default="1M,8M", metavar="LIST")
    parser.add_argument("--repeat", type=positive_count, default=9, metavar="N", help="turns (default: 9)")
    parser.add_argument(
        "--idle", type=fraction, default=0.0, help="share of the time in which the computation leaves its core idle"
    )
    args = parser.parse_args()
    comm = MPI.COMM_WORLD
    computation = Computation(1 - args.idle)
    library = MPI.Get_library_version().splitlines()[0].partition(",")[0].strip("\0 ")
    if comm.rank == 0:
        print(f"all-reduce of float32 on {comm.size} ranks, {library}; a computation {1 - args.idle:.0%} busy")
        print(f"{'bytes':>10}  {'way':<24}{'Tm, ms':>12}{'Tc, ms':>12}{'T, ms':>12}{'hidden':>9}  [quartiles]")
    for nbytes in args.bytes:
        x = np.ones(max(nbytes // 4, 1), np.float32)
        for way in ways(x, comm):
            times = measure(way, x, computation, args.repeat, comm)
            if comm.rank == 0:
                print(line(nbytes, way.name, times), flush=True)
            way.close()
    if comm.rank == 0:
        print("Tm: communication alone, Tc: computation alone, T: both; hidden: (Tc + Tm - T) / min(Tc, Tm).")


if __name__ == "__main__":
    main()
