"""One row of a measurement, ready to be called: ours, the library's, a rival's, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from hpcml import collectives as hc
from hpcml.bench import library
from hpcml.bench.data import Data
from hpcml.bench.rivals import NATIVE, Rival
from hpcml.collectives.ops import REDUCTIONS
from hpcml.collectives.shared import NAME as SHARED

NOTHING, AUTO = "nothing", "auto"
INTO = "auto, out="  # told where to put the result, as the raw call is
ZERO_COPY = "shared, hc.empty"  # "shared" in place on an array that all ranks see
ZERO_COPY_OF = ("allreduce", "broadcast")


@dataclass(frozen=True)
class Candidate:
    """``call`` does it once; what it costs is all that is timed. refresh: write its input anew."""

    call: Callable[[], object]
    refresh: Callable[[], object]
    held: Callable[[], AbstractContextManager] = nullcontext
    close: Callable[[], object] = lambda: None


def candidate(name: str, data: Data, rivals: dict[str, Rival]) -> Candidate:
    """The row of that name: a rival's, or an algorithm of ours as a started plan, or one of the five below.

    native: the raw mpi4py call. auto: the public function, which allocates its result; with out=, it is told where to
    put it, as the raw call is. nothing: an empty call.
    shared, hc.empty: a started plan, in place on an array of its own. Every rank asks for the same rows in turn.
    All others but ``auto`` work on the same two arrays.
    """
    if name in rivals:
        rival = rivals[name]
        return Candidate(rival.bind(data)[0], data.refresh, rival.held)
    if name == NOTHING:
        return Candidate(_nothing, _nothing)
    if name == NATIVE:
        return Candidate(library.bound(library.FUNCTIONS[data.collective], data, data.comm), data.refresh)
    into = {} if data.collective == "broadcast" else {"out": data.out}
    if name in (AUTO, INTO) or data.collective == "barrier":
        return Candidate(_public(AUTO, data, into) if name == INTO else _public(name, data), data.refresh)
    options = {"op": data.op.mpi} if data.collective in REDUCTIONS else {}
    if name == ZERO_COPY:
        return _zero_copy(data, options)
    plan = hc.plan(data.collective, data.x, algorithm=name, comm=data.comm, **options, **into)  # type: ignore[arg-type]
    return Candidate(_started(plan), data.refresh, close=plan.close)


def _nothing() -> None:
    pass


def _zero_copy(data: Data, options: dict) -> Candidate:
    x = hc.empty(data.x.shape, data.x.dtype, data.comm)
    x[...] = data.x
    if data.collective != "broadcast":
        options = {**options, "out": x}
    plan = hc.plan(data.collective, x, algorithm=SHARED, comm=data.comm, **options)
    return Candidate(_started(plan), refresh=lambda: x.fill(1), close=plan.close)


def _started(plan: hc.Plan) -> Callable[[], object]:
    start, wait = plan.start, plan.wait

    def call() -> None:
        start()
        wait()

    return call


def _public(name: str, data: Data, options: dict | None = None) -> Callable[[], object]:
    options = options or {}
    function, x, comm = getattr(hc, data.collective), data.x, data.comm
    if data.collective == "barrier":
        return lambda: function(algorithm=name, comm=comm)
    if data.collective in REDUCTIONS:
        op = data.op.name
        return lambda: function(x, op, algorithm=name, comm=comm, **options)
    return lambda: function(x, algorithm=name, comm=comm, **options)
