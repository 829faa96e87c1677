"""Kernel functions k(x, z), from products x·z and squares x·x, z·z: linear, polynomial, RBF, sigmoid.

    linear   x·z                         poly     (γ x·z + c)^degree
    rbf      exp(−γ |x − z|²)            sigmoid  tanh(γ x·z + c)

A kernel turns a block of products into its values in one pass, which vectorises, in the precision of the block.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from hpcml.models.svm.exponential import exponential

#: The kernels of a pair of rows, by the number that compiled code knows them by; "precomputed" is looked up.
NAMES = ("linear", "poly", "rbf", "sigmoid")


class Kernel(NamedTuple):
    """A kernel with its parameters, all numbers."""

    name: str
    gamma: float = 1.0
    coef0: float = 0.0
    degree: int = 3

    @property
    def shift_invariant(self) -> bool:
        """Whether k(x + s, z + s) = k(x, z)."""
        return self.name == "rbf"

    def apply(
        self,
        products: np.ndarray,
        left: np.ndarray,
        right: np.ndarray,
        out: np.ndarray,
        slots: np.ndarray,
        first: int,
    ) -> None:
        """k of rows with products (q, m) and squares ``left`` (q,) and ``right`` (m,), into ``out[slots, first:]``."""
        kind = products.dtype.type
        _apply(
            NAMES.index(self.name),
            kind(self.gamma),
            kind(self.coef0),
            int(self.degree),
            kind(1),
            products,
            left,
            right,
            out,
            slots,
            first,
        )

    def of(self, products: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """As ``apply``, as a new array (q, m)."""
        out = np.empty_like(products)
        self.apply(products, left, right, out, np.arange(len(out)), 0)
        return out


@njit(cache=True, nogil=True)
def _apply(
    kernel: Any,
    gamma: Any,
    coef0: Any,
    degree: Any,
    one: Any,
    products: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    out: np.ndarray,
    slots: np.ndarray,
    first: int,
) -> None:
    q, m = products.shape
    zero, two = one - one, one + one
    for j in range(q):
        source, target = products[j], out[slots[j], first : first + m]
        if kernel == 2:
            square = left[j]
            for i in range(m):
                target[i] = exponential(-gamma * max((square + right[i]) - two * source[i], zero))
        elif kernel == 0:
            for i in range(m):
                target[i] = source[i]
        elif kernel == 1:
            for i in range(m):
                base = gamma * source[i] + coef0
                power = one
                for _ in range(degree):
                    power = power * base
                target[i] = power
        else:
            for i in range(m):
                x = gamma * source[i] + coef0
                e = exponential(-two * abs(x))
                target[i] = np.copysign((one - e) / (one + e), x)


@njit(cache=True, nogil=True)
def products_in_order(rows: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """Products (q, m) of ``rows`` (q, d) with ``columns`` (d, m), each summed from the first feature to the last.

    The same bits wherever a row lies in a block, on any processor; at half the rate of a GEMM, or more.
    """
    q, d = rows.shape
    m = out.shape[1]
    whole = d - d % 8
    for j in range(q):
        row, sums = rows[j], out[j]
        sums[:] = 0
        for k in range(0, whole, 8):
            w0, w1, w2, w3 = row[k], row[k + 1], row[k + 2], row[k + 3]
            w4, w5, w6, w7 = row[k + 4], row[k + 5], row[k + 6], row[k + 7]
            c0, c1, c2, c3 = columns[k], columns[k + 1], columns[k + 2], columns[k + 3]
            c4, c5, c6, c7 = columns[k + 4], columns[k + 5], columns[k + 6], columns[k + 7]
            for i in range(m):
                s = (((sums[i] + w0 * c0[i]) + w1 * c1[i]) + w2 * c2[i]) + w3 * c3[i]
                sums[i] = (((s + w4 * c4[i]) + w5 * c5[i]) + w6 * c6[i]) + w7 * c7[i]
        for k in range(whole, d):
            w, c = row[k], columns[k]
            for i in range(m):
                sums[i] = sums[i] + w * c[i]


@njit(cache=True, nogil=True)
def squares_in_order(rows: np.ndarray) -> np.ndarray:
    """x·x of each row (n, d), summed from the first feature to the last."""
    out = np.zeros(len(rows), rows.dtype)
    for i in range(len(rows)):
        row, total = rows[i], out[i]
        for k in range(row.size):
            total = total + row[k] * row[k]
        out[i] = total
    return out
