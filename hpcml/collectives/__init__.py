"""Collective communication on arrays over MPI: readable algorithms, run by a compiled engine.

    from mpi4py import MPI
    from hpcml import collectives as hc

    y = hc.allreduce(x, op="sum", algorithm="auto", out=None, comm=None)

Every function takes an mpi4py communicator as ``comm=`` (None: MPI.COMM_WORLD) and must be called by all its ranks.
"""

from __future__ import annotations

from hpcml.collectives.algorithms import CATALOGUE as _CATALOGUE
from hpcml.collectives.algorithms import of as _of
from hpcml.collectives.errors import (
    ArgumentError,
    CollectiveError,
    CommunicationError,
    MismatchError,
    abort_on_uncaught,
    all_or_none,
)
from hpcml.collectives.movement import allgather, barrier, broadcast, gather, scatter
from hpcml.collectives.plan import Plan, plan
from hpcml.collectives.reduction import allreduce, reduce

__all__ = [
    "ArgumentError",
    "CollectiveError",
    "CommunicationError",
    "MismatchError",
    "Plan",
    "algorithms",
    "all_or_none",
    "allgather",
    "allreduce",
    "barrier",
    "broadcast",
    "gather",
    "plan",
    "reduce",
    "scatter",
]

abort_on_uncaught()


def algorithms(collective: str) -> list[str]:
    """The names that ``algorithm=`` takes for that collective: "auto", the MPI library's own, and ours."""
    known = sorted({row.collective for row in _CATALOGUE})
    if collective not in known:
        raise ValueError(f"unknown collective {collective!r}: expected one of {', '.join(known)}")
    return ["auto", "native", *(row.name for row in _of(collective))]
