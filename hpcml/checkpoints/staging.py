"""The copy that training goes on from: memory that is allocated once and used again for every save."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hpcml.checkpoints.parts import Piece, Slice
from hpcml.collectives.arrays import host_array, new


class Stored(NamedTuple):
    """A piece, and at which byte it begins of what its rank has."""

    name: str
    start: int
    length: int
    offset: int


class Staging:
    """This rank's pieces, one after another, in memory of their own.

    Fresh pages cost more than the copy into them, so the memory is kept; it grows where a later save needs more.
    """

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def copy(self, pieces: Iterable[Piece], arrays: Mapping[str, Any]) -> tuple[np.ndarray, list[Stored]]:
        """The bytes of ``pieces``, as uint8[n], valid until the next call; and where each of them lies there."""
        parts = [(piece, _part(arrays[piece.name], piece)) for piece in pieces]
        nbytes = sum(part.nbytes for _, part in parts)
        if nbytes > self._memory.nbytes:
            self._memory = np.empty(0, np.uint8)  # the old memory goes before the new comes
            self._memory = new((nbytes,), np.dtype(np.uint8))
        stored, offset = [], 0
        for piece, part in parts:
            self._memory[offset : offset + part.nbytes] = part.view(np.uint8)
            stored.append(Stored(*piece, offset))
            offset += part.nbytes
        return self._memory[:nbytes], stored


def _part(value: Any, piece: Piece) -> np.ndarray:
    """The elements of ``piece``, flat and contiguous: a view, or a copy where the array is not contiguous."""
    if isinstance(value, Slice):
        return np.ascontiguousarray(host_array(value.data)).reshape(-1)
    array = host_array(value)
    start, stop = piece.start, piece.start + piece.length
    if array.flags.c_contiguous:
        return array.reshape(-1)[start:stop]
    row = array.size // len(array)
    first = start // row
    rows = np.ascontiguousarray(array[first : -(-stop // row)]).reshape(-1)
    return rows[start - first * row : stop - first * row]
