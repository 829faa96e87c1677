"""Every collective × algorithm × dtype × size × layout, against NumPy, on data that differ on every rank."""

import itertools

import numpy as np
import pytest
from collective_cases import DTYPES, LARGE, NOT_IN_MPI, cases, data, folded, lengths, same
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.collectives.ops import OPS


@pytest.mark.parametrize("algorithm", cases("allreduce"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_allreduce(comm, algorithm, dtype):
    for name, op in OPS.items():
        if dtype.kind not in op.kinds or (algorithm == "native" and dtype in NOT_IN_MPI):
            continue
        for n in lengths(comm.size) if name in ("sum", "mean", "min") else (comm.size + 1,):
            x = data(comm.rank, n, dtype, name)
            before = x.copy()
            want = folded(name, comm.size, n, dtype).astype(dtype)
            same(hc.allreduce(x, name, algorithm=algorithm), want)
            same(x, before)
            assert hc.allreduce(x, name, algorithm=algorithm, out=x) is x
            same(x, want)


@pytest.mark.parametrize("algorithm", cases("allreduce"))
def test_allreduce_of_large_arrays_gives_every_rank_the_same_bits(comm, algorithm):
    x = np.random.default_rng(comm.rank).standard_normal(LARGE).astype("f4") * 10.0 ** (comm.rank % 3)
    y = hc.allreduce(x, algorithm=algorithm)
    if algorithm != "native":
        assert len(set(comm.allgather(y.tobytes()))) == 1
    exact = sum(np.float64(part) for part in comm.allgather(x))
    # Every order of p−1 additions errs by at most (p−1)·ε times the sum of magnitudes.
    bound = comm.size * np.finfo("f4").eps * sum(abs(np.float64(part)) for part in comm.allgather(x))
    assert (abs(y - exact) <= bound).all()


@pytest.mark.parametrize("algorithm", cases("reduce"))
def test_reduce(comm, algorithm):
    for root in {0, comm.size // 2, comm.size - 1}:
        for n in (0, 1, comm.size + 1, LARGE):
            for op in ("sum", "max", "mean"):
                dtype = np.dtype("f8")
                y = hc.reduce(data(comm.rank, n, dtype), op, root=root, algorithm=algorithm)
                if comm.rank == root:
                    same(y, folded(op, comm.size, n, dtype))
                else:
                    assert y is None


@pytest.mark.parametrize("algorithm", cases("broadcast"))
def test_broadcast(comm, algorithm):
    for root in range(comm.size):
        for dtype in DTYPES:
            if algorithm == "native" and dtype in NOT_IN_MPI:
                continue
            for n in [*lengths(comm.size), *([LARGE] if dtype == np.dtype("f4") else [])]:
                x = data(comm.rank, n, dtype)
                assert hc.broadcast(x, root, algorithm=algorithm) is x
                same(x, data(root, n, dtype))


@pytest.mark.parametrize("algorithm", cases("scatter"))
def test_scatter_splits_as_numpy_does(comm, algorithm):
    for root, n, dtype in itertools.product({0, comm.size - 1}, lengths(comm.size), DTYPES):
        if algorithm == "native" and dtype in NOT_IN_MPI:
            continue
        whole = data(root, 3 * n, dtype).reshape(n, 3)
        part = hc.scatter(whole if comm.rank == root else None, root, algorithm=algorithm)
        same(part, np.array_split(whole, comm.size)[comm.rank])


@pytest.mark.parametrize("algorithm", cases("gather"))
def test_gather_of_unequal_parts(comm, algorithm):
    for root, n, dtype in itertools.product(range(comm.size), (0, 1, 7), DTYPES):
        if algorithm == "native" and dtype in NOT_IN_MPI:
            continue
        parts = [data(r, 2 * (n * r % 5), dtype).reshape(-1, 2) for r in range(comm.size)]
        whole = hc.gather(parts[comm.rank], root, algorithm=algorithm)
        if comm.rank == root:
            same(whole, np.concatenate(parts, dtype=dtype))
        else:
            assert whole is None


@pytest.mark.parametrize("algorithm", cases("allgather"))
def test_allgather_of_unequal_parts(comm, algorithm):
    for n, dtype in itertools.product((0, 1, 7, 100_003), DTYPES):
        if algorithm == "native" and dtype in NOT_IN_MPI:
            continue
        parts = [data(r, (n * (r + 1)) % (n + 3), dtype) for r in range(comm.size)]
        same(hc.allgather(parts[comm.rank], algorithm=algorithm), np.concatenate(parts, dtype=dtype))


@pytest.mark.parametrize("algorithm", cases("barrier"))
def test_nobody_leaves_a_barrier_before_all_have_come(comm, algorithm):
    window = MPI.Win.Allocate(8 * comm.size, 8, comm=comm)
    arrived = np.frombuffer(window.tomemory(), np.int64)
    arrived[:] = 0
    comm.Barrier()
    for turn in range(1, 20):
        for peer in range(comm.size):
            window.Lock(peer)
            window.Put(np.array([turn]), peer, comm.rank)
            window.Unlock(peer)
        hc.barrier(algorithm=algorithm)
        window.Lock(comm.rank)
        assert (arrived >= turn).all()
        window.Unlock(comm.rank)
        hc.barrier(algorithm=algorithm)
    window.Free()


def layouts(n):
    """Views of n items each that are laid out in every way NumPy knows."""
    yield "contiguous", lambda: np.empty(n)
    yield "every second", lambda: np.empty(2 * n)[::2]
    yield "reversed", lambda: np.empty(n)[::-1]
    yield "a column", lambda: np.empty((n, 3))[:, 1]
    yield "Fortran", lambda: np.empty((2, n // 2), order="F")
    yield "transposed", lambda: np.empty((n // 2, 2)).T
    yield "no axes", lambda: np.empty(())


@pytest.mark.parametrize("algorithm", cases("allreduce"))
def test_layouts_of_input_and_output(comm, algorithm):
    for (_, make), (_, make_out) in itertools.product(layouts(12), layouts(12)):
        x, out = make(), make_out()
        x[...] = np.arange(x.size).reshape(x.shape) + comm.rank
        want = comm.size * np.arange(x.size).reshape(x.shape) + sum(range(comm.size))
        same(hc.allreduce(x, algorithm=algorithm), want.astype(float))
        if out.shape == x.shape:
            assert hc.allreduce(x, algorithm=algorithm, out=out) is out
            same(out, want.astype(float))
        hc.allreduce(x, algorithm=algorithm, out=x)
        same(x, want.astype(float))


def test_layouts_may_differ_between_ranks(comm):
    base = np.arange(24.0).reshape(4, 6)
    x = base if comm.rank % 2 else np.asfortranarray(base)
    same(hc.allreduce(x), comm.size * base)
    out = np.empty((6, 4)).T if comm.rank % 2 else None
    same(hc.allreduce(x, out=out), comm.size * base)
    y = base.copy() if comm.rank % 2 else np.asfortranarray(base)
    hc.broadcast(y, comm.size - 1)
    same(y, base)


def test_output_that_overlaps_the_input(comm):
    memory = np.arange(10.0)
    hc.allreduce(memory[:-1], out=memory[1:])
    same(memory[1:], comm.size * np.arange(9.0))


def test_structures_come_back_as_they_were(comm):
    tree = {
        "w": [np.arange(6.0).reshape(2, 3) + comm.rank, np.float32([1, 2])],
        "b": (np.arange(3), {"deep": np.array(comm.rank)}),
        "empty": [],
    }
    y = hc.allreduce(tree)
    assert list(y) == ["w", "b", "empty"] and isinstance(y["b"], tuple) and y["empty"] == []
    same(y["w"][0], comm.size * np.arange(6.0).reshape(2, 3) + sum(range(comm.size)))
    same(y["w"][1], np.float32([1, 2]) * np.float32(comm.size))
    same(y["b"][1]["deep"], np.array(sum(range(comm.size))))
    assert tree["b"][1]["deep"] == comm.rank
    assert hc.allreduce(tree, out=tree) is tree
    same(tree["b"][0], comm.size * np.arange(3))
    mean = hc.reduce(tree, "mean", root=comm.size - 1)
    assert (mean is None) == (comm.rank != comm.size - 1)


def test_a_dict_may_be_built_in_another_order_on_each_rank(comm):
    pairs = [("a", np.ones(2)), ("b", np.full(3, 2.0))]
    y = hc.allreduce(dict(pairs[:: 1 if comm.rank % 2 else -1]))
    same(y["a"], np.full(2, float(comm.size)))
    same(y["b"], np.full(3, 2.0 * comm.size))


def test_structures_are_broadcast_scattered_and_gathered(comm):
    root = comm.size - 1
    tree = {"x": np.full((2, 2), comm.rank), "y": [np.full(3, comm.rank, "f4")]}
    hc.broadcast(tree, root)
    same(tree["x"], np.full((2, 2), root))
    same(tree["y"][0], np.full(3, root, "f4"))
    whole = {"x": np.arange(22).reshape(11, 2), "y": [np.arange(11, dtype="f4")]}
    part = hc.scatter(whole if comm.rank == root else None, root)
    same(part["x"], np.array_split(whole["x"], comm.size)[comm.rank])
    back = hc.allgather(part)
    same(back["x"], whole["x"])
    same(back["y"][0], whole["y"][0])
    at_root = hc.gather(part, root)
    assert (at_root is None) == (comm.rank != root)


def test_numbers_and_means(comm):
    assert hc.allreduce(comm.rank) == sum(range(comm.size))
    mean = hc.allreduce(np.array([comm.rank, 1]), "mean")
    same(mean, np.array([sum(range(comm.size)) / comm.size, 1.0]))
    same(hc.allgather(comm.rank), np.arange(comm.size))


def test_axis_folds_the_local_array_first(comm):
    x = np.arange(6.0).reshape(3, 2)[: comm.rank % 3 + 1]
    want = sum(np.arange(6.0).reshape(3, 2)[: r % 3 + 1].sum(0) for r in range(comm.size))
    same(hc.allreduce(x, axis=0), want)
    rows = sum(r % 3 + 1 for r in range(comm.size))
    same(hc.allreduce(x, "mean", axis=0), want / rows)
    same(hc.allreduce(np.int8([[1], [2]]), axis=0), np.int8([3 * comm.size]))


def test_ops_of_mpi_and_of_users(comm):
    x = np.arange(5.0) + comm.rank
    same(hc.allreduce(x, MPI.MAX), np.arange(5.0) + comm.size - 1)

    # 2 × 2 matrices under multiplication: an op of its own, which does not commute.
    def multiply(a, b, datatype):
        left, right = (np.frombuffer(m).reshape(-1, 2, 2) for m in (a, b))
        right[...] = left @ right

    op = MPI.Op.Create(multiply, commute=False)
    kind = MPI.DOUBLE.Create_contiguous(4).Commit()
    matrix = np.array([[1.0, comm.rank], [0.5, 1.0]])
    want = np.linalg.multi_dot(list(comm.allgather(matrix)) + [np.eye(2)] * 2)
    for algorithm in ("auto", "recursive_doubling", "binomial"):
        got = hc.allreduce(matrix, op, algorithm=algorithm)
        assert np.allclose(got, want, rtol=1e-12), algorithm
    with pytest.raises(hc.ArgumentError, match="does not commute"):
        hc.allreduce(matrix, op, algorithm="ring")
    kind.Free()
    op.Free()


def test_sub_communicators_and_their_end(comm):
    for _ in range(3):
        half = comm.Split(comm.rank % 2, -comm.rank)
        same(hc.allreduce(np.array([comm.rank]), comm=half), np.array([sum(range(comm.rank % 2, comm.size, 2))]))
        root = np.array([comm.rank])
        hc.broadcast(root, half.size - 1, comm=half)
        assert root[0] == comm.rank % 2
        half.Free()


def test_many_different_calls_forget_old_bindings_alike(comm):
    for n in range(600):
        same(hc.allreduce(np.full(n % 300, 1)), np.full(n % 300, comm.size))
    big = [np.ones(1 << k, np.int8) for k in range(20, 25)]
    for x in big * 3:
        assert hc.allreduce(x)[-1] == comm.size


@pytest.mark.parametrize("algorithm", cases("allreduce"))
def test_a_plan_reads_its_input_at_each_start(comm, algorithm):
    for make in (lambda: np.empty(1000), lambda: np.empty((1000, 2))[:, 0]):
        x = make()
        with hc.plan("allreduce", x, algorithm=algorithm) as total, hc.plan("allreduce", x, op="max", out=x) as largest:
            for turn in range(5):
                x[:] = comm.rank + turn
                total.start()
                same(total.wait(), np.full(1000, float(sum(range(comm.size)) + comm.size * turn)))
                largest.start()
                assert largest.wait() is x
                same(x, np.full(1000, float(comm.size - 1 + turn)))


def test_plans_of_the_other_collectives(comm):
    x = np.full(4, comm.rank)
    with hc.plan("broadcast", x, root=comm.size - 1) as p:
        p.start()
        same(p.wait(), np.full(4, comm.size - 1))
    with hc.plan("allgather", np.array([comm.rank])) as p:
        p.start()
        same(p.wait(), np.arange(comm.size))
    with hc.plan("scatter", np.arange(comm.size)) as p, hc.plan("gather", np.array([comm.rank])) as q:
        p.start()
        same(p.wait(), np.array([comm.rank]))
        q.start()
        assert comm.rank or (q.wait() == np.arange(comm.size)).all()


def test_plans_may_be_waited_for_in_another_order_on_each_rank(comm):
    algorithms = ["ring", "binomial", "shared", "circulant"]
    given = [(np.full(n, 1.0 + i), name) for i, name in enumerate(algorithms) for n in (3, LARGE)]
    given.append((np.ones(50, "g"), "ring"))  # walked in Python
    plans = [hc.plan("allreduce", x, algorithm=name) for x, name in given]
    for turn in range(3):
        for plan in plans:
            plan.start()
        for i in np.random.default_rng([turn, comm.rank]).permutation(len(plans)):
            assert plans[i].wait()[-1] == comm.size * given[i][0][0]
    for plan in plans:
        plan.close()


def test_two_plans_may_be_under_way_at_once(comm):
    a, b = np.full(LARGE, 1.0), np.full(10, 2.0)
    with hc.plan("allreduce", a) as p, hc.plan("allreduce", b) as q:
        for _ in range(3):
            p.start()
            q.start()
            same(q.wait(), np.full(10, 2.0 * comm.size))
            same(p.wait(), np.full(LARGE, float(comm.size)))


def test_a_plan_is_started_and_waited_for_in_turn(comm):
    with hc.plan("allreduce", np.ones(3)) as p:
        with pytest.raises(RuntimeError, match="not started"):
            p.wait()
        p.start()
        with pytest.raises(RuntimeError, match="not waited for"):
            p.start()
        p.wait()


def test_zeros_of_different_sign_give_the_same_bits_on_every_rank(comm):
    for algorithm, op in itertools.product(cases("allreduce")[2:], ("min", "max")):
        x = np.full(5, 0.0 if comm.rank % 2 else -0.0)
        for y in (hc.allreduce(x, op, algorithm=algorithm), hc.allreduce(x, op, algorithm=algorithm, out=x)):
            assert len(set(comm.allgather(y.tobytes()))) == 1


def test_native_moves_any_data_type(comm):
    for dtype in ("S5", ">i4", "e", "m8[s]"):
        mine = np.arange(1, 4).astype("i4").astype(dtype)
        same(hc.allgather(mine, algorithm="native"), np.concatenate([mine] * comm.size, dtype=dtype))


def test_an_exception_in_mid_plan_leaves_no_message_without_memory(comm):
    """What a plan has posted is received into memory of its own, even when the plan is forgotten."""
    own = comm.Dup()
    for n in (1000, 100_000):
        with pytest.raises(KeyError), hc.plan("broadcast", np.full(n, 7.0), root=comm.size - 1, comm=own) as p:
            p.start()
            raise KeyError
        del p
        later = [np.zeros(n) for _ in range(4)]
        comm.Barrier()
        assert hc.allreduce(1, comm=own) == comm.size
        assert all((x == 0).all() for x in later)


def test_a_closed_plan_and_one_whose_communicator_is_gone(comm):
    own = comm.Dup()
    p = hc.plan("allreduce", np.ones(3), comm=own)
    p.start()
    p.close()
    p.close()
    with pytest.raises(RuntimeError, match="closed"):
        p.start()
    q = hc.plan("allreduce", np.ones(3), comm=own)
    own.Free()
    with pytest.raises(RuntimeError, match="communicator was freed"):
        q.start()
