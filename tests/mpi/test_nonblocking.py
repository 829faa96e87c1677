"""Collectives in the background: completion in any order, progress without the caller, every collective."""

import time

import numpy as np
import pytest
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.collectives import program
from hpcml.collectives.native_call import undispatched
from hpcml.collectives.under_way import others_advance, under_way

LARGE = 400_001


def shuffled(comm, items, seed):
    """In another order on every rank."""
    order = np.random.default_rng([seed, comm.rank]).permutation(len(items))
    return [items[i] for i in order]


def total(comm, x):
    return comm.size * x + sum(range(comm.size))


def test_requests_complete_in_any_order(comm):
    for turn in range(4):
        given = [np.arange(float(n)) + comm.rank for n in (1, 3, LARGE, 3, 3, 1000, LARGE)]
        begun = [(x, hc.iallreduce(x)) for x in given]
        for x, request in shuffled(comm, begun, turn):
            assert (request.wait() == total(comm, np.arange(float(len(x))))).all()
            assert request.test() and request.wait() is request.wait()


def test_blocking_calls_and_plans_run_beside_requests(comm):
    x = np.full(LARGE, 1.0)
    with hc.plan("allreduce", x) as plan, hc.plan("allreduce", np.full(7, 2.0), background=True) as behind:
        first = hc.iallreduce(x)
        behind.start()
        assert hc.allreduce(x)[-1] == comm.size
        plan.start()
        second = hc.iallreduce(x, "max")
        assert plan.wait()[0] == comm.size
        assert hc.allreduce(comm.rank) == sum(range(comm.size))
        assert second.wait()[-1] == 1 and first.wait()[0] == comm.size
        while not behind.test():
            pass
        assert (behind.wait() == 2 * comm.size).all()


@pytest.mark.parametrize("algorithm", [name for name in hc.algorithms("allreduce") if name != "shared"])
def test_every_algorithm_in_the_background(comm, algorithm):
    given = [np.arange(n) + comm.rank for n in (0, 1, comm.size + 1, 50_001)]
    begun = [hc.iallreduce(x, algorithm=algorithm, out=x) for x in given]
    for x, result in zip(given, hc.wait_all(begun[::-1])[::-1], strict=True):
        assert result is x and (x == total(comm, np.arange(len(x)))).all()


def test_every_collective(comm):
    rank, size, last = comm.rank, comm.size, comm.size - 1
    x = np.arange(2 * size + 1) + rank
    parts = [np.arange(r + 1) + r for r in range(size)]
    moved = np.full(5, rank)
    whole = np.arange(3 * size + 1)
    begun = [
        hc.ireduce(x, "max", root=last),
        hc.ibroadcast(moved, root=last),
        hc.iscatter(whole if rank == last else None, root=last),
        hc.igather(parts[rank], root=last),
        hc.iallgather(parts[rank]),
        hc.iallgather(parts[rank], counts=range(1, size + 1)),
        hc.ireduce_scatter(x),
        hc.ialltoall(np.arange(size) * size + rank),
        hc.ialltoallv(np.full(size, rank), [1] * size),
        hc.iscan(np.array([rank])),
        hc.iexscan(np.array([rank])),
        hc.ibarrier(),
        hc.iallreduce({"a": np.array([1.5, rank]), "b": [np.array(rank)]}),
    ]
    shuffled(comm, begun, 0)[0].wait()
    largest, cast, part, gathered, told, known, scattered, across, across_v, scan, exscan, barrier, tree = hc.wait_all(
        begun
    )
    assert largest is None if rank != last else (largest == np.arange(2 * size + 1) + last).all()
    assert cast is moved and (moved == last).all()
    assert (part == np.array_split(whole, size)[rank]).all()
    assert gathered is None if rank != last else (gathered == np.concatenate(parts)).all()
    assert (told == np.concatenate(parts)).all() and (known == told).all()
    assert (scattered == np.array_split(total(comm, np.arange(2 * size + 1)), size)[rank]).all()
    assert (across == rank * size + np.arange(size)).all()
    assert (across_v[0] == np.arange(size)).all() and (across_v[1] == 1).all()
    assert scan[0] == sum(range(rank + 1))
    assert exscan is None if rank == 0 else exscan[0] == sum(range(rank))
    assert barrier is None
    assert (tree["a"] == [1.5 * size, sum(range(size))]).all() and tree["b"][0] == sum(range(size))


