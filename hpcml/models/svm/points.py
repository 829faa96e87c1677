"""This rank's rows as a kernel sees them: dense, sparse, or rows of a matrix of kernel values.

``borrow`` gives every rank the rows that ranks lend each other; ``gram`` the kernel among such, with the same bits on
every rank, whatever its processor; ``fill`` the kernel of borrowed rows with all rows of this rank.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from mpi4py import MPI
from numba import njit

from hpcml import collectives as hc
from hpcml.models.svm.kernels import Kernel, products_in_order, squares_in_order

#: Rows of a rank in a block: products of 512 borrowed rows with them stay in the second-level cache.
BLOCK = 256


class Points(Protocol):
    count: int
    dtype: np.dtype

    def borrow(self, mine: np.ndarray, counts: list[int], ids: np.ndarray, comm: MPI.Intracomm) -> Any:
        """The rows ``ids`` of the problem (sorted): each rank lends ``mine`` of its own, ``counts`` all ranks."""

    def joined(self, some: Any, kept: np.ndarray, more: Any) -> Any:
        """The borrowed rows ``some[kept]``, then ``more``."""

    def taken(self, rows: Any, which: np.ndarray) -> Any:
        """The borrowed ``rows[which]``."""

    def gram(self, new: Any, mine: np.ndarray, counts: list[int], rows: Any, comm: MPI.Intracomm) -> np.ndarray:
        """The kernel (new, rows) of borrowed rows; ``mine`` and ``counts`` are as in ``borrow`` of the new."""

    def fill(self, rows: Any, out: np.ndarray, slots: np.ndarray) -> None:
        """``out[slots[j]]`` (n,) becomes the kernel of borrowed row j with each row of this rank."""


class Dense:
    """Rows (n, d) of numbers. ordered: products are summed in the order of the features, not as a GEMM does it."""

    def __init__(self, X: np.ndarray, kernel: Kernel, ordered: bool) -> None:
        self.X, self.kernel, self.ordered = X, kernel, ordered
        self.count, self.dtype = len(X), X.dtype
        self._squares = squares_in_order(X)
        self._blocks = [np.ascontiguousarray(X[i : i + BLOCK].T) for i in range(0, len(X), BLOCK)] if ordered else []

    def borrow(self, mine: np.ndarray, counts: list[int], ids: np.ndarray, comm: MPI.Intracomm) -> np.ndarray:
        return hc.allgather(self.X[mine], counts=counts, comm=comm)

    def joined(self, some: np.ndarray, kept: np.ndarray, more: np.ndarray) -> np.ndarray:
        return np.concatenate([some[kept], more])

    def taken(self, rows: np.ndarray, which: np.ndarray) -> np.ndarray:
        return rows[which]

    def gram(
        self, new: np.ndarray, mine: np.ndarray, counts: list[int], rows: np.ndarray, comm: MPI.Intracomm
    ) -> np.ndarray:
        return cross(self.kernel, new, rows)

    def fill(self, rows: np.ndarray, out: np.ndarray, slots: np.ndarray) -> None:
        left = squares_in_order(rows)
        room = np.empty((len(rows), BLOCK), self.dtype)
        for block, first in enumerate(range(0, self.count, BLOCK)):
            m = min(BLOCK, self.count - first)
            products = room if m == BLOCK else np.empty((len(rows), m), self.dtype)
            if self.ordered:
                products_in_order(rows, self._blocks[block], products)
            else:
                np.matmul(rows, self.X[first : first + m].T, out=products)
            self.kernel.apply(products, left, self._squares[first : first + m], out, slots, first)


def cross(kernel: Kernel, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The kernel (q, m) of dense rows (q, d) with ``columns`` (m, d), summed in the order of the features."""
    products = np.empty((len(rows), len(columns)), rows.dtype)
    for first in range(0, len(columns), BLOCK):
        part = np.empty((len(rows), len(columns[first : first + BLOCK])), rows.dtype)
        products_in_order(rows, np.ascontiguousarray(columns[first : first + BLOCK].T), part)
        products[:, first : first + BLOCK] = part
    return kernel.of(products, squares_in_order(rows), squares_in_order(columns))


class Rows(NamedTuple):
    """Rows in compressed form, as SciPy's CSR has them."""

    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    @property
    def squares(self) -> np.ndarray:
        return _sparse_squares(self.starts, self.values)

    def take(self, which: np.ndarray) -> Rows:
        lengths = np.diff(self.starts)[which]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(self.starts[which] - starts[:-1], lengths) + np.arange(starts[-1])
        return Rows(starts, self.columns[places], self.values[places])


