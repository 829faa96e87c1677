"""What the links between the ranks mean for an optimizer, by what is measured or modelled of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc

BUCKET = 4 << 20  # bytes of a bucket where nothing is known of the network
BUCKETS = [1 << k for k in range(17, 27)]  # bytes among which one is chosen where something is
CLOSE = 1.1  # a bucket is long enough where its bytes take no more than this times what those of the longest take


def bucket_bytes(comm: MPI.Intracomm) -> int:
    """The shortest bucket whose bytes travel nearly as fast as those of a long one."""

    def pace(nbytes: int) -> float | None:
        seconds = _explained(nbytes, comm).seconds
        return None if seconds is None else seconds / nbytes

    longest = pace(BUCKETS[-1])
    if longest is None:
        return BUCKET
    return next(nbytes for nbytes in BUCKETS if (pace(nbytes) or 0.0) <= CLOSE * longest)


def bound(lengths: Iterable[int], comm: MPI.Intracomm) -> float:
    """Seconds that all-reduces of so many bytes each take at least, one after the other."""
    return sum(times * _explained(nbytes, comm).bound for nbytes, times in Counter(lengths).items())


def _explained(nbytes: int, comm: MPI.Intracomm) -> hc.Explanation:
    return hc.explain("allreduce", np.empty(nbytes // 4, np.float32), comm=comm)