def test_it_gets_on_while_the_caller_does_nothing(comm):
    """Rank 0 never looks at its request while the others need it for theirs: only a thread can pass the data on."""
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        pytest.skip("this MPI allows calls from one thread only")
    request = hc.iallreduce(np.full(LARGE, comm.rank), algorithm="ring")
    others = comm.Split(comm.rank == 0)
    if comm.rank == 0:
        comm.recv(source=comm.size - 1) if comm.size > 1 else None
        assert request.test()
    else:
        assert request.wait()[0] == sum(range(comm.size))
        others.Barrier()
        if comm.rank == comm.size - 1:
            time.sleep(0.05)  # rank 0's last fold
            comm.send(None, 0)
    assert request.wait()[0] == sum(range(comm.size))
    others.Free()


def test_a_non_blocking_call_waits_for_nobody(comm):
    """Legal in MPI: the others begin only after they have heard from a rank that has begun."""
    x = np.full(1234, comm.rank)
    if comm.rank == 0:
        request = hc.iallreduce(x)
        for peer in range(1, comm.size):
            comm.send(None, peer)
    else:
        comm.recv(source=0)
        request = hc.iallreduce(x)
    assert request.wait()[0] == sum(range(comm.size))


def test_types_without_a_kernel_and_the_librarys_own(comm):
    for algorithm in ("native", "recursive_doubling"):
        request = hc.iallreduce(np.arange(100, dtype="g"), "mean", algorithm=algorithm)
        while not request.test():
            time.sleep(0)
        assert (request.wait() == np.arange(100)).all()


def test_calls_of_several_steps_complete_in_any_order(comm):
    given = [np.full(n, 0.1 * comm.rank) for n in (10, LARGE, 3000, LARGE)]
    want = hc.allreduce(given[0], reproducible=True)[0]
    begun = [hc.iallreduce(x, reproducible=True) for x in given]
    for request in shuffled(comm, begun, 7):
        y = request.wait()
        assert (y == want).all()


def test_a_request_that_nobody_keeps_runs_to_its_end(comm):
    for n in range(1100):  # more than the thread has places for
        hc.iallreduce(np.ones(LARGE if n < 20 else n))
    assert hc.allreduce(np.ones(3))[0] == comm.size
    hc.barrier()
    while comm.allreduce(len(under_way()) > 100):  # what is complete goes, sooner or later, as others begin
        hc.iallreduce(np.ones(2)).test()


def test_wrong_arguments_are_an_error_at_once(comm):
    with pytest.raises(hc.ArgumentError, match="unknown op"):
        hc.iallreduce(np.ones(3), "average")
    with pytest.raises(hc.ArgumentError, match="no algorithm"):
        hc.ibroadcast(np.ones(3), algorithm="ringo")
    with pytest.raises(hc.ArgumentError, match="adds? up to|add up"):
        hc.ireduce_scatter(np.ones(comm.size), counts=[2] * comm.size)


def test_what_is_about_to_be_handed_over_is_driven_by_nobody_else(comm, monkeypatch):
    """Another thread of this rank that waits gives all that is under way a turn: not what the background gets."""
    if comm.size == 1:
        pytest.skip("nothing is left to be driven")
    turns = []

    def counted(run):
        return lambda *arguments: turns.append(arguments) or run(*arguments)

    def wait_for_something_else():
        before = len(turns)
        others_advance()
        assert len(turns) == before

    x = np.full(3001, comm.rank + 1.0)
    monkeypatch.setattr(program, "undispatched", lambda function: counted(undispatched(function)))
    monkeypatch.setattr(program, "_let_go_of_forgotten", wait_for_something_else)
    comm.Barrier()
    request = hc.iallreduce(x, algorithm="ring", comm=comm)
    assert turns
    assert (request.wait() == comm.size * (comm.size + 1) / 2).all()
