"""Matrices of gradients as products of two thin ones: low-rank approximation with error feedback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
from mpi4py import MPI
from numba import njit

from hpcml import collectives as hc
from hpcml.optim.messages import Message
from hpcml.optim.wire.feedback import Owed


@dataclass(frozen=True)
class PowerSGD:
    """Of a gradient that is a matrix M the ranks send two factors of ``rank`` columns, and owe the rest.

    A gradient of two or more axes is a matrix of its first axis by all others, n × m. With Q, m × rank, from the step
    before, the ranks sum P = MQ, make its columns orthonormal, and sum MᵀP, which is the new Q; PQᵀ stands for the sum
    of M: one step of a power iteration. A rank owes M − P(PᵀM) of its own M. Matrices that this would not make smaller,
    rank·(n + m) ≥ n·m, and arrays with fewer axes, are summed as they are, together with P.

    Two all-reduces for each bucket, of rank·n and rank·m numbers for each matrix. On one rank the result is as far from
    M as on several.

    A number that is not finite, in a matrix of any rank, makes NaN of all matrices in its bucket on every rank; nothing
    is owed for them afterwards.

    ``algorithm`` of `Distributed` is that of the all-reduces. Raises ValueError unless ``rank`` is a whole number of at
    least 1.

    Source: Vogels, Karimireddy, Jaggi 2019, "PowerSGD", algorithms 1 and 2. Departures: what is owed is what is left of
    a rank's own matrix, not of the mean, whose sum over ranks is the same and which is smaller; Q is made orthonormal,
    too, so that P has the size of M and not that of its square.

    Example::

        opt = optim.Distributed(optim.SGD(params, lr=0.1, momentum=0.9), wire=optim.PowerSGD(rank=4))
    """

    rank: int = 4

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"PowerSGD(rank={self.rank!r}): expected a whole number of at least 1")

    def reduction(
        self, message: Message, shapes: list[tuple[int, ...]], comm: MPI.Intracomm, algorithm: str, background: bool
    ) -> Factored:
        return Factored(message, shapes, self.rank, comm, algorithm, background)


class Matrix(NamedTuple):
    """A member of a bucket and its factors, r rows each: views of the arrays that hold those of all.

    place: in the message; owed (n, m); left (r, n), Pᵀ; right (r, m), Qᵀ summed over ranks; own (r, m), this rank's
    share of it; basis (r, m), orthonormal rows: the Qᵀ that the next step begins with.
    """

    place: slice
    owed: np.ndarray
    left: np.ndarray
    right: np.ndarray
    own: np.ndarray
    basis: np.ndarray


class Factored:
    """The sum of low-rank approximations, on every rank.

    The same bits on each, whatever its processor and its BLAS: what comes out of a sum is worked on by compiled loops
    alone, whose order of operations is fixed. BLAS would also start threads, of which every rank of a node has its own.
    """

    def __init__(
        self,
        message: Message,
        shapes: list[tuple[int, ...]],
        rank: int,
        comm: MPI.Intracomm,
        algorithm: str,
        background: bool,
    ) -> None:
        self.message, self.part = message, (0, message.bucket.size)
        places, sizes, plain = [], [], []
        for (_, start, stop), shape in zip(message.bucket.spans(), shapes, strict=True):
            n, m = (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, stop - start)
            if rank * (n + m) < n * m:
                places.append(slice(start, stop))
                sizes.append((n, m))
            else:
                plain.append(slice(start, stop))
        lefts, rights = [(rank, n) for n, _ in sizes], [(rank, m) for _, m in sizes]
        dtype = message.rows.dtype
        self._owed = Owed(count(sizes), dtype)
        self._first = np.zeros(count(lefts) + sum(place.stop - place.start for place in plain), dtype)
        self._lefts, rest = self._first[: count(lefts)], self._first[count(lefts) :]
        self._plain = list(zip(plain, views(rest, [(place.stop - place.start,) for place in plain]), strict=True))
        self._second, self._own, bases = (np.zeros(count(rights), dtype) for _ in range(3))
        flats = (
            (self._owed.values, sizes),
            (self._lefts, lefts),
            *((flat, rights) for flat in (self._second, self._own, bases)),
        )
        parts = (views(flat, shapes) for flat, shapes in flats)
        self._matrices = [Matrix(*found) for found in zip(places, *parts, strict=True)]
        random = np.random.default_rng(0)
        for one in self._matrices:
            one.basis[:] = random.standard_normal(one.basis.shape)
            orthonormalise(one.basis)
        self._sums, self._products = (
            hc.plan("allreduce", flat, op="sum", algorithm=algorithm, out=flat, comm=comm, background=background)
            for flat in (self._first, self._second)
        )

    def start(self) -> None:
        """Send P, and what is summed as it is."""
        self.message.close()
        flat, weight = self.message.flat, self.message.weight
        self._lefts.fill(0)
        if weight:
            factor = self._owed.factor(weight)
            for one in self._matrices:
                fold_and_multiply(one.owed, factor, flat[one.place].reshape(one.owed.shape), one.basis, one.left)
        for place, copy in self._plain:
            copy[:] = flat[place]
        self._sums.start()

    def turn(self) -> None:
        """Send Q; take what is sent off what is owed."""
        self._sums.wait()
        self._second.fill(0)
        weight = self.message.weight
        if np.isfinite(self._lefts).all():
            for one in self._matrices:
                orthonormalise(one.left)
                if weight:
                    add_rows(one.left, one.owed, one.right)
        else:
            self._second.fill(np.nan)
        self._own[:] = self._second
        self._products.start()
        if weight:
            for one in self._matrices:
                add_product(one.left, one.own, -1.0, one.owed)

    def wait(self) -> np.ndarray:
        self._products.wait()
        total = self.message.flat
        finite = np.isfinite(self._second).all()
        for one in self._matrices:
            matrix = total[one.place].reshape(one.owed.shape)
            matrix.fill(0.0 if finite else np.nan)
            if finite:
                add_product(one.left, one.right, 1.0, matrix)
                if one.right.any():  # of a matrix of zeros the next step can learn nothing
                    one.basis[:] = one.right
                    orthonormalise(one.basis)
        if not finite:
            self._owed.values.fill(0)
        for place, copy in self._plain:
            total[place] = copy
        return total


def count(shapes: list[tuple[int, int]]) -> int:
    return sum(map(prod, shapes))


def views(flat: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Arrays of these shapes, one after another in ``flat``."""
    ends = np.cumsum([prod(shape) for shape in shapes]).tolist()
    return [flat[end - prod(shape) : end].reshape(shape) for shape, end in zip(shapes, ends, strict=True)]


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def fold_and_multiply(owed, factor, message, basis, left):
    """owed ← factor·owed + message; left ← basis·owedᵀ, in any order of summation: all of this is the rank's own."""
    for i in range(owed.shape[0]):
        row = owed[i]
        for j in range(row.size):
            row[j] = factor * row[j] + message[i, j]
        for k in range(basis.shape[0]):
            along = basis[k]
            dot = row.dtype.type(0)
            for j in range(row.size):
                dot += along[j] * row[j]
            left[k, i] = dot


