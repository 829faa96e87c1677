"""The rows of all ranks as one matrix A = [X, s·1], and products with it that are summed over the ranks.

Rows are walked in blocks that stay in the cache, so that a `sweep` (scores, what a loss makes of them, and the product
of that with Aᵀ) reads X once. With ``reproducible`` the sums have the same bits on any number of ranks: the rows
are cut into units at fixed places of their global order, a unit is on one rank, and the sums of units are added exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.models.rows import Rows
from hpcml.models.virtual import owned_shards, rearranged

#: Rows per product of a dense block: 100 columns of float64 fill most of a second-level cache.
BLOCK = 1024
SPARSE_BLOCK = 16384
#: Rows of a unit of reproducible sums; there are at least `LEAST_UNITS` of them, and at most `MOST_UNITS`.
UNIT, LEAST_UNITS, MOST_UNITS = 4096, 16, 1024

#: Takes scores (n, k) float64 and where their rows begin; returns a float64 array to be multiplied with Aᵀ, (n, k), and
#: values (m,) to be added up over the rows.
Derivative = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


class Design:
    """This rank's part of A (n, D): D = d + 1 with an intercept, the last column being ``scale``; else D = d.

    Products are collective over ``comm``. ``waited`` is the time they took between ranks, in seconds.
    """

    def __init__(
        self,
        X: Any,
        comm: MPI.Intracomm,
        scale: float | None = None,
        units: list[int] | None = None,
        first: int = 0,
    ) -> None:
        """units: the lengths of this rank's units, for reproducible sums. first: the global number of row 0."""
        self.X, self.comm, self.scale, self.first = X, comm, scale, first
        self.rows, self.features = X.shape
        self.columns = self.features + (scale is not None)
        self.sparse = hasattr(X, "toarray")
        self.exact = units is not None
        self.waited = 0.0
        ends = np.cumsum([self.rows] if units is None else units).tolist()
        self.units = list(zip([0, *ends][:-1], ends, strict=True))
        step = SPARSE_BLOCK if self.sparse else BLOCK
        self._blocks = [
            [(at, self._slice(at, min(at + step, end))) for at in range(begin, end, step)] for begin, end in self.units
        ]
        self._lot = _lots(first, self.rows)

    def _slice(self, begin: int, end: int) -> Any:
        if not self.sparse:
            return self.X[begin:end]
        low, high = self.X.indptr[begin], self.X.indptr[end]
        pointers = self.X.indptr[begin : end + 1] - low
        parts = (self.X.data[low:high], self.X.indices[low:high], pointers)
        return type(self.X)(parts, shape=(end - begin, self.features))

    def drawn(self, share: float) -> np.ndarray:
        """Which of this rank's rows (n,), bool, are in a sample of about that ``share`` of all rows: always the same,
        and those of a smaller share are among those of a larger one."""
        return self._lot < np.uint32(min(share, 1.0) * (2**32 - 1))

    def scores(self, W: np.ndarray) -> np.ndarray:
        """A·W (n, k) for W (D, k). Local."""
        out = np.empty((self.rows, W.shape[1]))
        weights = self._narrow(W)
        for blocks in self._blocks:
            for at, block in blocks:
                out[at : at + block.shape[0]] = self._product(block, weights)
        return out

    def sweep(self, W: np.ndarray, derivative: Derivative, values: int, scores: np.ndarray) -> tuple[Any, Any]:
        """Sums of the values (m,), and AᵀR (D, k), for what ``derivative`` makes of A·W, which goes to ``scores``."""
        weights = self._narrow(W)
        return self._walk(derivative, values, scores, lambda block: self._product(block, weights))

    def again(self, scores: np.ndarray, derivative: Derivative, values: int) -> tuple[Any, Any]:
        """`sweep` for scores that are known."""
        return self._walk(derivative, values, scores, None)

    def gram(self, rows: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
        """Aᵀ diag(w) A (m, D, D), over rows with the given local numbers, ascending; for each of m ``weights`` (n,)."""
        total = np.zeros((len(self.units), len(weights), self.columns, self.columns))
        ends = np.searchsorted(rows, [end for _, end in self.units])
        for unit, (low, high) in enumerate(zip([0, *ends][:-1], ends, strict=True)):
            for at in range(low, high, BLOCK):
                here = slice(at, min(at + BLOCK, high))
                chosen = self.X[rows[here]]
                dense = chosen.toarray() if self.sparse else chosen
                for number, weight in enumerate(weights):
                    total[unit, number] += self._weighted_square(dense, weight[here])
        return self._added(total)

    def normal(self, weights: np.ndarray, y: np.ndarray, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """X_cᵀ diag(w) X_c (d, d) and X_cᵀ diag(w) y (d,), for the rows of X less ``middle`` (d,); in float64."""
        d = self.features
        total = np.zeros((len(self.units), d + 1, d))
        for unit, blocks in enumerate(self._blocks):
            for start, whole in blocks:
                for at in range(start, start + whole.shape[0], BLOCK):
                    block = whole[at - start : at - start + BLOCK]
                    centred = (block.toarray() if self.sparse else block) - middle
                    heavy = weights[at : at + len(centred)]
                    scaled = centred * np.sqrt(heavy)[:, None]
                    total[unit, :d] += scaled.T @ scaled
                    total[unit, d] += centred.T @ (heavy * y[at : at + len(centred)])
        found = self._added(total)
        return found[:d], found[d]

    def product(
        self, rows: np.ndarray, times: Callable[[np.ndarray, slice], np.ndarray]
    ) -> Callable[[np.ndarray], np.ndarray]:
        """The function v ↦ Aᵀ B A v, (D, k) to (D, k), over those rows (m,). Collective.

        times: what B makes of the scores (., k) of a slice of the m rows.
        """
        chosen = self.X if len(rows) == self.rows else self.X[rows]
        ends = np.searchsorted(rows, [end for _, end in self.units]).tolist()
        units = [slice(low, high) for low, high in zip([0, *ends][:-1], ends, strict=True)]
        step = max(1, len(rows)) if self.sparse else BLOCK
        parts = [
            [slice(at, min(at + step, unit.stop)) for at in range(unit.start, unit.stop, step)] for unit in units
        ]
        blocks = [[(chosen if len(units) == 1 == len(part) else chosen[here], here) for here in part] for part in parts]

        def multiplied(v: np.ndarray) -> np.ndarray:
            total = np.zeros((len(blocks), *v.shape))
            narrow = self._narrow(v)
            for unit, part in enumerate(blocks):
                for block, here in part:
                    total[unit] += self._transposed(block, times(self._product(block, narrow), here))
            return self._added(total)

        return multiplied

    def diagonal(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The diagonal of Aᵀ diag(w) A, (D, k), over those rows."""
        total = np.zeros((len(self.units), self.columns, weights.shape[1]))
        ends = np.searchsorted(rows, [end for _, end in self.units]).tolist()
        for unit, (low, high) in enumerate(zip([0, *ends][:-1], ends, strict=True)):
            if high > low:
                chosen = self.X[rows[low:high]]
                total[unit, : self.features] = (chosen * chosen).T @ weights[low:high]
                if self.scale is not None:
                    total[unit, -1] = self.scale**2 * weights[low:high].sum(axis=0)
        return self._added(total)

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sums over all ranks of values (units, …), one line for each of this rank's units. See `by_unit`."""
        return self._added(values)

    def by_unit(self, values: np.ndarray) -> np.ndarray:
        """Sums of ``values`` (n, …) over the rows of each of this rank's units. Local."""
        total = np.zeros((len(self.units), *values.shape[1:]))
        for unit, (begin, end) in enumerate(self.units):
            total[unit] = values[begin:end].sum(axis=0)
        return total

    def _walk(
        self, derivative: Derivative, values: int, scores: np.ndarray, multiply: Callable[[Any], np.ndarray] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        k = scores.shape[1]
        sums = np.zeros((len(self.units), values + self.columns * k))
        for unit, blocks in enumerate(self._blocks):
            products = sums[unit, values:].reshape(self.columns, k)
            for at, block in blocks:
                here = scores[at : at + block.shape[0]]
                if multiply is not None:
                    here[...] = multiply(block)
                slopes, found = derivative(here, at)
                sums[unit, :values] += found
                products += self._transposed(block, slopes)
        total = self._added(sums)
        return total[:values], total[values:].reshape(self.columns, k)

    def _product(self, block: Any, weights: np.ndarray) -> np.ndarray:
        out = np.asarray(block @ weights[: self.features], np.float64)
        if self.scale is not None:
            out += self.scale * weights[-1].astype(np.float64)
        return out

    def _transposed(self, block: Any, slopes: np.ndarray) -> np.ndarray:
        out = np.empty((self.columns, slopes.shape[1]))
        out[: self.features] = block.T @ slopes.astype(self.X.dtype, copy=False)
        if self.scale is not None:
            out[-1] = self.scale * slopes.sum(axis=0)
        return out

    def _weighted_square(self, block: np.ndarray, weight: np.ndarray) -> np.ndarray:
        out = np.empty((self.columns, self.columns))
        signed = np.signbit(weight).any()
        root = weight if signed else np.sqrt(weight)
        scaled = block * root[:, None].astype(block.dtype)
        out[: self.features, : self.features] = (block if signed else scaled).T @ scaled
        if self.scale is not None:
            edge = scaled.T @ (np.ones_like(root) if signed else root).astype(block.dtype)
            out[-1, :-1] = out[:-1, -1] = self.scale * edge
            out[-1, -1] = self.scale**2 * weight.sum()
        return out

    def _narrow(self, W: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(W, self.X.dtype)

    def _added(self, sums: np.ndarray) -> np.ndarray:
        began = perf_counter()
        if self.exact:
            found = hc.allreduce(sums, op="sum", comm=self.comm, reproducible=True, axis=0)
        else:
            found = hc.allreduce(sums[0], op="sum", comm=self.comm) if self.comm.size > 1 else sums[0]
        self.waited += perf_counter() - began
        return found


def designed(rows: Rows, comm: MPI.Intracomm, scale: float | None, reproducible: bool) -> tuple[Rows, Design]:
    """The rows and their design; for reproducible sums the rows may have moved to other ranks. Collective."""
    if not reproducible:
        return rows, Design(rows.X, comm, scale, first=rows.first(comm.rank))
    units = units_of(rows.total)
    rows = rearranged(rows, units, comm)
    return rows, Design(rows.X, comm, scale, owned_shards(rows.total, units, comm), rows.first(comm.rank))


def units_of(rows: int) -> int:
    """How many units so many rows are cut into: as many on any number of ranks."""
    return min(MOST_UNITS, max(LEAST_UNITS, rows // UNIT))


def _lots(first: int, rows: int) -> np.ndarray:
    """A number (n,), uint32, for each row, which looks random and depends on its global number only (Fibonacci hashing
    of it, folded: Knuth 1998, section 6.4, and Murmur's finaliser)."""
    lots = np.arange(first, first + rows, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    lots ^= lots >> np.uint64(33)
    lots *= np.uint64(0xFF51AFD7ED558CCD)
    return (lots >> np.uint64(32)).astype(np.uint32)
