"""``reproducible=True``: the exact sum, rounded once, whoever holds which summands and whatever sums them."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from exact_cases import oracle_sums, same_bits
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.collectives.exact import summation, wide

ALGORITHMS = hc.algorithms("allreduce")
FLOATS = [np.dtype(c) for c in "efdF"] + [np.dtype(ml_dtypes.bfloat16)]
SUMMANDS = 8


@pytest.fixture(params=["as it comes", "in small slabs"])
def slabs(request, monkeypatch):
    """Also with every threshold so low that a few items go all the ways that millions do."""
    if request.param == "in small slabs":
        monkeypatch.setattr(summation, "DIRECT", 1)
        monkeypatch.setattr(summation, "SLAB", 48)
        monkeypatch.setattr(wide, "SLAB", 5)
        monkeypatch.setattr(wide, "WHOLE", 0)


def summands(n, dtype, spread=40, rows=SUMMANDS):
    """The same on every rank. Their sums depend on the order: cancellation, ties, a wide range, special values."""
    generator = np.random.default_rng(n)
    real = np.empty(0, dtype).real.dtype if dtype.kind == "c" else dtype
    shape = rows, n * (2 if dtype.kind == "c" else 1)
    x = np.where(generator.random(shape) < 0.5, 1e6, 1e-2) * generator.choice([-1, 1], shape)
    x[:, 1::4] = np.ldexp(generator.standard_normal(shape), generator.integers(-spread, spread, shape))[:, 1::4]
    x[:, 2::4] = generator.integers(-3, 4, shape)[:, 2::4]
    x[:, 3::16] = -0.0
    x[generator.integers(0, rows), 7::32] = np.inf
    x[generator.integers(0, rows), 11::32] = np.nan
    x[:, 15::32] = float(ml_dtypes.finfo(real).max) * generator.choice([-1, 1], shape)[:, 15::32]
    with np.errstate(over="ignore"):
        return x.astype(real).view(dtype)


def shares(size):
    """How many of the summands each rank holds: as even as can be, all on one, 5 and 3."""
    yield [SUMMANDS // size + (r < SUMMANDS % size) for r in range(size)]
    yield [SUMMANDS * (r == size - 1) for r in range(size)]
    if size > 1:
        yield [5 * (r == size - 1) + 3 * (r == 0) for r in range(size)]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_summands_may_lie_on_any_rank(fresh, slabs, dtype):
    for n, spread in ((37, 40), (23, 900)) if dtype == np.float64 else ((37, 40),):
        x = summands(n, dtype, spread)
        want = oracle_sums(x)
        for counts in shares(fresh.size):
            begin = sum(counts[: fresh.rank])
            mine = x[begin : begin + counts[fresh.rank]]
            before = mine.copy()
            for algorithm in ("auto", "ring"):
                same_bits(hc.allreduce(mine, axis=0, reproducible=True, algorithm=algorithm, comm=fresh), want)
            same_bits(mine, before)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_any_algorithm_and_any_order_of_ranks(fresh, slabs, algorithm):
    for dtype in (np.dtype("f4"), np.dtype("f8")):
        x = summands(41, dtype, rows=fresh.size)
        want = oracle_sums(x)
        for shift, collective in itertools.product((0, 1), ("allreduce", "reduce", "in place")):
            mine = x[(fresh.rank * (-1) ** shift + shift) % fresh.size].copy()
            if collective == "reduce":
                if algorithm not in hc.algorithms("reduce"):
                    continue
                root = fresh.size // 2
                total = hc.reduce(mine, root=root, algorithm=algorithm, comm=fresh, reproducible=True)
                assert (total is None) == (fresh.rank != root)
            else:
                out = mine if collective == "in place" else None
                total = hc.allreduce(mine, algorithm=algorithm, comm=fresh, reproducible=True, out=out)
                assert out is None or total is out
            if total is not None:
                same_bits(total, want)


def test_large_arrays(comm):
    for dtype, n in (("f4", 500_001), ("f8", 200_007)):
        x = np.random.default_rng(comm.rank).standard_normal(n).astype(dtype)
        x[:1000] *= np.ldexp(1.0, 30 * comm.rank).astype(dtype)
        some = np.r_[:50, 995:1005, n - 50 : n]
        want = oracle_sums(np.stack(comm.allgather(x[some])))
        total = hc.allreduce(x, reproducible=True)
        same_bits(total[some], want)
        same_bits(hc.allreduce(x, algorithm="ring", reproducible=True), total)
        same_bits(hc.allreduce(x[None], axis=0, reproducible=True), total)
        same_bits(hc.allreduce(x, reproducible=True, out=x), total)


def test_means_are_the_sum_divided_once(fresh, slabs):
    x = summands(37, np.dtype("f4"))
    with np.errstate(invalid="ignore"):
        want = oracle_sums(x) / np.float32(SUMMANDS)
    for counts in shares(fresh.size):
        begin = sum(counts[: fresh.rank])
        mine = x[begin : begin + counts[fresh.rank]]
        same_bits(hc.allreduce(mine, "mean", axis=0, reproducible=True, comm=fresh), want)
    half = np.full(100, 60_000, "f2")  # whose sum is more than the format holds
    same_bits(hc.allreduce(half, "mean", reproducible=True, comm=fresh), half)
    same_bits(hc.allreduce(np.arange(5) + fresh.rank, "mean", reproducible=True), np.arange(5) + (fresh.size - 1) / 2)


def test_no_rows_on_any_rank(fresh, slabs):
    nothing = np.empty((0, 50))
    same_bits(hc.allreduce(nothing, axis=0, reproducible=True, comm=fresh), np.zeros(50))
    same_bits(hc.allreduce(nothing, "mean", axis=0, reproducible=True, comm=fresh), np.full(50, np.nan))
    with pytest.raises(hc.ArgumentError, match="no rank has any rows"):
        hc.allreduce(nothing, "max", axis=0, reproducible=True, comm=fresh)
    assert hc.allreduce(np.empty((2, 0, 3)), axis=0, reproducible=True, comm=fresh).shape == (0, 3)


@pytest.mark.parametrize("dtype", [np.dtype(c) for c in "efd"] + [np.dtype(ml_dtypes.bfloat16)], ids=str)
def test_extremes_do_not_depend_on_who_holds_which_zero_or_nan(comm, dtype):
    values = np.array([[0.0, -0.0, np.nan, -np.nan, 1, -np.inf], [-0.0, 0.0, 1, 2, -1, np.inf]], dtype)
    least = np.array([-0.0, -0.0, np.nan, np.nan, -1, -np.inf], dtype)
    most = np.array([0.0, 0.0, np.nan, np.nan, 1, np.inf], dtype)
    for first in range(comm.size):
        mine = values[int(comm.rank >= first)] if comm.size > 1 else None
        for op, want in (("min", least), (MPI.MAX, most)):
            if comm.size > 1 and first > 0:
                same_bits(hc.allreduce(mine, op, reproducible=True), want)
                same_bits(hc.allreduce(values[1 - int(comm.rank >= first)], op, reproducible=True), want)
            rows = values if comm.rank == first else values[:0]
            same_bits(hc.allreduce(rows, op, axis=0, reproducible=True), want)


def test_whatever_numpy_calls_an_array(comm):
    x = summands(24, np.dtype("f8"), rows=comm.size)
    mine, want = x[comm.rank], oracle_sums(x)
    swapped = hc.allreduce(mine.astype(">f8"), reproducible=True)
    assert swapped.dtype == np.dtype(">f8")
    same_bits(swapped.astype("f8"), want)
    wide_out = np.zeros((24, 2))
    assert hc.allreduce(mine, reproducible=True, out=wide_out[:, 0]).base is wide_out
    same_bits(wide_out[:, 0].copy(), want)
    same_bits(hc.allreduce(mine.reshape(4, 6).T, reproducible=True), want.reshape(4, 6).T)
    total = hc.allreduce(float(mine[0]), reproducible=True)
    assert isinstance(total, np.float64) and total == want[0]
    fused = hc.allreduce({"a": mine[:5], "b": [mine[5:], np.arange(3)]}, reproducible=True)
    same_bits(np.concatenate([fused["a"], fused["b"][0]]), want)
    assert (fused["b"][1] == np.arange(3) * comm.size).all()


def test_several_in_flight(fresh, slabs):
    x = summands(100, np.dtype("f8"), rows=fresh.size)
    want = oracle_sums(x)
    for algorithm in ("auto", "ring"):
        under_way = [
            hc.iallreduce(x[fresh.rank, :n], algorithm=algorithm, reproducible=True, comm=fresh) for n in (100, 33, 33)
        ]
        for request, n in reversed(list(zip(under_way, (100, 33, 33), strict=True))):
            same_bits(request.wait(), want[:n])


def test_what_cannot_be_reproducible_is_an_error_on_every_rank(comm):
    with pytest.raises(hc.ArgumentError, match="no op 'prod' of float64"):
        hc.allreduce(np.ones(3), "prod", reproducible=True)
    with pytest.raises(hc.ArgumentError, match="no sum of .*float128|no sum of longdouble"):
        hc.allreduce(np.ones(3, "g"), reproducible=True)
    with pytest.raises(hc.ArgumentError, match="only axis=0"):
        hc.allreduce(np.ones(3), axis=1, reproducible=True)
    if comm.size > 1:
        with pytest.raises(hc.MismatchError, match="do not fit together"):
            hc.allreduce(np.ones(3 + comm.rank), reproducible=True)
    product = hc.allreduce(np.array([2, 3]), "prod", reproducible=True)  # of integers it is
    assert product.tolist() == [2**comm.size, 3**comm.size]
