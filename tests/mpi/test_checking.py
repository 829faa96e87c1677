"""Checking mode: whatever differs between ranks is the same named error on every rank, before any data move."""

import re

import numpy as np
import pytest

from hpcml import collectives as hc

X = np.ones(5)
USUAL = {
    "allreduce": lambda comm: hc.allreduce(X, comm=comm),
    "broadcast": lambda comm: hc.broadcast(X, comm=comm),
    "gather": lambda comm: hc.gather(X, comm=comm),
    "reproducible": lambda comm: hc.allreduce(X, comm=comm, reproducible=True),
    "alltoall": lambda comm: hc.alltoall(X, comm=comm),
    "scan": lambda comm: hc.scan(X, comm=comm),
    "begun": lambda comm: hc.iallreduce(X, comm=comm).wait(),
}
ODD = {
    "op": ("allreduce", lambda comm: hc.allreduce(X, "max", comm=comm), "op='max'"),
    "count": ("allreduce", lambda comm: hc.allreduce(np.ones(6), comm=comm), r"float64\[6\]"),
    "shape": ("allreduce", lambda comm: hc.allreduce(np.ones((5, 1)), comm=comm), r"float64\[5, 1\]"),
    "dtype": ("allreduce", lambda comm: hc.allreduce(np.ones(5, "f4"), comm=comm), r"float32\[5\]"),
    "algorithm": ("allreduce", lambda comm: hc.allreduce(X, algorithm="ring", comm=comm), "algorithm='ring'"),
    "root": ("broadcast", lambda comm: hc.broadcast(X, root=comm.size - 1, comm=comm), "root="),
    "operation": ("allreduce", lambda comm: hc.barrier(comm=comm), "barrier"),
    "native": ("allreduce", lambda comm: hc.allreduce(X, algorithm="native", comm=comm), "algorithm='native'"),
    "root of gather": ("gather", lambda comm: hc.gather(X, root=comm.size - 1, comm=comm), "root="),
    "reproducible": ("reproducible", lambda comm: hc.allreduce(np.ones(6), comm=comm, reproducible=True), r"\[6\]"),
    "alltoall": ("alltoall", lambda comm: hc.alltoall(np.ones(9), comm=comm), r"float64\[9\]"),
    "scan": ("scan", lambda comm: hc.exscan(X, comm=comm), "exscan"),
    "begun": ("begun", lambda comm: hc.iallreduce(X, "max", comm=comm).wait(), "op='max'"),
    "no array": ("allreduce", lambda comm: hc.allreduce("five", comm=comm), "five|str|<U"),
}


@pytest.fixture
def own(comm):
    """A communicator of several ranks on which everything above is bound, so that nothing is new about it."""
    if comm.size == 1:
        pytest.skip("one rank cannot disagree with itself")
    own = comm.Dup()
    with hc.checking():
        for call in USUAL.values():
            call(own)
        for name, (_, call, _) in ODD.items():
            if name != "no array":
                call(own)
        yield own
    own.Free()


def lines(error, comm):
    """What each rank's error says, from the ranks on."""
    return set(comm.allgather(str(error.value).partition(". ")[2]))


@pytest.mark.parametrize("what", list(ODD))
def test_one_rank_differs(own, what):
    usual, odd, said = ODD[what]
    for _ in range(2):  # the error leaves all as it was
        last = own.size - 1
        with pytest.raises(hc.MismatchError, match=rf"rank {last}: [^;]*({said})") as caught:
            odd(own) if own.rank == last else USUAL[usual](own)
        assert not caught.value.in_flight and len(lines(caught, own)) == 1
        assert len(re.findall(r"at \S*test_checking\.py:\d+", str(caught.value))) >= 2
        assert hc.allreduce(X, comm=own)[0] == own.size


def test_order_and_one_call_too_many(own):
    first, second = USUAL["allreduce"], USUAL["broadcast"]
    last = own.rank == own.size - 1
    with pytest.raises(hc.MismatchError, match=r"rank \d+: broadcast\(float64\[5\]") as caught:
        second(own) if last else first(own)
        first(own) if last else second(own)
    assert len(lines(caught, own)) == 1
    with pytest.raises(hc.MismatchError, match="barrier") as caught:
        second(own)
        if own.rank == 0:
            second(own)  # as its root it needs nobody, and would be through before the others look
        hc.barrier(comm=own)
    assert len(lines(caught, own)) == 1
    assert hc.allreduce(X, comm=own)[0] == own.size


def test_plans_are_compared_when_they_start(own):
    a, b = hc.plan("allreduce", X, comm=own), hc.plan("allreduce", X, op="max", comm=own)
    for one, other in ((a, b), (b, a)):
        with pytest.raises(hc.MismatchError, match="a plan of allreduce.*op='max'"):
            (other if own.rank == 0 else one).start()
        with pytest.raises(hc.MismatchError, match="a plan of allreduce"):
            hc.allreduce(X, comm=own) if own.rank == 0 else one.start()
    a.start()
    assert a.wait()[0] == own.size
    a.close()
    b.close()


def test_ranks_that_differ_about_checking(own):
    with pytest.raises(hc.MismatchError, match=r"checking\(False\)"):
        hc.checking(own.rank == 0)
    with pytest.raises(hc.MismatchError, match="the end of checking"):
        with hc.checking(False):  # a mismatch is known to all: they are back where they were
            pass
        with hc.checking():
            if own.rank == 0:
                hc.allreduce(X)
    with pytest.raises(hc.MismatchError, match="op='max'") as caught:
        hc.allreduce(X, "max" if own.rank == 0 else "sum", comm=own)
    assert not caught.value.in_flight  # still checked


@pytest.mark.parametrize("checked", [True, False])
def test_a_sub_communicator_in_the_place_of_its_parent(comm, checked):
    """Every communicator sees only a rank that is late; together they see the circle."""
    if comm.size == 1:
        pytest.skip("one rank cannot disagree with itself")
    last = comm.size - 1
    with hc.checking(checked):
        own, pair = comm.Dup(), comm.Split(comm.rank >= last - 1)
        hc.allreduce(X, comm=own)
        hc.allreduce(X, comm=pair)
        with pytest.raises(hc.MismatchError, match=rf"rank {last}: .*py:\d+, on a communicator of 2") as e:
            hc.allreduce(X, comm=pair if comm.rank == last else own)
        assert len(lines(e, comm)) == 1 and e.value.in_flight
        comm.Barrier()
        assert hc.allreduce(X, comm=own)[0] == comm.size
    pair.Free()
    own.Free()
