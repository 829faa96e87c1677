"""Exact sums by rational arithmetic, which the tests of reproducible sums compare with."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np

INTEGERS = {2: np.int16, 4: np.int32, 8: np.int64}


def bits(x):
    """Floats as integers of the same bits; complex numbers as pairs."""
    x = np.ascontiguousarray(x)
    x = x.view(x.real.dtype) if x.dtype.kind == "c" else x
    return x.view(INTEGERS[x.dtype.itemsize])


def same_bits(x, y):
    assert x.dtype == y.dtype and x.shape == y.shape
    np.testing.assert_array_equal(bits(x), bits(y))


def oracle_sums(rows):
    """The exact sum of each column of ``rows``, rounded once to its data type."""
    if rows.dtype.kind == "c":
        return oracle_sums(np.ascontiguousarray(rows).view(rows.real.dtype)).view(rows.dtype)
    return np.array([oracle_sum(column) for column in rows.T.reshape(rows.shape[1], -1)], rows.dtype)


def oracle_sum(column):
    dtype = column.dtype
    values = [float(v) for v in column]
    if any(np.isnan(values)) or {np.inf, -np.inf} <= set(values):
        return np.array(np.nan, dtype)
    if any(np.isinf(values)):
        return np.array(max(values, key=abs), dtype)
    exact = sum(map(Fraction, values))
    if exact == 0:
        return np.array(-0.0 if len(values) and all(np.signbit(values)) else 0.0, dtype)
    info = ml_dtypes.finfo(dtype)
    magnitude = exact.numerator.bit_length() - exact.denominator.bit_length()  # of the exponent, or one more
    ulp = max(Fraction(2) ** (magnitude - 1 - info.nmant), Fraction(float(info.smallest_subnormal)))
    if abs(exact) >= ulp * 2 ** (info.nmant + 1):
        ulp *= 2
    nearest = round(exact / ulp) * ulp  # Python rounds ties to even
    if abs(nearest) > Fraction(float(info.max)):
        return np.array(np.inf if exact > 0 else -np.inf, dtype)
    return np.array(float(nearest)).astype(dtype)  # a number of that format: exact
