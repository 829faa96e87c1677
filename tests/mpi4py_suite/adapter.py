"""An mpi4py communicator whose collectives are hpcml's: blocking, non-blocking and persistent.

Each collective is described once, by a function that turns mpi4py's arguments into a `Call` of hpcml; its three forms
are made from that. What hpcml has no notion of goes to the MPI library; `TALLY` counts both.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mpi4py import MPI
from mpi4py_suite.message import Message, NotCarried, simple, typed_vector, vector

from hpcml import collectives as hc

# Which algorithm to force, such as "allreduce=ring alltoall=bruck"; "auto" for what is not named.
ALGORITHMS = "HPCML_SUITE_ALGORITHMS"


@dataclass
class Call:
    """A function of `hpcml.collectives`, its array and its keywords, and the memory that it reads and writes."""

    function: str
    x: np.ndarray | None = None
    options: dict[str, Any] = field(default_factory=dict)
    reads: Message | None = None
    writes: Message | None = None

    def arguments(self) -> tuple[tuple, dict[str, Any]]:
        algorithm = _algorithms().get(self.function.replace("alltoallv", "alltoall"), "auto")
        given = () if self.function == "barrier" else (self.x,)
        return given, {**self.options, "algorithm": algorithm}

    def before(self) -> None:
        if self.reads is not None:
            self.reads.pack()

    def after(self) -> None:
        if self.writes is not None:
            self.writes.unpack()


@dataclass
class Tally:
    """How many collectives ran on hpcml, and how many on the MPI library; by mpi4py's names."""

    carried: Counter[str] = field(default_factory=Counter)
    fell_back: Counter[str] = field(default_factory=Counter)


TALLY = Tally()


class Background:
    """What a non-blocking collective returns: as much of `MPI.Request` as one collective needs."""

    def __init__(self, call: Call, request: hc.Request):
        self._call, self._request, self._done = call, request, False

    def Wait(self) -> bool:
        self._request.wait()
        self._finish()
        return True

    def Test(self) -> bool:
        if not self._request.test():
            return False
        self._finish()
        return True

    def _finish(self) -> None:
        if not self._done:
            self._done = True
            self._call.after()


class Persistent:
    """What ``…_init`` returns: as much of `MPI.Prequest` as one collective needs."""

    def __init__(self, call: Call, plan: hc.Plan):
        self._call, self._plan, self._active = call, plan, False

    def Start(self) -> None:
        self._call.before()
        self._plan.start()
        self._active = True

    def Wait(self) -> bool:
        if self._active:
            self._plan.wait()
            self._active = False
            self._call.after()
        return True

    def Test(self) -> bool:
        return not self._active or (self._plan.test() and self.Wait())

    def Free(self) -> None:
        self._plan.close()


class Adapter(MPI.Intracomm):
    """The communicator that it is made from, with hpcml's collectives. `Dup` of one is one, and so is `Split`."""

    def Split(self, color: int = 0, key: int = 0) -> MPI.Intracomm:
        part = super().Split(color, key)
        return part if part == MPI.COMM_NULL else Adapter(part)


def _algorithms() -> dict[str, str]:
    return dict(named.split("=") for named in os.environ.get(ALGORITHMS, "").split())


def _blocking(comm: MPI.Intracomm, call: Call) -> None:
    given, options = call.arguments()
    call.before()
    getattr(hc, call.function)(*given, comm=comm, **options)
    call.after()


def _nonblocking(comm: MPI.Intracomm, call: Call) -> Background:
    given, options = call.arguments()
    call.before()
    return Background(call, getattr(hc, "i" + call.function)(*given, comm=comm, **options))


def _persistent(comm: MPI.Intracomm, call: Call) -> Persistent:
    given, options = call.arguments()
    return Persistent(call, hc.plan(call.function, *given, comm=comm, **options))


def barrier(comm: MPI.Intracomm) -> Call:
    return Call("barrier")


def bcast(comm: MPI.Intracomm, buf: Any, root: int = 0) -> Call:
    message = simple(buf)
    return Call("broadcast", message.array, {"root": root}, message, message)


def gather(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any, root: int = 0) -> Call:
    return _gathered(comm, sendbuf, recvbuf, root, simple, equal=True)


def gatherv(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any, root: int = 0) -> Call:
    return _gathered(comm, sendbuf, recvbuf, root, vector, equal=False)


def _gathered(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any, root: int, read: Callable, equal: bool) -> Call:
    """equal: every rank knows how long all parts are; else the root alone does, and hpcml's ranks tell each other."""
    target = read(recvbuf, comm.size) if comm.rank == root else None
    source = target if target is not None and _in_place(sendbuf) else simple(sendbuf)
    part = target.part(root) if source is target else source.array
    options = {"root": root, "out": None if target is None else target.array}
    if equal:
        options["counts"] = [len(part)] * comm.size
    return Call("gather", part, options, source, target)


def scatter(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any, root: int = 0) -> Call:
    return _scattered(comm, sendbuf, recvbuf, root, simple, equal=True)


def scatterv(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any, root: int = 0) -> Call:
    return _scattered(comm, sendbuf, recvbuf, root, vector, equal=False)


def _scattered(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any, root: int, read: Callable, equal: bool) -> Call:
    source = read(sendbuf, comm.size) if comm.rank == root else None
    target = source if source is not None and _in_place(recvbuf) else simple(recvbuf)
    mine = source.part(root) if source is target else target.array
    # hpcml wants all counts on every rank; MPI gives each rank its own.
    counts = [len(mine)] * comm.size if equal else _told(comm, len(mine))
    options = {"root": root, "out": mine, "counts": counts}
    return Call("scatter", None if source is None else source.array, options, source, target)