@njit(nogil=True, cache=True, error_model="numpy")
def add_rows(left, owed, right):
    """right ← right + left·owed."""
    for i in range(owed.shape[0]):
        for k in range(left.shape[0]):
            times = left[k, i]
            for j in range(owed.shape[1]):
                right[k, j] += times * owed[i, j]


@njit(nogil=True, cache=True, error_model="numpy")
def add_product(left, right, sign, matrix):
    """matrix ← matrix + sign·leftᵀ·right."""
    for i in range(matrix.shape[0]):
        for k in range(left.shape[0]):
            times = matrix.dtype.type(sign * left[k, i])
            for j in range(matrix.shape[1]):
                matrix[i, j] += times * right[k, j]


@njit(nogil=True, cache=True, error_model="numpy")
def orthonormalise(rows):
    """Make the r rows orthonormal, in place, by Gram and Schmidt's process, twice; r is at most their length.

    A row in the span of those before it, such as zeros, is replaced: what it stands for may be of use another time.
    """
    for k in range(rows.shape[0]):
        row = rows[k]
        shrink(row)
        before = norm(row)
        remove(rows, k)
        if norm(row) <= 100 * np.finfo(row.dtype).eps * before:
            for i in range(row.size):
                row[i] = ((i + 1) * 40503 + k * 2503) % 65521 / 65521 - 0.5
            remove(rows, k)
        scale(row)
        remove(rows, k)
        scale(row)


@njit(nogil=True, cache=True, error_model="numpy")
def shrink(row):
    """Divide by the largest magnitude, so that squares neither overflow nor vanish."""
    peak = row.dtype.type(0)
    for i in range(row.size):
        peak = max(peak, abs(row[i]))
    if peak > 0:
        for i in range(row.size):
            row[i] /= peak


@njit(nogil=True, cache=True, error_model="numpy")
def norm(row):
    total = 0.0
    for i in range(row.size):
        total += np.float64(row[i]) ** 2
    return np.sqrt(total)


@njit(nogil=True, cache=True, error_model="numpy")
def remove(rows, k):
    """Take off row k what it has of the rows before it, one after another; these are orthonormal."""
    row = rows[k]
    for other in range(k):
        dot = 0.0
        for i in range(row.size):
            dot += np.float64(rows[other, i]) * row[i]
        for i in range(row.size):
            row[i] -= row.dtype.type(dot) * rows[other, i]


@njit(nogil=True, cache=True, error_model="numpy")
def scale(row):
    inverse = 1.0 / norm(row)
    for i in range(row.size):
        row[i] = row.dtype.type(inverse * row[i])
