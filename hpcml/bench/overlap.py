"""How much of an all-reduce's time is hidden behind a computation that runs meanwhile.

    mpiexec -n 2 python -m hpcml.bench.overlap --bytes 8M

With Tm the time of the communication alone, Tc that of the computation alone and T that of both, the hidden share is
(Tc + Tm − T) / min(Tc, Tm): 1 where the shorter of the two costs nothing, 0 where they might as well follow each
other, and less where they get into each other's way. The computation is a fixed amount of NumPy work on one thread
that takes about as long as the communication; it makes no MPI calls, so the communication has to get on by itself.

Nothing can be hidden where both together want more than the processors there are. So of each is told how many were at
work, on rank 0's machine: the system's work for the network is in it, and that of other programs.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.bench.sockets import Sockets
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
    cores: np.ndarray  # that were at work in each, on average; NaN where the system does not say

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
    """Ours, ours as a plan, the MPI library's own, and no more than the bytes on their way."""
    out = np.empty_like(x)
    plan = hc.plan("allreduce", x, out=np.empty_like(x), comm=comm, background=True)
    plain = Sockets(x.nbytes, comm)
    return [
        Way("hc.iallreduce", lambda: hc.iallreduce(x, comm=comm), lambda request: request.wait()),  # type: ignore[attr-defined]
        Way("plan, background=True", plan.start, lambda _: plan.wait(), plan.close),
        Way("MPI_Iallreduce", lambda: comm.Iallreduce(x, out), lambda request: request.Wait()),  # type: ignore[attr-defined]
        Way("its bytes by sockets", plain.begin, plain.complete, plain.close),  # type: ignore[arg-type]
    ]


def measure(way: Way, x: np.ndarray, computation: Computation, turns: int, comm: MPI.Intracomm) -> Times:
    """Take the three times in turn; the computation is as long as the communication is in the first three."""
    trials = [_seconds(way, x, None, comm)[1] for _ in range(4)][1:]
    start = time.perf_counter()
    computation.run(20)
    one = comm.allreduce((time.perf_counter() - start) / 20, MPI.MAX)
    slices = max(1, round(float(np.median(trials)) / one))

    def compute() -> None:
        computation.run(slices)

    three = (way, None), (None, compute), (way, compute)
    taken = [[_seconds(one, x, meanwhile, comm) for one, meanwhile in three] for _ in range(turns)]
    seconds, slowest, worked = np.moveaxis(np.array(taken), -1, 0)
    alone, work, both = slowest.T
    return Times(alone, work, both, worked.sum(axis=0) / seconds.sum(axis=0))


def _seconds(
    way: Way | None, x: np.ndarray, meanwhile: Callable[[], object] | None, comm: MPI.Intracomm
) -> tuple[float, float, float]:
    """Of this rank, of the slowest one, and those for which the machine's processors worked."""
    x[...] = 1
    comm.Barrier()
    worked = processor_seconds()
    start = time.perf_counter()
    request = None if way is None else way.begin()
    if meanwhile is not None:
        meanwhile()
    if way is not None:
        way.complete(request)
    seconds, worked = time.perf_counter() - start, processor_seconds() - worked
    return seconds, comm.allreduce(seconds, MPI.MAX), worked


def processor_seconds() -> float:
    """For which all processors of this machine have worked so far, the system's work included; NaN: not known."""
    counts = Path("/proc/stat")
    if not counts.exists():
        return float("nan")
    user, nice, system, _, _, *interrupts = map(int, counts.read_text().splitlines()[0].split()[1:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def line(nbytes: int, name: str, times: Times) -> str:
    """Medians in milliseconds, and the hidden share with its quartiles."""
    parts = [float(np.median(t)) * 1e3 for t in (times.communication, times.computation, times.both)]
    low, share, high = np.percentile(times.hidden(), [25, 50, 75])
    columns = "".join(f"{part:12.3f}" for part in parts)
    cores = "".join(f"{number:6.2f}" for number in times.cores)
    return f"{nbytes:>10}  {name:<24}{columns}{share:9.2f}  [{low:.2f}, {high:.2f}]{cores}"


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
        columns = "".join(f"{name:>12}" for name in ("Tm, ms", "Tc, ms", "T, ms"))
        print(f"{'bytes':>10}  {'way':<24}{columns}{'hidden':>9}  [quartiles]  cores at work")
    for nbytes in args.bytes:
        x = np.ones(max(nbytes // 4, 1), np.float32)
        for way in ways(x, comm):
            times = measure(way, x, computation, args.repeat, comm)
            if comm.rank == 0:
                print(line(nbytes, way.name, times), flush=True)
            way.close()
    if comm.rank == 0:
        print("Tm: communication alone, Tc: computation alone, T: both; hidden: (Tc + Tm - T) / min(Tc, Tm).")
        print("its bytes by sockets: as many as a ring sends, from blocking calls to blocking calls, nothing folded.")
        print(f"cores at work: in Tm, Tc and T, of {os.cpu_count()} on this machine, all that runs there counted.")


if __name__ == "__main__":
    main()
