"""Copies of the state in memory: what is left of them without some of the ranks."""

import numpy as np
import pytest
from mpi4py import MPI

from hpcml.checkpoints import Neighbours, Slice

SIZE = 23


def state(comm, step):
    """An array that all have, and one of which each rank has its part; rank 0 of several has none."""
    whole = np.arange(5.0) + step
    edges = np.linspace(0, SIZE, max(comm.size - 1, 1) + 1).astype(int)
    spread = (np.arange(SIZE, dtype=np.float32) * step).reshape(1, SIZE)
    at = max(comm.rank - 1, 0)
    start, stop = (0, 0) if comm.size > 1 and comm.rank == 0 else edges[at : at + 2]
    return whole, spread, {"w": whole, "m": Slice(spread.reshape(-1)[start:stop], int(start), spread.shape)}


def found_without(comm, copies, gone):
    """What those find who are not ``gone``; None on those who are, and where nothing was found."""
    left = comm.Split(MPI.UNDEFINED if comm.rank in gone else 0, comm.rank)
    if left == MPI.COMM_NULL:
        return None
    found = copies.latest(left)
    left.Free()
    return found


def test_any_one_rank_may_go(comm):
    if comm.size < 2:
        pytest.skip("nobody would be left")
    for gone in range(comm.size):
        copies = Neighbours()
        for step in (10, 20):
            whole, spread, arrays = state(comm, step)
            copies.save(comm, step, arrays, {"epoch": step})
        whole[:] = -1  # what was kept is a copy
        found = found_without(comm, copies, {gone})
        if comm.rank != gone:
            assert found.step == 20 and found.facts == {"epoch": 20} and found.names == ["m", "w"]
            assert (found.read("w") == np.arange(5.0) + 20).all()
            assert (found.read("m") == spread).all() and found.dtype("m") == np.float32
            assert (found.read("m", start=3, stop=9) == spread[0, 3:9]).all()


def test_with_two_copies_any_two_may_go(comm):
    if comm.size < 4:
        pytest.skip("too few ranks")
    copies = Neighbours(copies=2)
    _, spread, arrays = state(comm, 7)
    copies.save(comm, 7, arrays)
    found = found_without(comm, copies, {1, 2})
    if comm.rank not in (1, 2):
        assert (found.read("m") == spread).all()


def test_what_is_gone_is_not_made_up(comm):
    if comm.size < 4:
        pytest.skip("too few ranks")
    copies = Neighbours()
    copies.save(comm, 7, state(comm, 7)[2])
    assert found_without(comm, copies, {1, 2}) is None  # rank 2 had the copy of rank 1


def test_the_newest_that_all_have(comm):
    copies = Neighbours()
    copies.save(comm, 10, state(comm, 10)[2])
    if comm.rank == 0:  # as if the others had been torn out of the next one
        copies.save(MPI.COMM_SELF, 20, {"w": np.zeros(5)})
    found = copies.latest(comm)
    assert found.step == (10 if comm.size > 1 else 20)
    assert found.read("w")[0] == (10 if comm.size > 1 else 0)


def test_nothing_was_kept(comm):
    assert Neighbours().latest(comm) is None
    with pytest.raises(ValueError, match="every=0"):
        Neighbours(every=0)
