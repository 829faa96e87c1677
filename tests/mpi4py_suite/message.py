"""The memory that a caller of mpi4py names, as the one array of items that hpcml takes.

mpi4py names memory by a buffer, or by a list of a buffer, counts, displacements and an MPI data type, of which most may
be left out; `simple`, `vector` and `typed_vector` read these as mpi4py itself does. Where the items lie side by side
the array is the caller's memory. Where they do not, or the type has gaps, the array is a copy: `Message.pack` fills it
and `Message.unpack` brings it back, item by item, by messages that a rank sends to itself.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

SELF = MPI.Intracomm(MPI.COMM_SELF)  # the library's own, whatever is put in the place of MPI.COMM_SELF later
BYTES = np.dtype(np.uint8)


class NotCarried(Exception):
    """hpcml has no notion of what was named."""


class Block(NamedTuple):
    """``count`` items of ``datatype`` from byte ``start`` of the buffer on."""

    count: int
    start: int
    datatype: MPI.Datatype

    @property
    def nbytes(self) -> int:
        return self.count * self.datatype.Get_size()


class Message:
    """``array``: the items of all blocks, in order, of one data type and one axis; ``counts``: those of each block."""

    def __init__(self, buffer: Any, blocks: Sequence[Block], dtype: np.dtype):
        # What mpi4py's tests show as GPU memory, where there is no GPU, is the host's.
        self._memory = None if _is_bottom(buffer) else np.frombuffer(MPI.buffer(buffer), np.uint8)
        self._blocks = blocks
        self.counts = [block.nbytes // dtype.itemsize for block in blocks]
        self.is_copy = self._memory is None or not _is_one_run(blocks)
        if self._memory is None and any(block.start for block in blocks):
            raise NotCarried("displacements from MPI.BOTTOM")
        # Whether MPI could fold it, and NumPy knows the type.
        self.is_basic = all(b.datatype.is_predefined and b.datatype.Get_size() == dtype.itemsize for b in blocks)
        nbytes = sum(block.nbytes for block in blocks)
        if self.is_copy:
            self.array = np.empty(nbytes, np.uint8).view(dtype)
        else:
            start = blocks[0].start
            self.array = self._memory[start : start + nbytes].view(dtype)

    def pack(self) -> None:
        """Bring the caller's items into the array."""
        for theirs, mine in self._pairs():
            SELF.Sendrecv(theirs, 0, 0, mine, 0, 0)

    def unpack(self) -> None:
        """Bring the array's items into the caller's memory."""
        for theirs, mine in self._pairs():
            SELF.Sendrecv(mine, 0, 0, theirs, 0, 0)

    def part(self, block: int) -> np.ndarray:
        """The items of one block: a view."""
        end = sum(self.counts[: block + 1])
        return self.array[end - self.counts[block] : end]

    def _pairs(self) -> Iterator[tuple[list, list]]:
        """Each block in the caller's memory, beside its bytes in the copy."""
        ends = accumulate(block.nbytes for block in self._blocks)
        copied = self.array.view(np.uint8)
        for block, end in zip(self._blocks, ends, strict=True):
            if self.is_copy and block.nbytes:
                theirs = MPI.BOTTOM if self._memory is None else self._memory[block.start :]
                mine = copied[end - block.nbytes : end]
                yield [theirs, block.count, block.datatype], [mine, block.nbytes, MPI.PACKED]


def simple(named: Any, blocks: int = 1) -> Message:
    """Of ``(buffer, count, displacement, datatype)``: as many blocks of ``count`` items each."""
    buffer, count, displacement, datatype = _taken_apart(named, nested=(tuple, list))
    datatype = _datatype(buffer, datatype)
    extent = datatype.Get_extent()[1]
    start = (displacement or 0) * extent
    if count is None:
        count, rest = divmod(MPI.buffer(buffer).nbytes - start, extent * blocks)
        if rest:
            raise ValueError(f"{rest} bytes are left over where {blocks} blocks of whole items were expected")
    cut = [Block(count, start + i * count * extent, datatype) for i in range(blocks)]
    return Message(buffer, cut, _item_type(datatype))


