"""Data for tests of collectives: different on every rank, with folds that are exact in every data type."""

import ml_dtypes
import numpy as np

from hpcml import collectives as hc
from hpcml.collectives.ops import OPS

DTYPES = [np.dtype(c) for c in "?bBhHiIlLefdgFDG"] + [np.dtype(ml_dtypes.bfloat16), np.dtype(">f8")]
NOT_IN_MPI = [np.dtype("e"), np.dtype(ml_dtypes.bfloat16), np.dtype(">f8")]
LARGE = 300_007  # several segments of every segmented algorithm, and odd


def lengths(size):
    return sorted({0, 1, size - 1, size, size + 1})


def data(rank, n, dtype, op="sum"):
    """Small integers, different on each rank, whose folds are exact in every dtype: 0 and 1 for products."""
    numbers = np.random.default_rng([rank, n]).integers(0, 2 if op == "prod" else 4, n)
    if op == "prod":
        numbers += 1 if rank % 3 == 0 else 0
    return numbers.astype(dtype)


def folded(op, size, n, dtype):
    total = data(0, n, dtype, op)
    for rank in range(1, size):
        total = OPS[op].ufunc(total, data(rank, n, dtype, op)).astype(dtype)
    if not OPS[op].finishes:
        return total
    return (total.real / size + 1j * (total.imag / size) if dtype.kind == "c" else total / dtype.type(size)).astype(
        dtype
    )


def cases(collective):
    return [name for name in hc.algorithms(collective)]


def same(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert (np.asarray(a) == np.asarray(b)).all()