class Sparse:
    """Rows (n, d) in SciPy's CSR form. Products are summed in the order of the features, in float64."""

    def __init__(self, X: Any, kernel: Kernel) -> None:
        self.kernel, self.width = kernel, X.shape[1]
        self.rows = Rows(X.indptr.astype(np.int64), X.indices.astype(np.int64), X.data)
        self.count, self.dtype = X.shape[0], X.dtype
        self._squares = self.rows.squares

    def borrow(self, mine: np.ndarray, counts: list[int], ids: np.ndarray, comm: MPI.Intracomm) -> Rows:
        lent = self.rows.take(mine)
        lengths = hc.allgather(np.diff(lent.starts), counts=counts, comm=comm)
        columns, values = hc.allgather([lent.columns, lent.values], comm=comm)
        return Rows(np.concatenate([[0], np.cumsum(lengths)]), columns, values)

    def joined(self, some: Rows, kept: np.ndarray, more: Rows) -> Rows:
        some = some.take(kept)
        starts = np.concatenate([some.starts, some.starts[-1] + more.starts[1:]])
        columns = np.concatenate([some.columns, more.columns])
        return Rows(starts, columns, np.concatenate([some.values, more.values]))

    def taken(self, rows: Rows, which: np.ndarray) -> Rows:
        return rows.take(which)

    def gram(self, new: Rows, mine: np.ndarray, counts: list[int], rows: Rows, comm: MPI.Intracomm) -> np.ndarray:
        products = np.empty((len(new.starts) - 1, len(rows.starts) - 1), self.dtype)
        _sparse_products(*self._by_feature(new), *rows, 0, products)
        return self.kernel.of(products, new.squares, rows.squares)

    def fill(self, rows: Rows, out: np.ndarray, slots: np.ndarray) -> None:
        turned, left = self._by_feature(rows), rows.squares
        for first in range(0, self.count, BLOCK):
            products = np.empty((len(left), min(BLOCK, self.count - first)), self.dtype)
            _sparse_products(*turned, *self.rows, first, products)
            self.kernel.apply(products, left, self._squares[first : first + BLOCK], out, slots, first)

    def _by_feature(self, rows: Rows) -> Rows:
        """For each feature the rows that have it."""
        order = np.argsort(rows.columns, kind="stable")
        owner = np.repeat(np.arange(len(rows.starts) - 1), np.diff(rows.starts))
        starts = np.searchsorted(rows.columns[order], np.arange(self.width + 1))
        return Rows(starts, owner[order], rows.values[order])


@njit(cache=True, nogil=True)
def _sparse_squares(starts: np.ndarray, values: np.ndarray) -> np.ndarray:
    out = np.zeros(len(starts) - 1, values.dtype)
    for i in range(len(out)):
        total = 0.0
        for place in range(starts[i], starts[i + 1]):
            total += np.float64(values[place]) * values[place]
        out[i] = total
    return out


@njit(cache=True, nogil=True)
def _sparse_products(
    heads: np.ndarray,
    owners: np.ndarray,
    weights: np.ndarray,
    starts: np.ndarray,
    columns: np.ndarray,
    values: np.ndarray,
    first: int,
    out: np.ndarray,
) -> None:
    """Products of rows given by feature (heads, owners, weights) with the rows from ``first`` on, into (q, m)."""
    q, m = out.shape
    sums = np.zeros(q)
    for i in range(m):
        sums[:] = 0
        for place in range(starts[first + i], starts[first + i + 1]):
            x, column = np.float64(values[place]), columns[place]
            for at in range(heads[column], heads[column + 1]):
                sums[owners[at]] += x * weights[at]
        for j in range(q):
            out[j, i] = sums[j]


class Precomputed:
    """Rows (n, N) of the matrix of kernel values of all N rows, ``columns`` of which are those of this problem."""

    def __init__(self, X: np.ndarray, columns: np.ndarray) -> None:
        self.X, self.columns = X, columns
        self.count, self.dtype = len(X), X.dtype

    def borrow(self, mine: np.ndarray, counts: list[int], ids: np.ndarray, comm: MPI.Intracomm) -> np.ndarray:
        return self.columns[ids]

    def joined(self, some: np.ndarray, kept: np.ndarray, more: np.ndarray) -> np.ndarray:
        return np.concatenate([some[kept], more])

    def taken(self, rows: np.ndarray, which: np.ndarray) -> np.ndarray:
        return rows[which]

    def gram(
        self, new: np.ndarray, mine: np.ndarray, counts: list[int], rows: np.ndarray, comm: MPI.Intracomm
    ) -> np.ndarray:
        return hc.allgather(np.ascontiguousarray(self.X[mine][:, rows]), counts=counts, comm=comm)

    def fill(self, rows: np.ndarray, out: np.ndarray, slots: np.ndarray) -> None:
        for slot, column in zip(slots, rows, strict=True):
            out[slot] = self.X[:, column]