def vector(named: Any, blocks: int) -> Message:
    """Of ``(buffer, counts, displacements, datatype)``, with a count and a displacement for each block."""
    buffer, counts, displacements, datatype = _taken_apart(named, nested=(tuple,))
    datatype = _datatype(buffer, datatype)
    extent = datatype.Get_extent()[1]
    if counts is None:
        items = MPI.buffer(buffer).nbytes // extent
        counts = [items // blocks + (items % blocks > i) for i in range(blocks)]
    elif np.ndim(counts) == 0:
        counts = [counts] * blocks
    if displacements is None:
        displacements = [0, *accumulate(counts)][:blocks]
    elif np.ndim(displacements) == 0:
        displacements = [displacements * i for i in range(blocks)]
    cut = [Block(int(n), int(d) * extent, datatype) for n, d in zip(counts, displacements, strict=True)]
    return Message(buffer, cut, _item_type(datatype))


def typed_vector(named: Any, blocks: int) -> Message:
    """Of ``(buffer, counts, displacements in bytes, datatypes)``: bytes, as each block has a data type of its own."""
    buffer, *placed, datatypes = named
    counts, displacements = (placed[0] if len(placed) == 1 else placed) or ([1] * blocks, [0] * blocks)
    cut = [Block(int(n), int(d), t) for n, d, t in zip(counts, displacements, datatypes, strict=True)]
    return Message(buffer, cut, BYTES)


def _taken_apart(named: Any, nested: tuple[type, ...]) -> tuple[Any, Any, Any, Any]:
    """Buffer, count(s), displacement(s) and data type; None for what is left out."""
    if not isinstance(named, (list, tuple)):
        return named, None, None, None
    if len(named) == 4:
        return tuple(named)
    buffer, count, datatype = (*named, None)[:3]
    if len(named) == 2 and isinstance(count, (MPI.Datatype, str)):
        count, datatype = None, count
    displacement = None
    if isinstance(count, nested):
        count, displacement = count
    return buffer, count, displacement, datatype


def _datatype(buffer: Any, datatype: MPI.Datatype | str | None) -> MPI.Datatype:
    if isinstance(datatype, MPI.Datatype):
        return datatype
    return MPI.Datatype.fromcode(_buffer_type(buffer).char if datatype is None else datatype)


def _buffer_type(buffer: Any) -> np.dtype:
    """The type of a buffer's items, from the first of the protocols that it has, in mpi4py's order."""
    if isinstance(buffer, np.ndarray):
        return buffer.dtype
    try:
        return np.dtype(memoryview(buffer).format)
    except TypeError:
        pass
    if not hasattr(buffer, "__dlpack__"):
        return np.dtype(buffer.__cuda_array_interface__["typestr"])
    # NumPy's own from_dlpack does not know long double. The capsule holds a DLTensor, in which the data type comes
    # after a pointer, a device (two int32) and the number of axes (int32).
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    capsule = buffer.__dlpack__()
    code, bits, lanes = struct.unpack("=BBH", ctypes.string_at(pointer_of(capsule, b"dltensor") + 20, 4))
    kind = {0: "i", 1: "u", 2: "f" if lanes == 1 else "c", 5: "c", 6: "b"}[code]
    return np.dtype(f"{kind}{bits * lanes // 8}")


def _item_type(datatype: MPI.Datatype) -> np.dtype:
    """The basic type of which a data type consists; bytes where these are several, or unknown to NumPy."""
    if datatype.is_predefined:
        found = np.dtype(datatype.typechar) if datatype.typechar and datatype.typechar in np.typecodes["All"] else BYTES
        return found if found.itemsize == datatype.Get_size() else BYTES
    base, _, details = datatype.decode()
    found = {_item_type(part) for part in details.get("datatypes", [base])}
    return found.pop() if len(found) == 1 else BYTES


def _is_one_run(blocks: Sequence[Block]) -> bool:
    """Whether the items of all blocks lie side by side, without gaps."""
    if not all(b.datatype.is_predefined and b.datatype.Get_extent() == (0, b.datatype.Get_size()) for b in blocks):
        return False
    return all(a.start + a.nbytes == b.start for a, b in zip(blocks, blocks[1:], strict=False))


def _is_bottom(buffer: Any) -> bool:
    return buffer is None or buffer is MPI.BOTTOM
