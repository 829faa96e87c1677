"""Features as bins: at most 255 intervals of each, the same on every rank and for any sharding of the rows.

Edges are quantiles of the rows of all ranks: of all of them up to ``SAMPLE`` rows, beyond that of about so many that a
hash of their global numbers picks. With m rows picked, the share of rows below an edge is off by more than ε with a
probability of at most 2·exp(−2mε²) (Dvoretzky, Kiefer, Wolfowitz; Massart 1990): 0.5 % at the default, once in 10⁴.

The picked values of a feature come together on one rank, which makes its edges.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from mpi4py import MPI
from numba import njit, uint64

from hpcml import collectives as hc
from hpcml.models.trees.quantisation import uniform

SAMPLE = 200_000
MOST_BINS = 255  # of values; one more is for what is missing


@dataclass(frozen=True)
class Edges:
    """How features become bins.

    ``cuts``: (cuts,) of all features, one after another, ascending within each; ``starts`` (d + 1,): where each
    begins. Bin b of a feature holds the values in (cut b−1, cut b]. ``categories[f]``: how many, 0 for numbers: the
    bins of a categorical feature are its codes. ``missing`` (d,) bool: whether the feature has missing values; their
    bin comes after the others.
    """

    cuts: np.ndarray
    starts: np.ndarray
    categories: np.ndarray
    missing: np.ndarray

    @property
    def features(self) -> int:
        return len(self.starts) - 1

    @property
    def bins(self) -> np.ndarray:
        """Bins of values (d,) of each feature, int64."""
        return np.where(self.categories > 0, self.categories, np.diff(self.starts) + 1)

    @property
    def width(self) -> int:
        """Bins that suffice for each feature, with what is missing."""
        return int((self.bins + self.missing).max(initial=1))

    def of(self, feature: int) -> np.ndarray:
        return self.cuts[self.starts[feature] : self.starts[feature + 1]]


@dataclass(frozen=True)
class Binned:
    """This rank's rows as bins: ``rows`` (n, d) uint8, and the same as ``columns`` (d, n): a partition reads one."""

    edges: Edges
    rows: np.ndarray
    columns: np.ndarray


def find_edges(
    X: np.ndarray,
    first: int,
    total: int,
    comm: MPI.Intracomm,
    most: int = MOST_BINS,
    categories: np.ndarray | None = None,
) -> Edges:
    """Edges for the rows of all ranks. Collective.

    X (n, d) float32 or float64 of this rank, whose row 0 is number ``first`` of ``total``; NaN is missing. categories:
    (d,), how many a categorical feature has, whose X are codes; 0 for numbers.
    """
    features = X.shape[1]
    categories = np.zeros(features, np.int64) if categories is None else categories
    picked = X
    if total > SAMPLE:
        chance = np.empty(len(X))
        uniform(first, np.uint64(0x5EED), chance)
        picked = X[chance < SAMPLE / total]
    owned = np.array_split(np.arange(features), comm.size)
    # Each feature's values, to the rank that makes its edges: they come as one array of rank 0's, then rank 1's, …
    sent = np.ascontiguousarray(picked.T).reshape(-1)
    values, counts = hc.alltoallv(sent, [len(part) * len(picked) for part in owned], comm=comm)
    mine = owned[comm.rank]
    edges = [_cuts(_column(values, counts, i, len(mine)), most, categories[f]) for i, f in enumerate(mine)]
    lengths = hc.allgather(np.array([len(cuts) for cuts in edges], np.int64), comm=comm)
    joined = hc.allgather(np.concatenate([np.empty(0), *edges]), comm=comm)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return with_missing(Edges(joined, starts, categories, np.zeros(features, np.bool_)), X, comm)


def with_missing(edges: Edges, X: np.ndarray, comm: MPI.Intracomm) -> Edges:
    """The edges with room for what is missing in the rows X of all ranks, besides what was before. Collective."""
    absent = np.isnan(X)
    coded = edges.categories > 0
    if coded.any():
        absent[:, coded] = ~(X[:, coded] >= 0)
    found = hc.allreduce(absent.any(axis=0).astype(np.uint8), op="max", comm=comm).astype(bool)
    return replace(edges, missing=edges.missing | found)


def _column(values: np.ndarray, counts: np.ndarray, feature: int, features: int) -> np.ndarray:
    """The values of one of this rank's features, as they came from each rank."""
    found, start = [values[:0]], 0
    for count in counts:
        length = count // features
        found.append(values[start + feature * length : start + (feature + 1) * length])
        start += count
    return np.concatenate(found)


