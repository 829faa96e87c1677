"""A checkpoint that was found whole: its facts, and its arrays to read from, by any rank, in any parts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpcml.checkpoints import places, rankfile
from hpcml.checkpoints.dtypes import dtype_of
from hpcml.checkpoints.errors import CheckpointError
from hpcml.checkpoints.manifest import Manifest
from hpcml.checkpoints.parts import Entry
from hpcml.collectives.arrays import check_out


class Located(NamedTuple):
    """Elements ``start`` … ``start + length`` of an array: from byte ``offset`` of the data of that rank's file on."""

    start: int
    length: int
    rank: int
    offset: int


class Checkpoint:
    """What `Store.latest` found.

    Attributes: ``step``; ``facts``, the dict that was saved, as JSON gives it back (tuples are lists, keys strings);
    ``names`` of the arrays, sorted.
    """

    def __init__(self, folder: Path, manifest: Manifest, indexes: Sequence[rankfile.Index]) -> None:
        """``indexes``: of the files of all ranks, in their order. Raises CheckpointError where elements are missing."""
        self.step, self.facts = manifest.step, manifest.facts
        self.names = sorted(manifest.arrays)
        self._folder, self._arrays, self._indexes = folder, manifest.arrays, indexes
        self._pieces: dict[str, list[Located]] = {name: [] for name in self.names}
        for rank, index in enumerate(indexes):
            for name, start, length, offset in index.pieces:
                self._pieces.setdefault(name, []).append(Located(start, length, rank, offset))
        for name, pieces in self._pieces.items():
            pieces.sort()
            stops = [0, *(piece.start + piece.length for piece in pieces)]
            if name not in manifest.arrays or [*(piece.start for piece in pieces), self._entry(name).size] != stops:
                raise CheckpointError(f"{folder} does not have each element of {name!r} once")
        self._last: tuple[tuple[int, int], memoryview] | None = None

    def dtype(self, name: str) -> np.dtype:
        """Raises KeyError, and CheckpointError where this machine does not have the data type."""
        return dtype_of(self._entry(name).dtype)

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises KeyError."""
        return self._entry(name).shape

    def read(self, name: str, out: np.ndarray | None = None, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The array of that name, or elements ``start`` … ``stop`` of it flattened in C order. Local.

        The result has the array's shape, or with ``start`` or ``stop`` is flat; it is a new array, or ``out``, which is
        of that shape and dtype. Checksums are compared once more.

        Raises KeyError where there is no such array, ValueError where ``out`` or the range does not fit it,
        CheckpointError where a file has changed since it was found whole, OSError where it cannot be read.

        Example, on any number of ranks, each of which wants its even part::

            size = math.prod(found.shape("w"))
            mine = found.read("w", start=size * rank // ranks, stop=size * (rank + 1) // ranks)
        """
        entry, dtype = self._entry(name), self.dtype(name)
        shape: tuple[int, ...] = entry.shape
        if start != 0 or stop is not None:
            stop = entry.size if stop is None else stop
            if not 0 <= start <= stop <= entry.size:
                raise ValueError(f"there are no elements {start} to {stop} of {name!r}: it is {entry}")
            shape = (stop - start,)
        result = np.empty(shape, dtype) if out is None else check_out(out, shape, dtype, f"out for {name!r}")
        flat = result if result.flags.c_contiguous else np.empty(shape, dtype)
        self._fill(self._pieces[name], start, dtype.itemsize, flat.reshape(-1).view(np.uint8).data)
        if flat is not result:
            result[...] = flat
        return result

    def _entry(self, name: str) -> Entry:
        if name not in self._arrays:
            raise KeyError(f"no array {name!r} in the checkpoint of step {self.step}; it has {', '.join(self.names)}")
        return self._arrays[name]

    def _fill(self, pieces: Sequence[Located], start: int, itemsize: int, target: memoryview) -> None:
        """Fill the bytes of ``target`` with the elements from ``start`` on."""
        number = bisect_right(pieces, start, key=lambda piece: piece.start) - 1
        filled = 0
        while filled < len(target):
            piece = pieces[number]
            skipped = (start - piece.start) * itemsize
            nbytes = min(piece.length * itemsize - skipped, len(target) - filled)
            self._read_bytes(piece.rank, piece.offset + skipped, target[filled : filled + nbytes])
            filled += nbytes
            start = piece.start + piece.length
            number += 1

    def _read_bytes(self, rank: int, offset: int, target: memoryview) -> None:
        """Fill ``target`` with the data of that rank's file from ``offset`` on: whole blocks, each compared."""
        index = self._indexes[rank]
        path = places.rank_file(self._folder, rank, len(self._indexes))
        stop = offset + len(target)
        with open(path, "rb") as file:
            for number in range(offset // index.block, -(-stop // index.block)):
                first, last = number * index.block, min((number + 1) * index.block, index.nbytes)
                if offset <= first and last <= stop:
                    rankfile.read_block(file, path, index, number, target[first - offset : last - offset])
                    continue
                block = self._block(file, path, rank, number)
                low, high = max(first, offset), min(last, stop)
                target[low - offset : high - offset] = block[low - first : high - first]

    def _block(self, file: Any, path: Path, rank: int, number: int) -> memoryview:
        """A block of which a part is wanted. It is kept: the next small array is likely in it, too."""
        if self._last is None or self._last[0] != (rank, number):
            self._last = (rank, number), rankfile.read_block(file, path, self._indexes[rank], number)
        return self._last[1]
