"""Arrays that the ranks of a node share, and the algorithm "shared" on them, on ordinary arrays and on mixtures."""

import gc
import itertools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.collectives.binding import Binding, chosen
from hpcml.collectives.channel import channel_of
from hpcml.collectives.machine import Machine
from hpcml.collectives.ops import OPS
from hpcml.collectives.shared import COLLECTIVES, mapping, program, single_copy
from hpcml.collectives.tuning import Tuning

SIZES = [0, 1, 7, 600, 20_011, 300_007]  # beside the flag; in a slot; with places told; several chunks


@pytest.fixture(params=["slots", "single copy"], autouse=True)
def way(request, comm, monkeypatch):
    """Through slots, or from one rank's private memory to another's, whatever the size."""
    reaching = {} if request.param == "slots" else dict.fromkeys(COLLECTIVES, 0)
    monkeypatch.setattr(program, "REACHING", reaching)
    monkeypatch.setattr(program, "LONG_BLOCK", 8 << 10)
    monkeypatch.setattr(program, "LONG_CHUNK", 100_000)
    channel_of(comm).bindings.clear()
    yield request.param
    channel_of(comm).bindings.clear()


def mine(rank, n, turn=0, dtype="f8"):
    return (np.arange(n) % 50 + 3 * rank + turn).astype(dtype)


def total(size, n, turn=0, dtype="f8"):
    return sum(mine(rank, n, turn, dtype) for rank in range(size)) if size else None