def _cuts(values: np.ndarray, most: int, categories: int) -> np.ndarray:
    if categories:
        return np.empty(0)
    distinct, counts = _runs(np.sort(values))
    if len(distinct) < 2:
        return np.empty(0)
    ends = np.arange(1, len(distinct)) if len(distinct) <= most else _ends(counts, most)
    low, high = distinct[ends - 1], distinct[ends]
    middle = low / 2 + high / 2  # of the data's own type: a comparison with it is then the same everywhere
    return np.where((middle >= low) & (middle < high), middle, low).astype(np.float64)


@njit(nogil=True, cache=True)
def _runs(ordered):
    """The distinct numbers of an ordered array, and how often each is there; NaN, at its end, is left out."""
    distinct, counts = np.empty_like(ordered), np.empty(len(ordered), np.int64)
    found = 0
    for value in ordered:
        if value != value:
            break
        if found and distinct[found - 1] == value:
            counts[found - 1] += 1
        else:
            distinct[found], counts[found] = value, 1
            found += 1
    return distinct[:found].copy(), counts[:found].copy()


@njit(nogil=True, cache=True)
def _ends(counts, most):
    """Where to cut distinct values into at most ``most`` bins of about as many rows; a frequent value has its own."""
    left, bins = counts.sum(), most
    ends = np.empty(most, np.int64)
    found, held = 0, 0
    for i in range(len(counts) - 1):
        held += counts[i]
        fair = left / bins
        # The next value alone would fill a bin: close this one before it.
        if held >= fair or (counts[i + 1] >= fair and held >= fair / 2):
            ends[found] = i + 1
            found += 1
            left -= held
            held = 0
            bins -= 1
            if bins == 1:
                break
    return ends[:found]


def binned(X: np.ndarray, edges: Edges) -> Binned:
    """The bins of this rank's rows X (n, d). Local."""
    rows = np.empty(X.shape, np.uint8)
    columns = np.empty(X.shape[::-1], np.uint8)
    fill(X, edges.cuts, edges.starts, edges.categories, rows, columns)
    return Binned(edges, rows, columns)


TILE = 512  # rows that are read feature by feature while they are in the cache


@njit(nogil=True, cache=True)
def fill(X, cuts, starts, categories, rows, columns):
    """Bins of X into rows (n, d) and columns (d, n)."""
    n, d = X.shape
    padded = padded_cuts(cuts, starts, X.dtype)
    for low in range(0, n, TILE):
        high = min(low + TILE, n)
        bins_of_tile(X[low:high], padded, starts, categories, rows[low:high])
        for f in range(d):
            column = columns[f]
            for i in range(low, high):
                column[i] = rows[i, f]


@njit(nogil=True, cache=True)
def padded_cuts(cuts, starts, dtype):
    """The cuts of each feature (d, 256), and infinity beyond: a search needs not look where they end.

    As ``dtype`` they are rounded down: a number of that type is above the cut where it is above this.
    """
    padded = np.full((len(starts) - 1, 256), np.inf, dtype)
    for f in range(len(padded)):
        for i in range(starts[f], starts[f + 1]):
            place = i - starts[f]
            padded[f, place] = cuts[i]
            if padded[f, place] > cuts[i]:
                padded[f, place] = np.nextafter(padded[f, place], padded.dtype.type(-np.inf))
    return padded


@njit(nogil=True, cache=True)
def bins_of_tile(X, padded, starts, categories, rows):
    """Bins of some rows X into ``rows`` (at least as many, d); behind the others NaN, and codes of no category."""
    for f in range(X.shape[1]):
        own, count = padded[f], starts[f + 1] - starts[f]
        absent = np.uint8(categories[f] if categories[f] > 0 else count + 1)
        if categories[f] > 0:
            for i in range(len(X)):
                code = X[i, f]
                rows[i, f] = np.uint8(code) if code >= 0 and code < categories[f] else absent
        else:
            for i in range(len(X)):
                value = X[i, f]
                rows[i, f] = _place(own, value) if value == value else absent


@njit(inline="always")
def _place(cuts, value):
    """How many cuts (256, filled up with infinity) are below the value: a binary search without branches."""
    place = uint64(0)
    for half in (128, 64, 32, 16, 8, 4, 2, 1):
        place += uint64(half) if cuts[place + uint64(half - 1)] < value else uint64(0)
    return np.uint8(place)
