"""Plans of the collectives that take a path of their own."""

import numpy as np
import pytest

from hpcml import collectives as hc
from hpcml.collectives import arguments
from hpcml.collectives.channel import channel_of
from hpcml.collectives.manner import BLOCKING, PERSISTENT


def test_alltoallv_sends_what_is_there_at_each_start(comm):
    counts = [(comm.rank + dest) % 3 for dest in range(comm.size)]
    came = [(source + comm.rank) % 3 for source in range(comm.size)]
    x, out = np.zeros((sum(counts), 2), np.int32), np.zeros((sum(came), 2), np.int32)
    with hc.plan("alltoallv", x, counts=counts, out=out, comm=comm) as plan:
        for turn in range(3):
            x[:] = comm.rank, turn
            plan.start()
            assert plan.wait() is out
            assert out.tolist() == [[source, turn] for source in range(comm.size) for _ in range(came[source])]


def test_alltoallv_without_counts_is_an_error_that_says_so(comm):
    with pytest.raises(hc.ArgumentError, match="counts is missing"):
        hc.plan("alltoallv", np.zeros(comm.size), comm=comm)


def test_a_plan_of_a_barrier_is_its_own(comm):
    """A barrier may be called, or another plan of one started, while it is under way."""
    hc.barrier(comm=comm)
    channel = channel_of(comm)
    bindings = [arguments.barrier(channel, manner, "auto").binding for manner in (PERSISTENT, PERSISTENT, BLOCKING)]
    assert len(set(map(id, bindings))) == 3
    with hc.plan("barrier", comm=comm) as first, hc.plan("barrier", comm=comm) as second:
        first.start()
        hc.barrier(comm=comm)
        second.start()
        second.wait()
        first.wait()
