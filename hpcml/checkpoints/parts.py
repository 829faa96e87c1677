"""Who writes what: the arrays that the ranks have together, and this rank's pieces of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hpcml.checkpoints.dtypes import name_of
from hpcml.collectives.arrays import host_array
from hpcml.collectives.errors import ranks_phrase


class Slice(NamedTuple):
    """This rank's part of an array that is spread over the ranks.

    ``data`` are the elements ``start`` … ``start + data.size`` of the array of that ``shape``, flattened in C order.
    The ranks' slices have each element once; a rank that has none passes an empty slice, or leaves the name out.
    """

    data: np.ndarray
    start: int
    shape: tuple[int, ...]


class Entry(NamedTuple):
    """What all ranks together have under one name. ``dtype`` is a name of `hpcml.checkpoints.dtypes`."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class Piece(NamedTuple):
    """Elements ``start`` … ``start + length`` of the flattened array ``name``."""

    name: str
    start: int
    length: int


class Given(NamedTuple):
    """What one rank has under a name: an array that all ranks have (``part`` is None), or a slice (start, length)."""

    entry: Entry
    itemsize: int
    part: tuple[int, int] | None


def described(arrays: Mapping[str, Any]) -> dict[str, Given]:
    """What this rank has, without the data. Raises TypeError and ValueError for what a checkpoint cannot hold."""
    if not isinstance(arrays, Mapping):
        raise TypeError(f"arrays is a {type(arrays).__name__}; expected a dict of arrays or slices by name")
    return {name: _given(name, value) for name, value in arrays.items()}


def _given(name: str, value: Any) -> Given:
    if not isinstance(name, str):
        raise TypeError(f"arrays has the key {name!r}; expected strings")
    array = host_array(value.data if isinstance(value, Slice) else value, repr(name))
    try:
        dtype = name_of(array.dtype)
    except TypeError as error:
        raise TypeError(f"{name!r}: {error}") from None
    if not isinstance(value, Slice):
        return Given(Entry(dtype, array.shape), array.dtype.itemsize, None)
    entry, start = Entry(dtype, tuple(int(n) for n in value.shape)), int(value.start)
    if start < 0 or start + array.size > entry.size:
        raise ValueError(f"{name!r}: a slice of {array.size} elements from {start} on does not lie within {entry}")
    return Given(entry, array.dtype.itemsize, (start, array.size))


class Layout(NamedTuple):
    """What there is in a checkpoint, by name, sorted; and the pieces that this rank writes."""

    entries: dict[str, Entry]
    pieces: list[Piece]


def laid_out(ranks: Sequence[Mapping[str, Given]], rank: int) -> Layout:
    """The layout of what all ``ranks`` have described, for this ``rank``.

    An array that every rank has is written by all of them: the arrays are laid end to end, in the order of their names,
    and cut into even parts. A slice is written by the rank that has it. Raises ValueError, the same on every rank,
    where the ranks' arrays do not fit together.
    """
    names = sorted({name for given in ranks for name in given})
    given = {name: [one.get(name) for one in ranks] for name in names}
    entries = {name: _agreed(name, given[name]) for name in names}
    whole = {name: itemsize for name in names if (itemsize := _itemsize_where_whole(name, given[name]))}
    pieces = _even_parts({name: entries[name].size for name in whole}, whole, rank, len(ranks))
    for name in names:
        if name not in whole:
            _check_tiling(name, entries[name], given[name])
            mine = given[name][rank]
            if mine is not None and mine.part is not None and mine.part[1]:
                pieces.append(Piece(name, *mine.part))
    return Layout(entries, pieces)


def _agreed(name: str, given: Sequence[Given | None]) -> Entry:
    found: dict[Entry, list[int]] = {}
    for rank, one in enumerate(given):
        if one is not None:
            found.setdefault(one.entry, []).append(rank)
    if len(found) > 1:
        said = ", ".join(f"{entry} on {ranks_phrase(ranks)}" for entry, ranks in found.items())
        raise ValueError(f"the ranks have different arrays {name!r}: {said}")
    return next(iter(found))


def _itemsize_where_whole(name: str, given: Sequence[Given | None]) -> int:
    """Bytes of an element of an array that every rank has whole; 0 for one of slices."""
    whole = [rank for rank, one in enumerate(given) if one is not None and one.part is None]
    if not whole:
        return 0
    if len(whole) < len(given):
        others = ranks_phrase(sorted(set(range(len(given))) - set(whole)))
        raise ValueError(
            f"{name!r} is an array on {ranks_phrase(whole)} and not on {others}: pass the same array on every rank, or "
            "on each a Slice of what it has"
        )
    return given[0].itemsize  # type: ignore[union-attr]


def _even_parts(sizes: Mapping[str, int], itemsizes: Mapping[str, int], rank: int, ranks: int) -> list[Piece]:
    total = sum(size * itemsizes[name] for name, size in sizes.items())
    edges = total * rank // ranks, total * (rank + 1) // ranks
    pieces, offset = [], 0
    for name, size in sizes.items():
        itemsize = itemsizes[name]
        first, last = (min(max(-((offset - edge) // itemsize), 0), size) for edge in edges)
        if last > first:
            pieces.append(Piece(name, first, last - first))
        offset += size * itemsize
    return pieces


def _check_tiling(name: str, entry: Entry, given: Sequence[Given | None]) -> None:
    """Raise ValueError unless the ranks' slices have each element once."""
    parts = sorted((*one.part, rank) for rank, one in enumerate(given) if one is not None and one.part and one.part[1])
    reached, before = 0, -1
    for start, count, rank in [*parts, (entry.size, 0, -1)]:
        if start < reached:
            raise ValueError(
                f"{name!r}, {entry}: elements {start} to {min(reached, start + count) - 1} are in the slices of both "
                f"{ranks_phrase([before])} and {ranks_phrase([rank])}; each element belongs to one"
            )
        if start > reached:
            raise ValueError(f"{name!r}, {entry}: elements {reached} to {start - 1} are in the slice of no rank")
        reached, before = start + count, rank
