"""Exact sums against rational arithmetic: ordinary data, and what breaks naive and compensated sums."""

import ml_dtypes
import numpy as np
import pytest
from exact_cases import bits, oracle_sums

from hpcml.collectives.exact import accumulator, kernels, limbs

FORMATS = [np.dtype(np.float32), np.dtype(np.float64)]


def summed(rows, odd=False):
    out = np.empty(rows.shape[1], rows.dtype)
    stored = np.int64(accumulator.STORED[rows.dtype])
    kernels.sum_rows(rows, bits(rows), 0, out, bits(out), stored, odd)
    return out


def accumulated(parts, odd=False, window=None):
    """The sum by limbs of what each of several ranks has."""
    stored = np.int64(accumulator.STORED[parts[0].dtype])
    windows = [limbs.window_of(bits(part), stored) for part in parts]
    found = window or limbs.Window(
        *(pick(ends) for pick, ends in zip((min, max, max), zip(*windows, strict=True), strict=True))
    )
    total = np.zeros((parts[0].shape[1], found.columns), np.int64)
    for part in parts:
        mine = np.full_like(total, 99)
        limbs.fill(bits(part), mine, found.first, found.width, stored)
        total += mine
    out = np.empty(len(total), parts[0].dtype)
    limbs.round_all(total, found.first, found.width, bits(out), stored, odd)
    return out


def check(rows):
    """Every way to the sum gives the same bits as the oracle."""
    want = bits(oracle_sums(rows))
    stored = accumulator.STORED[rows.dtype]
    np.testing.assert_array_equal(bits(summed(rows)), want)
    cut = len(rows) // 3
    shares = [rows[cut:], rows[:cut], rows[:0]]
    np.testing.assert_array_equal(bits(accumulated(shares)), want)
    np.testing.assert_array_equal(bits(accumulated(shares, window=limbs.whole(stored))), want)
    apart = np.full((kernels.PARTS, rows.shape[1]), 99, rows.dtype)
    needed = kernels.take_apart(rows, bits(rows), 0, apart, bits(apart), np.int64(stored))
    if needed <= kernels.PARTS:
        assert (bits(apart[needed:]) == bits(np.array(-0.0, rows.dtype))).all()
        np.testing.assert_array_equal(bits(summed(apart[:needed])), want)
        finite = np.isfinite(apart[0])
        assert not summed(np.concatenate([rows, -apart])[:, finite]).any()  # nothing is left over
    return needed


def random_bits(generator, shape, dtype):
    return generator.integers(0, 1 << 8 * dtype.itemsize, shape, np.uint64).astype(f"u{dtype.itemsize}").view(dtype)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 3, 8, 40])
def test_any_bits_at_all(dtype, rows):
    generator = np.random.default_rng(rows)
    with np.errstate(invalid="ignore"):
        check(random_bits(generator, (rows, 200), dtype))
    # Exponents from a narrow range, in which additions lose few bits, ties come up, and infinities do not.
    mantissas, exponents = generator.standard_normal((rows, 200)), generator.integers(-30, 30, (rows, 200))
    check(np.ldexp(mantissas, exponents).astype(dtype))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_edges_of_the_format(dtype):
    info = np.finfo(dtype)
    largest, least, one = info.max, info.smallest_subnormal, dtype.type(1)
    half_ulp = info.eps / 2
    just_more = np.nextafter(half_ulp, one)
    columns = [
        (largest, largest, -largest),  # an intermediate overflow is none
        (largest, largest, largest),
        (-largest, -largest, 0),
        (largest, largest * half_ulp / 2, largest * half_ulp / 8),  # above the midpoint to what would come next
        (one, half_ulp, 0),  # a tie, to even
        (one + info.eps, half_ulp, 0),  # a tie, away from zero
        (one, half_ulp, least),  # no tie, by the very least
        (one + info.eps, half_ulp, -least),
        (-one, -half_ulp, -least),
        (one, just_more, -just_more),
        (least, least, -least),
        (info.smallest_normal, -least, 0),
        (largest, -largest, least),  # all the range of the format in one sum
        (largest, least, -largest),
        (0.0, -0.0, -0.0),
        (-0.0, -0.0, -0.0),
        (one, -one, -0.0),
        (np.inf, -largest, -largest),
        (np.inf, -np.inf, one),
        (-np.nan, one, one),
    ]
    with np.errstate(over="ignore"):
        check(np.array(columns, dtype).T.copy())
        check(np.tile(np.array(columns, dtype).T, (7, 1)))


def test_sums_that_depend_on_the_order_when_they_are_naive():
    """±1e6 beside 1e-2: float32 in their order loses the small ones. As MPICH's test/mpi/coll/allred_float.c."""
    generator = np.random.default_rng(0)
    rows = np.full((40, 300), 1e-2, np.float32)
    rows[::2] = np.where(np.arange(20) % 2, 1e6, -1e6)[:, None]
    for column in rows.T:
        generator.shuffle(column)
    assert len(set(np.add.accumulate(rows)[-1].tolist())) > 10
    assert set(summed(rows).tolist()) == {np.float32(20 * float(np.float32(1e-2)))}
    check(rows)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_sums_known_beforehand(dtype):
    """Integers, whose float sums are exact in any order. As NCCL's verifiable inputs."""
    rows = np.random.default_rng(1).integers(-1000, 1000, (100, 333))
    assert (summed(rows.astype(dtype)) == rows.sum(0)).all()


def test_an_accumulator_has_room_for_what_it_promises():
    """Limbs as full as deposits can make them, 2^31 times, at the highest and at a low place."""
    for dtype in FORMATS:
        stored = np.int64(accumulator.STORED[dtype])
        ones = np.nextafter(dtype.type(2), dtype.type(0))  # a fraction of ones only
        for value in (ones, np.finfo(dtype).max):
            window = limbs.window_of(bits(np.array([[value]], dtype)), stored)
            rows = np.zeros((1, window.columns), np.int64)
            limbs.fill(bits(np.array([[value]], dtype)), rows, window.first, window.width, stored)
            found = np.empty(1, dtype)
            limbs.round_all(rows * 2**31, window.first, window.width, bits(found), stored, False)
            want = dtype.type(value == ones and float(value) * 2.0**31 or np.inf)
            assert found[0] == want
            limbs.round_all(rows * -(2**31), window.first, window.width, bits(found), stored, False)
            assert found[0] == -want


def test_round_to_odd_makes_two_roundings_one():
    """To float32, then to float16 or bfloat16, gives the exact sum rounded once."""
    generator = np.random.default_rng(3)
    for short in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)):
        magnitudes = generator.choice(
            [1e-7, 1, 1.0 + 2.0**-8, 1.0 + 2.0**-11, 2.0**-12, 2.0**-24, 6e4, 3e38], (5, 2000)
        )
        with np.errstate(over="ignore", invalid="ignore"):
            rows = (magnitudes * generator.choice([-1, 1], magnitudes.shape)).astype(short)
            want = bits(oracle_sums(rows))
            for found in (summed(rows.astype("f4"), odd=True), accumulated([rows.astype("f4")], odd=True)):
                np.testing.assert_array_equal(bits(found.astype(short)), want)