def same(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape and (a == b).all()


def placed(n, kind, dtype="f8"):
    """An array of n items: ordinary, shared, or at an odd place within a shared one. Collective."""
    whole = hc.empty(n + 3, dtype)
    return {"ordinary": np.empty(n, dtype), "shared": hc.empty(n, dtype), "inside": whole[3:]}[kind]


def test_an_array_is_as_numpys(comm):
    for shape, dtype in (((3, 4), "f4"), (5, "i8"), ((), "c16"), ((0, 2), "u1"), ([2, 1], np.float32), (1 << 19, "f8")):
        x = hc.empty(shape, dtype)
        y = np.empty(shape, dtype)
        assert type(x) is np.ndarray and x.shape == y.shape and x.dtype == y.dtype and x.flags.carray
        x[...] = comm.rank
        comm.Barrier()
        assert (x == comm.rank).all()


@pytest.mark.parametrize("kind", ["shared", "inside"])
def test_allreduce_in_place(comm, kind):
    for n, (op, dtype) in itertools.product(SIZES, (("sum", "f8"), ("mean", "f4"), ("max", "i2"), ("sum", "g"))):
        x = placed(n, kind, dtype)
        for turn in range(3):
            x[:] = mine(comm.rank, n, turn, dtype)
            assert hc.allreduce(x, op, algorithm="shared", out=x) is x
            if op == "max":
                same(x, mine(comm.size - 1, n, turn, dtype))
            else:
                same(x, total(comm.size, n, turn, dtype) / (np.dtype(dtype).type(comm.size) if op == "mean" else 1))


def test_mixtures_of_shared_and_ordinary_arrays(comm):
    """Each rank chooses for itself where its input and output lie, and changes its input once the call is done."""
    for pattern, n in itertools.product(range(9), (7, 20_011, 100_003)):
        choose = np.random.default_rng([pattern, comm.rank]).integers(0, 3, 3)
        kinds = ["ordinary", "shared", "inside"]
        x, out = placed(n, kinds[choose[0]]), placed(n, kinds[choose[1]])
        if choose[2] == 0 or pattern == 8:
            out = x
        for turn in range(3):
            x[:] = mine(comm.rank, n, turn)
            y = hc.allreduce(x, algorithm="shared", out=out)
            same(y, total(comm.size, n, turn))
            y[:] = np.nan
            x[:] = -1.0


def test_the_same_bits_whatever_the_way(comm):
    given = np.random.default_rng(comm.rank).standard_normal(50_021).astype("f4")
    x = hc.empty(given.shape, "f4")
    x[:] = given
    pulled = hc.allreduce(x, algorithm="shared")
    copied = hc.allreduce(given, algorithm="shared")
    hc.allreduce(x, algorithm="shared", out=x)
    want = comm.bcast(given)
    for rank in range(1, comm.size):  # in rank order
        want = want + comm.bcast(given, rank)
    assert {a.tobytes() for a in (x, pulled, copied)} == {want.tobytes()}


def test_broadcast_and_reduce(comm):
    for n, root, where in itertools.product((5, 20_011, 100_003), {0, comm.size - 1}, ("ordinary", "shared", "mixed")):
        shared = where == "shared" or (where == "mixed" and comm.rank % 2 == root % 2)
        x = placed(n, "shared" if shared else "ordinary")
        for turn in range(4):
            x[:] = mine(comm.rank, n, turn)
            hc.broadcast(x, root, algorithm="shared")
            same(x, mine(root, n, turn))
            x[:] = mine(comm.rank, n, turn)
            for out in (None, x):
                y = hc.reduce(x, root=root, algorithm="shared", out=out if comm.rank == root else None)
                assert (y is None) == (comm.rank != root)
                if y is not None:
                    same(y, total(comm.size, n, turn))


def test_parts(comm):
    """Gather, allgather and scatter of unequal parts, shared on some ranks."""
    root = comm.size // 2
    for n in (0, 3, 20_011, 50_000):
        lengths = [n * (rank % 3) + rank for rank in range(comm.size)]
        parts = [mine(rank, length) for rank, length in enumerate(lengths)]
        whole = np.concatenate(parts)
        for kind in ("ordinary", "shared", "mixed"):
            part = placed(lengths[comm.rank], kind if kind != "mixed" else ("shared", "ordinary")[comm.rank % 2])
            for _ in range(3):
                part[:] = parts[comm.rank]
                same(hc.allgather(part, algorithm="shared"), whole)
                part[:] = parts[comm.rank]
                y = hc.gather(part, root, algorithm="shared")
                part[:] = -1.0
                if comm.rank == root:
                    same(y, whole)
            x = placed(len(whole), "ordinary" if kind == "ordinary" else "shared")
            x[:] = whole
            got = hc.scatter(x if comm.rank == root else None, root, algorithm="shared")
            x[:] = -1.0
            same(got, np.array_split(whole, comm.size)[comm.rank])


def test_reduce_scatter(comm):
    for n, kind in itertools.product((0, 2, 20_011), ("ordinary", "shared")):
        counts = tuple(n * (rank % 3) + rank for rank in range(comm.size))
        binding = Binding(channel_of(comm), "reduce_scatter", "shared", OPS["sum"], np.dtype("f8"), counts)
        start = sum(counts[: comm.rank])
        x, y = placed(sum(counts), kind), np.empty(counts[comm.rank])
        for turn in range(3):
            x[:] = mine(comm.rank, len(x), turn)
            binding.run(x, y)
            x[:] = -1.0
            same(y, total(comm.size, len(x), turn)[start : start + len(y)])


def test_an_op_that_does_not_commute_is_applied_in_rank_order(comm):
    def multiply(a, b, datatype):
        left, right = (np.frombuffer(m).reshape(-1, 2, 2) for m in (a, b))
        right[...] = left @ right

    op = MPI.Op.Create(multiply, commute=False)
    matrix = hc.empty((3000, 2, 2))
    matrix[:] = [[1.0, comm.rank], [0.0, 1.0]]
    y = hc.allreduce(matrix, op, algorithm="shared")
    same(y, np.broadcast_to([[1.0, sum(range(comm.size))], [0.0, 1.0]], y.shape))
    op.Free()


def test_calls_of_changing_sizes_one_after_the_other(comm):
    """Ranks run ahead of each other and must not overtake."""
    arrays = {n: (placed(n, "shared"), np.empty(n)) for n in SIZES}
    for turn, n in enumerate(np.random.default_rng(0).permutation(SIZES * 10)):
        x = arrays[n][(turn + comm.rank) % 3 == 0]
        for _ in range((turn * 7 + comm.rank * 5) % 4):
            os.sched_yield()
        x[:] = mine(comm.rank, n, turn)
        if turn % 4:
            hc.allreduce(x, algorithm="shared", out=x)
            same(x, total(comm.size, n, turn))
        else:
            hc.broadcast(x, turn % comm.size, algorithm="shared")
            same(x, mine(turn % comm.size, n, turn))


def test_sub_communicators(comm):
    """Arrays made on all ranks serve some of them where they are; arrays made by some serve all by being copied."""
    half = comm.Split(comm.rank % 2, -comm.rank)
    for n, (made, used) in itertools.product((20_011, 100_003), ((comm, half), (half, comm), (half, half))):
        x = hc.empty(n, comm=made)
        x[:] = mine(comm.rank, n)
        hc.allreduce(x, algorithm="shared", out=x, comm=used)
        same(x, sum(mine(rank, n) for rank in used.allgather(comm.rank)))
    half.Free()


def mapped():
    return Path("/proc/self/maps").read_text().count("memfd:hpcml")


def test_memory_ends_with_the_arrays_whoever_drops_them_first(comm):
    n, counts = 20_011, []
    for turn in range(4):
        x = hc.empty(n)
        counts.append(mapped())
        x[:] = mine(comm.rank, n)
        view = x[5:]
        del x
        if turn % comm.size == comm.rank:
            view = view.copy()  # this rank's segment ends here, the others' are still in use
        hc.allreduce(view, algorithm="shared", out=view)
        same(view, total(comm.size, n)[5:])
        del view
        gc.collect()
    # All ranks' latest arrays have taken the place of the ones before; the first call made the binding's room, too.
    assert set(counts[1:]) == {counts[1]}


def test_a_forked_child_leaves_the_memory_to_its_parent(comm):
    x = hc.empty(20_000)
    x[:] = comm.rank
    child = os.fork()
    if not child:
        del x
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert (x == comm.rank).all()


def test_plans_may_be_waited_for_in_another_order_on_each_rank(comm):
    """Rank 0 starts first and so gets no further than its first chunk: all have to come back to every plan."""
    sizes = (100_003, 20_011, 300_007)
    arrays = [placed(n, kind) for n, kind in zip(sizes, ("ordinary", "shared", "ordinary"), strict=True)]
    plans = [hc.plan("allreduce", x, algorithm="shared") for x in arrays]
    for turn in range(2):
        if comm.rank:
            comm.Barrier()
        for x, plan in zip(arrays, plans, strict=True):
            x[:] = mine(comm.rank, len(x), turn)
            plan.start()
        if comm.rank == 0:
            comm.Barrier()
        comm.Barrier()
        for at in (0, 1, 2) if comm.rank == 0 else (2, 1, 0):
            same(plans[at].wait(), total(comm.size, sizes[at], turn))
        for x in arrays:
            x[:] = -1.0


def test_auto_takes_it_on_one_node(comm):
    for n, made in ((10_000, hc.empty), (1000, hc.empty), (10_000, np.empty)):
        alone = comm.size == 1 and (n, made) != (10_000, hc.empty)  # then there is nothing to gain
        for plan in (hc.plan("allreduce", made(n)), hc.plan("broadcast", made(n))):
            assert (plan.algorithm != "shared") == alone
            plan.close()
        assert hc.plan("allreduce", made(n), background=True).algorithm != "shared"
    x = hc.empty(10_000)
    for turn in range(3):
        x[:] = mine(comm.rank, len(x), turn)
        same(hc.allreduce(x, out=x if comm.rank % 2 else None), total(comm.size, len(x), turn))


def test_auto_takes_it_where_it_was_measured_to_be_the_fastest(comm):
    table = Tuning("a table", {"allreduce": {8: {"shared": 1e-6, "ring": 2e-6}}})
    machine = Machine("mpi-1.0", (0, 0), None, table, shares=True)
    apart = replace(machine, shares=False)  # on two nodes, or where the system forbids it
    for where, waits, expected in ((machine, True, "shared"), (machine, False, "ring"), (apart, True, "ring")):
        assert chosen(where, "allreduce", "auto", OPS["sum"], np.dtype("f4"), 8, waits).algorithm == expected


def test_where_some_ranks_pass_shared_arrays_and_some_do_not_auto_takes_them_or_says_so(comm, monkeypatch):
    """It says so where its choice depends on the place: with a tuning table, or where memory cannot be reached."""
    if comm.size == 1:
        pytest.skip("needs two ranks")
    n = 10_000 + comm.size
    x = placed(n, "shared" if comm.rank else "ordinary")
    x[:] = mine(comm.rank, n)
    monkeypatch.setitem(vars(channel_of(comm).machine), "places_matter", False)
    same(hc.allreduce(x), total(comm.size, n))
    monkeypatch.setitem(vars(channel_of(comm).machine), "places_matter", True)
    with pytest.raises(hc.MismatchError, match=r"rank 0: allreduce\(float64\[\d+\], .*in shared memory"):
        hc.allreduce(x)


def test_ranks_of_several_nodes_cannot_take_it(comm, monkeypatch):
    if comm.size == 1:
        pytest.skip("needs two ranks")
    own = comm.Dup()
    channel = channel_of(own)
    monkeypatch.setattr(channel, "machine", replace(channel.machine, node_of=tuple(range(comm.size))))
    with pytest.raises(hc.ArgumentError, match="needs all ranks on one node"):
        hc.allreduce(np.ones(3), algorithm="shared", comm=own)
    x = hc.empty(20_000, comm=own)  # for one's own node
    x[:] = comm.rank
    same(hc.allreduce(x, comm=own), np.full(20_000, float(sum(range(comm.size)))))
    own.Free()


def test_memory_that_a_rank_cannot_make_or_map_is_an_error_on_all(comm, monkeypatch):
    def fail(*_):
        raise OSError(12, "no")

    bad = comm.size - 1
    for function, said in (("_file", "made"), ("_opened", "mapped")):
        with monkeypatch.context() as patch:
            if comm.rank == bad:
                patch.setattr(mapping, function, fail)
            if said == "mapped" and comm.size == 1:
                continue
            with pytest.raises(hc.CollectiveError, match=f"cannot be {said} on rank {bad}: Cannot allocate"):
                hc.empty(100)


def test_arguments(comm):
    for shape, dtype, said in (
        (-1, "f8", "negative"),
        ((2, 2.5), "f8", "integer"),
        (3, "O", "dtype object"),
        (3, "?!", "not understood"),
    ):
        with pytest.raises(hc.ArgumentError, match=said):
            hc.empty(shape, dtype)


def test_a_rank_in_another_call_is_found_out(comm):
    if comm.size == 1:
        pytest.skip("needs two ranks")
    own = comm.Dup()
    x, y = np.ones(4), np.ones(5)
    for _ in range(2):
        hc.allreduce(x, algorithm="shared", comm=own)
        hc.allreduce(y, algorithm="shared", comm=own)
    with pytest.raises(hc.MismatchError, match=r"allreduce\(float64\[[45]\].*allreduce\(float64\[[45]\]"):
        hc.allreduce(x if comm.rank else y, algorithm="shared", comm=own)


def test_without_waiting_for_others_it_cannot_be_begun(comm):
    with pytest.raises(hc.ArgumentError, match="background"):
        hc.iallreduce(np.ones(3), algorithm="shared")
    x = hc.empty(20_000)
    x[:] = comm.rank
    same(hc.iallreduce(x).wait(), np.full(20_000, float(sum(range(comm.size)))))


def test_where_the_system_forbids_it_auto_takes_messages(comm, monkeypatch):
    if comm.size == 1:
        pytest.skip("needs two ranks")

    def refused(*arguments):
        raise OSError(13, "Permission denied")

    mapping._tried.cache_clear()
    if comm.rank == 0:
        monkeypatch.setattr(mapping, "_file", refused)
    own = comm.Dup()
    assert hc.plan("allreduce", np.ones(10), comm=own).algorithm != "shared"
    assert hc.allreduce(np.ones(10), comm=own)[0] == comm.size
    with pytest.raises(hc.CollectiveError, match="cannot be made on rank 0: Permission denied"):
        hc.allreduce(np.ones(10), algorithm="shared", comm=own)
    own.Free()
    mapping._tried.cache_clear()


def test_alltoall_of_unequal_parts(comm):
    """Parts of rank s for rank d have (s + 2d) % 5 units of rows; shared and ordinary inputs are mixed."""
    for unit, kind in itertools.product((0, 1, 7_001), ("ordinary", "shared", "mixed")):
        counts = [[(s + 2 * d) % 5 * unit for d in range(comm.size)] for s in range(comm.size)]
        mine_out, mine_in = counts[comm.rank], [row[comm.rank] for row in counts]
        shares = kind == "shared" or (kind == "mixed" and comm.rank % 2 == 0)
        x = placed(sum(mine_out), "shared" if kind != "ordinary" else "ordinary")  # by all: it is collective
        x = x if shares else np.empty(len(x))
        for turn in range(3):
            x[:] = comm.rank * 100 + np.repeat(range(comm.size), mine_out) + turn
            rows, came = hc.alltoallv(x, mine_out, algorithm="shared")
            x[:] = -1.0
            assert came.tolist() == mine_in
            same(rows, np.repeat([s * 100.0 + comm.rank + turn for s in range(comm.size)], mine_in))


def test_results_too_large_for_the_caches(fresh, monkeypatch):
    """They are written around them; here all are, at places that are no multiples of a cache line's length."""
    monkeypatch.setattr(program, "STREAM", 1)
    monkeypatch.setattr(program, "LONG_STREAM", 1)
    size, rank = fresh.size, fresh.rank
    for n, dtype in itertools.product((1, 40, 20_011), ("u1", "f8")):
        x, whole = mine(rank, n, 1, dtype), total(size, n, 1, dtype)
        around = np.zeros(n + 9, dtype)
        out = around[5 : 5 + n]
        hc.allreduce(x, algorithm="shared", out=out, comm=fresh)
        same(out, whole.astype(dtype))
        assert not around[:5].any() and not around[5 + n :].any()
        same(hc.allreduce(x.copy(), algorithm="shared", comm=fresh), whole.astype(dtype))
        same(hc.reduce_scatter(x, algorithm="shared", comm=fresh), np.array_split(whole.astype(dtype), size)[rank])
        same(hc.broadcast(mine(rank, n, 2, dtype), size - 1, "shared", fresh), mine(size - 1, n, 2, dtype))
        parts = [mine(r, n + r, 3, dtype) for r in range(size)]
        same(hc.allgather(parts[rank], algorithm="shared", comm=fresh), np.concatenate(parts))
        same(hc.alltoall(np.repeat(x, size), algorithm="shared", comm=fresh), _exchanged(rank, size, n, dtype))


def test_ranks_that_cannot_reach_each_other_use_slots(comm, monkeypatch):
    """One rank that is refused is enough; it is found out once for all communicators of the same processes."""
    tried: list = []
    monkeypatch.setattr(single_copy, "_tried", lambda: tried)
    if comm.rank == comm.size - 1:
        monkeypatch.setattr(single_copy, "_reads", lambda *told: False)
    for _ in range(2):
        other = comm.Dup()
        assert channel_of(other).machine.process_ids == ()
        same(hc.allreduce(mine(comm.rank, 300_007), algorithm="shared", comm=other), total(comm.size, 300_007))
        other.Free()
    assert len(tried) == (comm.size > 1)


@pytest.mark.parametrize("hindered", [True, False])
@pytest.mark.parametrize("collective", ["allgather", "allreduce", "broadcast", "gather", "reduce_scatter"])
def test_a_refusal_on_any_rank_is_an_error_on_all(fresh, way, collective, hindered):
    """The last rank is refused access, or all are that want it."""
    if fresh.size == 1 or way == "slots":
        pytest.skip("there is nobody whose memory could be refused" if fresh.size == 1 else "slots need no leave")
    channel = channel_of(fresh)
    assert channel.machine.process_ids[fresh.rank] == os.getpid()
    alone = fresh.rank == fresh.size - 1
    if alone or not hindered:
        nobody = (2**22 + 1,) * fresh.size  # above the system's largest
        channel.machine = replace(channel.machine, process_ids=nobody)
    call = getattr(hc, collective)
    others = f"refuses rank {fresh.size - 1} access" if hindered else "the system refuses"
    for expected in ("refuses access to an array of rank" if alone else others, "interrupted or failed before"):
        with pytest.raises(hc.CommunicationError, match=expected):
            call(np.ones(5000), algorithm="shared", comm=fresh)


def _exchanged(rank, size, n, dtype):
    return np.concatenate([np.array_split(np.repeat(mine(s, n, 1, dtype), size), size)[rank] for s in range(size)])
