"""Minimum and maximum free of order: floats as integers that stand in the same order.

Which zero and which NaN `minimum` returns depends on the order of the operands. As integers −0 comes before +0, and
every NaN is one, first of all for a minimum, last of all for a maximum: it always wins.
"""

from __future__ import annotations

import numpy as np

from hpcml.collectives.exact.terms import INTEGERS


def keys(x: np.ndarray, op: str) -> np.ndarray:
    """Integers that stand in the order of the floats ``x``; ``op`` is "min" or "max"."""
    bits = x.view(INTEGERS[x.itemsize])
    info = np.iinfo(bits.dtype)
    found = np.where(bits < 0, bits ^ info.max, bits)
    found[np.isnan(x)] = info.min if op == "min" else info.max
    return found


def floats(found: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """What `keys` made integers of."""
    info = np.iinfo(found.dtype)
    x = np.where(found < 0, found ^ info.max, found).view(dtype)
    x[(found == info.min) | (found == info.max)] = np.nan
    return x


def folded(found: np.ndarray, op: str) -> np.ndarray:
    """Keys folded along axis 0; of no keys, one that loses against all others."""
    info = np.iinfo(found.dtype)
    if op == "min":
        return np.minimum.reduce(found, axis=0, initial=info.max)
    return np.maximum.reduce(found, axis=0, initial=info.min)
