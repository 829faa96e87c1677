"""Collectives by nodes: shared memory inside the nodes, lanes between them."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from mpi4py import MPI
from nodes import nodes_of

from hpcml import collectives as hc
from hpcml.collectives.channel import channel_of
from hpcml.collectives.shared import mapping
from hpcml.collectives.staged import Staged

SIZES = [0, 1, 2, 7, 600, 20_011, 300_007]  # fewer items than ranks; beside the flag; in slots; several chunks

OPS = (("sum", "f8"), ("mean", "f4"), ("max", "i2"), ("sum", "g"))  # the compiler does not know the last data type


def given(rank, n, turn=0, dtype="f8"):
    return (np.arange(n) % 50 + 3 * rank + turn).astype(dtype)


def same(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape and (a == b).all()


def nodes(comm):
    """Ranks per node, where there are several nodes of several ranks each."""
    found = [q for q in range(2, comm.size) if comm.size % q == 0]
    if not found:
        pytest.skip(f"{comm.size} ranks cannot be several on each of several nodes")
    return found


def staged(comm, x, collective="allreduce", **options):
    """Whether it goes through shared memory; asked by all ranks."""
    with hc.plan(collective, x, algorithm="hierarchical", comm=comm, **options) as plan:
        return isinstance(plan._program, Staged)


def test_allreduce(comm):
    for per_node in nodes(comm):
        with nodes_of(per_node, comm) as own:
            for n, (op, dtype) in itertools.product(SIZES, OPS):
                assert staged(own, np.ones(n, dtype), op=op)
                for turn in range(2):
                    x = given(comm.rank, n, turn, dtype)
                    want = sum(given(rank, n, turn, dtype) for rank in range(comm.size))
                    want = want / np.dtype(dtype).type(comm.size) if op == "mean" else want
                    want = given(comm.size - 1, n, turn, dtype) if op == "max" else want
                    y = hc.allreduce(x, op, algorithm="hierarchical", comm=own)
                    same(y, want)
                    same(x, given(comm.rank, n, turn, dtype))
                    assert hc.allreduce(x, op, algorithm="hierarchical", out=x, comm=own) is x
                    same(x, want)


def test_the_same_bits_on_every_rank(comm):
    with nodes_of(nodes(comm)[0], comm) as own:
        for op, dtype in (("mean", "f2"), ("sum", "f4"), ("prod", "f8"), ("sum", "F"), ("min", "bfloat16")):
            kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
            x = (1 + np.random.default_rng(comm.rank).standard_normal(5003) / 8).astype(kind)
            x[:2] = np.nan, -0.0
            y = hc.allreduce(x, op, algorithm="hierarchical", comm=own)
            assert len(set(comm.allgather(y.tobytes()))) == 1
            by_messages = hc.iallreduce(x, op, algorithm="hierarchical", comm=own).wait()
            assert np.allclose(y[2:].astype("c8"), by_messages[2:].astype("c8"), 0.1)
            assert np.isnan(y[0])


def test_broadcast(comm):
    for per_node in nodes(comm):
        with nodes_of(per_node, comm) as own:
            for n, root, where in itertools.product((0, 1, 600, 100_003), range(comm.size), (np.empty, hc.empty)):
                x = np.empty(n) if where is np.empty else hc.empty(n, comm=own)
                assert staged(own, x, "broadcast", root=root)
                for turn in range(3):
                    x[:] = given(comm.rank, n, turn)
                    assert hc.broadcast(x, root, algorithm="hierarchical", comm=own) is x
                    same(np.array(x), given(root, n, turn))
                x[:] = given(comm.rank, n)
                same(hc.ibroadcast(np.array(x), root, algorithm="hierarchical", comm=own).wait(), given(root, n))


def test_an_op_of_the_users_own(comm):
    def larger(a, b, datatype):
        left, right = (np.frombuffer(m, "i8") for m in (a, b))
        np.maximum(left, right, out=right)

    op = MPI.Op.Create(larger, commute=True)
    turning = MPI.Op.Create(larger, commute=False)
    with nodes_of(nodes(comm)[0], comm) as own:
        for n in (3, 20_011):
            x = given(comm.rank, n, dtype="i8")
            same(hc.allreduce(x, op, algorithm="hierarchical", comm=own), given(comm.size - 1, n, dtype="i8"))
            with pytest.raises(hc.ArgumentError, match="does not fold in rank order"):
                hc.allreduce(x, turning, algorithm="hierarchical", comm=own)
    op.Free()
    turning.Free()


def test_arrays_that_the_node_shares(comm):
    """Each rank chooses for itself where its input and output lie, and changes its input once the call is done."""
    for per_node in nodes(comm):
        with nodes_of(per_node, comm) as own:
            for pattern, n in itertools.product(range(6), (7, 20_011, 100_003)):
                choose = np.random.default_rng([pattern, comm.rank]).integers(0, 2, 3)
                arrays = [(hc.empty(n, comm=own), np.empty(n))[c] for c in choose[:2]]
                x, out = arrays if choose[2] else arrays[:1] * 2
                for turn in range(3):
                    x[:] = given(comm.rank, n, turn)
                    y = hc.allreduce(x, algorithm="hierarchical", out=out, comm=own)
                    same(y, sum(given(rank, n, turn) for rank in range(comm.size)))
                    y[:] = np.nan
                    x[:] = -1.0


def test_plans_may_be_waited_for_in_another_order_on_each_rank(comm):
    sizes = (100_003, 600, 20_011, 300_007)
    with nodes_of(nodes(comm)[0], comm) as own:
        arrays = [np.empty(n) for n in sizes]
        names = ("hierarchical", "hierarchical", "ring", "hierarchical")
        plans = [hc.plan("allreduce", x, algorithm=name, comm=own) for x, name in zip(arrays, names, strict=True)]
        for turn in range(3):
            if comm.rank:
                comm.Barrier()
            for x, plan in zip(arrays, plans, strict=True):
                x[:] = given(comm.rank, len(x), turn)
                plan.start()
            if comm.rank == 0:
                comm.Barrier()
            comm.Barrier()
            while turn == 2 and not all([plan.test() for plan in plans]):
                pass
            for at in np.random.default_rng([turn, comm.rank]).permutation(len(sizes)):
                same(plans[at].wait(), sum(given(rank, sizes[at], turn) for rank in range(comm.size)))
        for plan in plans:
            plan.close()


def test_what_runs_in_the_background_goes_by_messages(comm):
    with nodes_of(nodes(comm)[0], comm) as own:
        x = given(comm.rank, 20_011)
        want = sum(given(rank, 20_011) for rank in range(comm.size))
        assert not staged(own, x, background=True)
        requests = [hc.iallreduce(x, algorithm="hierarchical", comm=own) for _ in range(3)]
        same(hc.allreduce(x, algorithm="hierarchical", comm=own), want)
        for request in reversed(requests):
            same(request.wait(), want)


def test_nodes_that_are_not_alike_go_by_messages(comm):
    if comm.size < 3:
        pytest.skip("needs three ranks")
    with nodes_of(comm.size - 1, comm) as own:
        assert channel_of(own).machine.nodes == 2 and not staged(own, np.ones(100))
        same(hc.allreduce(given(comm.rank, 100), algorithm="hierarchical", comm=own),
             sum(given(rank, 100) for rank in range(comm.size)))  # fmt: skip


def test_where_the_system_forbids_it_messages_are_taken(comm, monkeypatch):
    per_node = nodes(comm)[0]

    def refused(*arguments):
        raise OSError(13, "Permission denied")

    mapping._tried.cache_clear()
    with monkeypatch.context() as patch:
        if comm.rank == comm.size - 2:
            patch.setattr(mapping, "_file", refused)
            patch.setattr(mapping, "_opened", refused)
        with nodes_of(per_node, comm) as own:
            assert not channel_of(own).machine.shares and not staged(own, np.ones(100))
            x = given(comm.rank, 5000)
            want = sum(given(rank, 5000) for rank in range(comm.size))
            same(hc.allreduce(x, algorithm="hierarchical", comm=own), want)
    mapping._tried.cache_clear()


def test_a_rank_in_another_call_is_found_out(comm):
    """In the first stage by its neighbours; where a whole node is, in the lanes by ranks of other nodes."""
    per_node = nodes(comm)[0]
    x, y = np.ones(2000), np.ones(2001)
    for odd in ({0}, {comm.size - 1}, set(range(per_node))):
        with nodes_of(per_node, comm) as own:
            for _ in range(2):
                hc.allreduce(x, algorithm="hierarchical", comm=own)
                hc.allreduce(y, algorithm="hierarchical", comm=own)
            with pytest.raises(hc.MismatchError, match=r"allreduce\(float64\[200[01]\].*allreduce\(float64\[200[01]\]"):
                hc.allreduce(y if comm.rank in odd else x, algorithm="hierarchical", comm=own)


def test_ranks_that_wait_for_each_other_on_two_communicators_are_found_out(comm):
    per_node = nodes(comm)[0]
    x = np.ones(2000)
    with nodes_of(per_node, comm) as own:
        hc.allreduce(x, algorithm="hierarchical", comm=own)
        hc.allreduce(x, algorithm="ring", comm=comm)
        own_first = comm.rank < per_node
        with pytest.raises(hc.MismatchError, match="allreduce.*on a communicator of"):
            for where, name in ((own, "hierarchical"), (comm, "ring"))[:: 1 if own_first else -1]:
                hc.allreduce(x, algorithm=name, comm=where)


def test_explained(comm):
    with nodes_of(nodes(comm)[0], comm) as own:
        told = str(hc.explain("allreduce", np.ones(1 << 20), algorithm="hierarchical", comm=own))
        assert "memory that the ranks of a node share" in told and "lanes between" in told