def allgather(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any) -> Call:
    return _allgathered(comm, sendbuf, simple(recvbuf, comm.size))


def allgatherv(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any) -> Call:
    return _allgathered(comm, sendbuf, vector(recvbuf, comm.size))


def _allgathered(comm: MPI.Intracomm, sendbuf: Any, target: Message) -> Call:
    source = target if _in_place(sendbuf) else simple(sendbuf)
    part = target.part(comm.rank) if source is target else source.array
    return Call("allgather", part, {"out": target.array, "counts": target.counts}, source, target)


def alltoall(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any) -> Call:
    target = simple(recvbuf, comm.size)
    source = target if _in_place(sendbuf) else simple(sendbuf, comm.size)
    return Call("alltoall", source.array, {"out": target.array}, source, target)


def alltoallv(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any) -> Call:
    return _exchanged(comm, sendbuf, recvbuf, vector)


def alltoallw(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any) -> Call:
    return _exchanged(comm, sendbuf, recvbuf, typed_vector)


def _exchanged(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any, read: Callable) -> Call:
    target = read(recvbuf, comm.size)
    source = target if _in_place(sendbuf) else read(sendbuf, comm.size)
    return Call("alltoallv", source.array, {"counts": source.counts, "out": target.array}, source, target)


def reduce(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any, op: MPI.Op = MPI.SUM, root: int = 0) -> Call:
    target = simple(recvbuf) if comm.rank == root else None
    source = target if target is not None and _in_place(sendbuf) else simple(sendbuf)
    return _folded("reduce", source, target, op, root=root)


def allreduce(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any, op: MPI.Op = MPI.SUM) -> Call:
    return _folded_like("allreduce", sendbuf, recvbuf, op)


def scan(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any, op: MPI.Op = MPI.SUM) -> Call:
    return _folded_like("scan", sendbuf, recvbuf, op)


def exscan(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any, op: MPI.Op = MPI.SUM) -> Call:
    return _folded_like("exscan", sendbuf, recvbuf, op)


def reduce_scatter_block(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any, op: MPI.Op = MPI.SUM) -> Call:
    if _in_place(sendbuf):
        return _folded_in_place(simple(recvbuf, comm.size), comm.rank, op)
    return _folded("reduce_scatter", simple(sendbuf), simple(recvbuf), op)


def reduce_scatter(
    comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any, recvcounts: Any = None, op: MPI.Op = MPI.SUM
) -> Call:
    target = simple(recvbuf)
    if _in_place(sendbuf):
        if recvcounts is None:
            raise NotCarried("a reduce-scatter in place without counts")
        target.counts = list(recvcounts)
        return _folded_in_place(target, comm.rank, op)
    counts = _told(comm, len(target.array)) if recvcounts is None else list(recvcounts)
    return _folded("reduce_scatter", simple(sendbuf), target, op, counts=counts)


def _folded_like(collective: str, sendbuf: Any, recvbuf: Any, op: MPI.Op) -> Call:
    target = simple(recvbuf)
    return _folded(collective, target if _in_place(sendbuf) else simple(sendbuf), target, op)


def _folded_in_place(message: Message, rank: int, op: MPI.Op) -> Call:
    """A reduce-scatter that leaves a rank's part at the start of what it gave."""
    call = _folded("reduce_scatter", message, message, op, counts=message.counts)
    call.options["out"] = message.array[: message.counts[rank]]
    return call


def _folded(function: str, source: Message, target: Message | None, op: MPI.Op, **options: Any) -> Call:
    if not source.is_basic:
        raise NotCarried("a fold of items that are no numbers")
    options.update(op=op, out=None if target is None else target.array)
    return Call(function, source.array, options, source, target)


def _told(comm: MPI.Intracomm, count: int) -> list[int]:
    """The counts of all ranks, in rank order."""
    return hc.allgather(np.array([count]), comm=comm, counts=[1] * comm.size).tolist()


def _in_place(buffer: Any) -> bool:
    return buffer is None or buffer is MPI.IN_PLACE


DESCRIBED = {
    "Barrier": barrier,
    "Bcast": bcast,
    "Gather": gather,
    "Gatherv": gatherv,
    "Scatter": scatter,
    "Scatterv": scatterv,
    "Allgather": allgather,
    "Allgatherv": allgatherv,
    "Alltoall": alltoall,
    "Alltoallv": alltoallv,
    "Alltoallw": alltoallw,
    "Reduce": reduce,
    "Allreduce": allreduce,
    "Reduce_scatter_block": reduce_scatter_block,
    "Reduce_scatter": reduce_scatter,
    "Scan": scan,
    "Exscan": exscan,
}


def _method(name: str, describe: Callable[..., Call], begin: Callable) -> Callable:
    def collective(self: Adapter, *args: Any, info: MPI.Info = MPI.INFO_NULL, **kwargs: Any) -> Any:
        comm = MPI.Intracomm(self)  # the library's own: hpcml's calls of it must not come back here
        try:
            call = describe(comm, *args, **kwargs)
        except NotCarried:
            TALLY.fell_back[name] += 1
            return getattr(comm, name)(*args, **kwargs)
        TALLY.carried[name] += 1
        return begin(comm, call)

    collective.__name__ = name
    return collective


for _name, _describe in DESCRIBED.items():
    for _form, _begin in (
        (_name, _blocking),
        ("I" + _name.lower(), _nonblocking),
        (_name + "_init", _persistent),
    ):
        setattr(Adapter, _form, _method(_form, _describe, _begin))
