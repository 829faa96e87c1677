"""What our algorithms are compared with, beside the MPI library's default: its forced algorithms, gloo, plain loops."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from hpcml.bench import forced, gloo, library, loops
from hpcml.bench.data import Data
from hpcml.collectives.ops import Op

NATIVE, GLOO, LOOPS = "native", "gloo", "mpi4py ring"
KINDS = ("forced", GLOO, LOOPS)
TRIAL_BYTES = 40_000


@dataclass(frozen=True)
class Rival:
    """bind: a call that takes nothing, and the array in which it leaves its result.
    held: what has to hold while it is called, entered outside the timing."""

    name: str
    bind: Callable[[Data], tuple[Callable[[], object], np.ndarray]]
    held: Callable[[], AbstractContextManager] = nullcontext
    close: Callable[[], object] = lambda: None


def is_rival(name: str) -> bool:
    """Whether a row of that name is somebody else's."""
    return name in (NATIVE, GLOO, LOOPS) or name.startswith(f"{NATIVE}: ")


def find(
    collective: str, dtype: np.dtype, op: Op, comm: MPI.Intracomm, kinds: tuple[str, ...] = KINDS
) -> tuple[list[Rival], dict[str, str]]:
    """Those that work here, and why the others do not, by name. Called by every rank; alike on all.

    Each is tried once on numbered data: some algorithms are for two ranks only, or for powers of two, and say so; one
    whose result is wrong on any rank is not measured either.
    """
    found: list[Rival] = []
    if "forced" in kinds:
        found += [forced_rival(algorithm, comm) for algorithm in forced.algorithms(collective)]
    if GLOO in kinds and comm.size > 1 and collective in gloo.COLLECTIVES and gloo.available(comm):
        group = gloo.Gloo(comm)
        found.append(Rival(GLOO, group.bind, close=group.close))
    data = Data(collective, TRIAL_BYTES, dtype, op, comm)
    if LOOPS in kinds and loops.bound(data, comm) is not None:
        found.append(Rival(LOOPS, lambda data: (_loop(data, comm), data.out)))
    admitted, left_out = [], {}
    for rival in found:
        if wrong := _trial(rival, data, comm):
            left_out[rival.name] = wrong
            rival.close()
        else:
            admitted.append(rival)
    return admitted, left_out


def forced_rival(algorithm: forced.Forced, comm: MPI.Intracomm) -> Rival:
    """The library's own algorithm as a row; called by every rank."""
    name = f"{NATIVE}: {algorithm.name}"
    if MPI.Get_library_version().startswith("Open MPI"):
        with forced.held(algorithm.set):
            own = comm.Dup()
        return Rival(name, lambda data: (library.bound(algorithm.function, data, own), data.out), close=own.Free)
    return Rival(
        name,
        lambda data: (library.bound(algorithm.function, data, comm), data.out),
        held=lambda: forced.held(algorithm.set),
    )


def _loop(data: Data, comm: MPI.Intracomm) -> Callable[[], object]:
    call = loops.bound(data, comm)
    assert call is not None  # `find` lists the loops only where there is one
    return call


def _trial(rival: Rival, data: Data, comm: MPI.Intracomm) -> str:
    """What is wrong with it, or nothing; the same on every rank."""
    said = ""
    data.number()
    try:
        call, result = rival.bind(data)
        with forced.held(forced.strict()), rival.held():
            call()
        if not data.right(result):
            said = "gives a wrong result"
    except (MPI.Exception, RuntimeError, NotImplementedError, KeyError) as error:
        said = next(iter(str(error).splitlines()[-1:]), "")[-100:] or type(error).__name__
    return max(comm.allgather(said), key=len)
