"""Collective communication on arrays over MPI: readable algorithms, run by a compiled engine.

    from mpi4py import MPI
    from hpcml import collectives as hc

    y = hc.allreduce(x, op="sum", algorithm="auto", out=None, comm=None)

Every function takes an mpi4py communicator as ``comm=`` (None: MPI.COMM_WORLD) and must be called by all its ranks.
"""

from __future__ import annotations

from hpcml.collectives.algorithms import CATALOGUE as _CATALOGUE
from hpcml.collectives.algorithms import names as _names
from hpcml.collectives.checking import checking
from hpcml.collectives.device.wanted import device_transport
from hpcml.collectives.errors import (
    ArgumentError,
    CollectiveError,
    CommunicationError,
    MismatchError,
    RankFailed,
    abort_on_uncaught,
    all_or_none,
)
from hpcml.collectives.explain import Explanation, explain
from hpcml.collectives.movement import allgather, alltoall, alltoallv, barrier, broadcast, gather, scatter
from hpcml.collectives.nonblocking import (
    iallgather,
    iallreduce,
    ialltoall,
    ialltoallv,
    ibarrier,
    ibroadcast,
    iexscan,
    igather,
    ireduce,
    ireduce_scatter,
    iscan,
    iscatter,
)
from hpcml.collectives.plan import Plan, plan
from hpcml.collectives.reduction import allreduce, exscan, reduce, reduce_scatter, scan
from hpcml.collectives.request import Request, wait_all
from hpcml.collectives.resilient import Attempt, resilient
from hpcml.collectives.shared.segments import empty
from hpcml.collectives.watchdog import from_environment as _watch_as_told
from hpcml.collectives.watchdog import watchdog

__all__ = [
    "ArgumentError",
    "Attempt",
    "CollectiveError",
    "CommunicationError",
    "Explanation",
    "MismatchError",
    "Plan",
    "RankFailed",
    "Request",
    "algorithms",
    "all_or_none",
    "allgather",
    "allreduce",
    "alltoall",
    "alltoallv",
    "barrier",
    "broadcast",
    "checking",
    "device_transport",
    "empty",
    "explain",
    "exscan",
    "gather",
    "iallgather",
    "iallreduce",
    "ialltoall",
    "ialltoallv",
    "ibarrier",
    "ibroadcast",
    "iexscan",
    "igather",
    "ireduce",
    "ireduce_scatter",
    "iscan",
    "iscatter",
    "plan",
    "reduce",
    "reduce_scatter",
    "resilient",
    "scan",
    "scatter",
    "wait_all",
    "watchdog",
]

abort_on_uncaught()
_watch_as_told()


def algorithms(collective: str) -> list[str]:
    """The names that ``algorithm=`` takes for that collective: "auto", the MPI library's own, and ours.

    "shared" is for ranks of one node, and has no non-blocking form.
    """
    known = sorted({row.collective for row in _CATALOGUE})
    if collective not in known:
        raise ValueError(f"unknown collective {collective!r}: expected one of {', '.join(known)}")
    return _names(collective)
