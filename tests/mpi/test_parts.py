"""Reduce-scatter, all-to-all and scans, and parts whose lengths the caller says, against NumPy."""

import itertools

import numpy as np
import pytest
from collective_cases import DTYPES, LARGE, NOT_IN_MPI, cases, data, folded, lengths, same
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.collectives.ops import OPS


def some(algorithm):
    return [dtype for dtype in DTYPES if algorithm != "native" or dtype not in NOT_IN_MPI]


@pytest.mark.parametrize("algorithm", cases("reduce_scatter"))
def test_reduce_scatter_splits_as_numpy_does(comm, algorithm):
    for dtype, op in itertools.product(some(algorithm), ("sum", "max", "mean")):
        if dtype.kind not in OPS[op].kinds:
            continue
        for n in [*lengths(comm.size), *([LARGE // 3] if dtype == np.dtype("f4") else [])]:
            x = data(comm.rank, 3 * n, dtype, op).reshape(n, 3)
            want = np.array_split(folded(op, comm.size, 3 * n, dtype).reshape(n, 3), comm.size)[comm.rank]
            same(hc.reduce_scatter(x, op, algorithm=algorithm), want)
            out = np.empty(want.shape, dtype)
            assert hc.reduce_scatter(x, op, algorithm=algorithm, out=out) is out
            same(out, want)


@pytest.mark.parametrize("algorithm", cases("reduce_scatter"))
def test_reduce_scatter_of_parts_of_any_length(comm, algorithm):
    counts = [(5 * r) % 3 * 1000 for r in range(comm.size)]
    x = data(comm.rank, sum(counts), np.dtype("f8"))
    want = np.split(folded("sum", comm.size, sum(counts), np.dtype("f8")), np.cumsum(counts)[:-1])[comm.rank]
    same(hc.reduce_scatter(x, algorithm=algorithm, counts=counts), want)
    same(hc.reduce_scatter(np.asfortranarray(x), algorithm=algorithm, counts=np.array(counts)), want)


@pytest.mark.parametrize("algorithm", cases("alltoall"))
def test_alltoall(comm, algorithm):
    for dtype, n in itertools.product(some(algorithm), [*lengths(comm.size), 1001]):
        if n == 1001 and dtype != np.dtype("f4"):
            continue
        given = [data(r, 2 * n, dtype).reshape(n, 2) for r in range(comm.size)]
        want = np.concatenate([np.array_split(x, comm.size)[comm.rank] for x in given], dtype=dtype)
        same(hc.alltoall(given[comm.rank], algorithm=algorithm), want)
        x = given[comm.rank].copy()
        if want.shape == x.shape:
            same(hc.alltoall(x, algorithm=algorithm, out=x), want)


@pytest.mark.parametrize("algorithm", cases("alltoall"))
def test_alltoallv(comm, algorithm):
    size, rank = comm.size, comm.rank
    for turn, dtype in enumerate(some(algorithm)[::4]):
        rows = np.random.default_rng(turn).integers(0, 5, (size, size)) * (turn % 3)
        given = [data(r, int(rows[r].sum()) * 2, dtype).reshape(-1, 2) for r in range(size)]
        cut = [np.split(given[s], np.cumsum(rows[s])[:-1]) for s in range(size)]
        got, came = hc.alltoallv(given[rank], rows[rank], algorithm=algorithm)
        same(got, np.concatenate([cut[s][rank] for s in range(size)], dtype=dtype))
        assert came.dtype == np.int64 and (came == rows[:, rank]).all()


@pytest.mark.parametrize("algorithm", cases("scan"))
def test_scan(comm, algorithm):
    for dtype, op in itertools.product(some(algorithm), ("sum", "max", "prod")):
        if dtype.kind not in OPS[op].kinds:
            continue
        for n in lengths(comm.size):
            x = data(comm.rank, n, dtype, op)
            want = folded(op, comm.rank + 1, n, dtype)
            same(hc.scan(x, op, algorithm=algorithm), want)
            assert hc.scan(x, op, algorithm=algorithm, out=x) is x
            same(x, want)


@pytest.mark.parametrize("algorithm", cases("exscan"))
def test_exscan(comm, algorithm):
    for dtype, n in itertools.product(some(algorithm), lengths(comm.size)):
        if dtype.kind not in OPS["sum"].kinds:
            continue
        x = data(comm.rank, n, dtype)
        y = hc.exscan(x, algorithm=algorithm)
        out = np.full(n, 7, dtype)
        returned = hc.exscan(x, algorithm=algorithm, out=out)
        if comm.rank == 0:
            assert y is None and returned is None
            same(out, np.full(n, 7, dtype))
        else:
            same(y, folded("sum", comm.rank, n, dtype))
            same(out, y)


def test_scans_fold_in_rank_order(comm):
    def compose(a, b, datatype):  # x ↦ scale·x + shift
        (left, right) = (np.frombuffer(m).reshape(-1, 2) for m in (a, b))
        right[:] = np.stack([left[:, 0] * right[:, 0], left[:, 0] * right[:, 1] + left[:, 1]], 1)

    op = MPI.Op.Create(compose, commute=False)
    maps = [np.array([2.0, r]) for r in range(comm.size)]
    scale, shift = 1.0, 0.0
    for r in range(comm.rank + 1):
        scale, shift = scale * maps[r][0], scale * maps[r][1] + shift
    pair = MPI.DOUBLE.Create_contiguous(2).Commit()
    for algorithm in ("auto", *cases("scan")[2:]):
        same(hc.scan(maps[comm.rank], op, algorithm=algorithm), np.array([scale, shift]))
    pair.Free()
    op.Free()


@pytest.mark.parametrize("collective", ["gather", "allgather", "scatter"])
def test_lengths_that_the_caller_says(comm, collective):
    counts = [3 * r % 4 for r in range(comm.size)]
    parts = [data(r, 2 * n, np.dtype("f4")).reshape(n, 2) for r, n in enumerate(counts)]
    whole, mine, last = np.concatenate(parts), parts[comm.rank], comm.size - 1
    for algorithm in cases(collective):
        for _ in range(2):
            if collective == "scatter":
                got = hc.scatter(whole if comm.rank == last else None, last, algorithm=algorithm, counts=counts)
                same(got, mine)
            elif collective == "allgather":
                same(hc.allgather(mine, algorithm=algorithm, counts=counts), whole)
            else:
                got = hc.gather(mine, last, algorithm=algorithm, counts=counts)
                assert got is None if comm.rank != last else (got == whole).all()


def test_plans_of_parts(comm):
    size, rank = comm.size, comm.rank
    x = np.empty(3 * size)
    with (
        hc.plan("reduce_scatter", x) as part,
        hc.plan("alltoall", x) as across,
        hc.plan("scan", x, out=x) as scan,
        hc.plan("barrier") as barrier,
    ):
        for turn in range(3):
            x[:] = rank + turn
            part.start()
            across.start()
            assert (part.wait() == sum(range(size)) + turn * size).all()
            assert (across.wait() == np.repeat(np.arange(size), 3) + turn).all()
            barrier.start()
            barrier.wait()
            scan.start()
            assert scan.wait() is x and (x == sum(range(rank + 1)) + turn * (rank + 1)).all()


def test_wrong_counts_are_an_error_on_every_rank(comm):
    with pytest.raises(hc.ArgumentError, match="has 1 entries|has 2 entries"):
        hc.reduce_scatter(np.ones(4), counts=[4] if comm.size > 1 else [2, 2])
    with pytest.raises(hc.ArgumentError, match="add up to"):
        hc.scatter(np.ones(comm.size + 1), counts=[1] * comm.size)
    with pytest.raises(hc.ArgumentError, match="below 0"):
        hc.alltoallv(np.ones(comm.size), [-1] * comm.size)
    with pytest.raises(hc.ArgumentError, match="no axes"):
        hc.alltoall(np.array(1.0))
    with pytest.raises(hc.ArgumentError, match="rows here"):
        hc.allgather(np.ones(2), counts=[3] * comm.size)
    with pytest.raises(hc.ArgumentError, match="a sum, divided by"):
        hc.scan(np.ones(3), "mean")


@pytest.mark.parametrize("algorithm", ["auto", "shared", "ring"])
@pytest.mark.parametrize("collective", ["allgather", "gather"])
def test_lengths_that_change_from_call_to_call(fresh, collective, algorithm):
    """Calls take the lengths of the one before for granted; here they change on all ranks, on one, or back again."""
    if algorithm == "ring" and collective == "gather":
        algorithm = "binomial"
    last = fresh.size - 1
    for turn, changes in enumerate([(), (), (0,), (), (last,), (0, last), range(fresh.size), (), ()]):
        lengths = [5000 + rank + 7 * turn * (rank in changes) for rank in range(fresh.size)]
        parts = [np.arange(n, dtype="f4") + 100 * rank + turn for rank, n in enumerate(lengths)]
        whole = np.concatenate(parts)
        strided = np.repeat(parts[fresh.rank], 2)[::2] if turn % 2 and fresh.rank == 0 else parts[fresh.rank]
        out = np.empty(len(whole), "f4") if turn % 3 == 0 and fresh.rank == last else None
        got = getattr(hc, collective)(strided, algorithm=algorithm, comm=fresh, out=out)
        if collective == "allgather" or fresh.rank == 0:
            assert (got == whole).all() and got.shape == whole.shape
            assert out is None or got is out
    wrong = np.empty(3, "f4") if fresh.rank == 0 else None
    with pytest.raises(hc.CollectiveError, match="out is"):  # it is one of rank 0, and all hear of it
        getattr(hc, collective)(parts[fresh.rank], algorithm=algorithm, comm=fresh, out=wrong)
    single = np.float32(fresh.rank) if fresh.rank == 0 else np.full(1, fresh.rank, "f4")
    root = {} if collective == "allgather" else {"root": np.int64(0) if fresh.rank == last else 0}
    for _ in range(3):  # a number is an array of length 1, and NumPy's integers are ranks
        got = getattr(hc, collective)(single, algorithm=algorithm, comm=fresh, **root)
    assert got is None or got.tolist() == list(range(fresh.size))
