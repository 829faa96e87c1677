"""The file of one rank: its data, and at the end an index of what they are and a checksum of every MiB of them.

    n bytes     the pieces' elements, one piece after another
    index       JSON: step, rank, ranks, nbytes (n), block, crc32 (of each block), pieces [name, start, length, offset]
    24 bytes    the length of the index, its CRC-32 (little-endian, 8 bytes each), and MAGIC

Every byte of it is covered: by MAGIC, by a checksum, or because the lengths have to add up to the file's.
"""

from __future__ import annotations

import json
import os
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from struct import Struct
from typing import BinaryIO

import numpy as np

from hpcml.checkpoints.errors import CheckpointError
from hpcml.checkpoints.staging import Stored
from hpcml.runs.wholefile import whole_file

MAGIC = b"hpcmlck1"
BLOCK_NBYTES = 1 << 20
BEGIN_NBYTES = 8 << 20  # with so much the disk is put to work
FOOTER = Struct("<2Q8s")


@dataclass(frozen=True)
class Index:
    """What is in the file: ``crc32`` has the checksum of each ``block`` bytes of the ``nbytes`` of data."""

    step: int
    rank: int
    ranks: int
    nbytes: int
    block: int
    crc32: list[int]
    pieces: list[Stored]


def write(path: Path, step: int, rank: int, ranks: int, data: np.ndarray, pieces: list[Stored]) -> None:
    """Write ``data`` (uint8[n]), whole or not at all. Raises OSError.

    A block's checksum is computed just before it is written, while it is in the caches. The disk is put to work on what
    is there as soon as there is enough of it, so that little is left to wait for in the end: that more than makes up
    for the checksums (benchmarks/results/checkpoint-mpich-2.txt).
    """
    sums, begun = [], 0
    with whole_file(path) as file:
        for start in range(0, data.nbytes, BLOCK_NBYTES):
            block = data[start : start + BLOCK_NBYTES].data
            sums.append(zlib.crc32(block))
            file.write(block)
            if file.tell() - begun >= BEGIN_NBYTES:
                with suppress(OSError):  # not every file system takes advice
                    os.posix_fadvise(file.fileno(), begun, file.tell() - begun, os.POSIX_FADV_DONTNEED)
                begun = file.tell()
        index = Index(step, rank, ranks, data.nbytes, BLOCK_NBYTES, sums, pieces)
        text = json.dumps(asdict(index), separators=(",", ":")).encode()
        file.write(text)
        file.write(FOOTER.pack(len(text), zlib.crc32(text), MAGIC))


def read_index(path: Path) -> Index:
    """The index alone. Raises CheckpointError where file, index or lengths are not in order, OSError."""
    with open(path, "rb") as file:
        return _index(file, path)


def _index(file: BinaryIO, path: Path) -> Index:
    end = file.seek(0, os.SEEK_END) - FOOTER.size
    if end < 0:
        raise CheckpointError(f"{path} is cut short: it has {end + FOOTER.size} bytes")
    file.seek(end)
    nbytes, checksum, magic = FOOTER.unpack(file.read(FOOTER.size))
    if magic != MAGIC or nbytes > end:
        raise CheckpointError(f"{path} is damaged, cut short, or not a file of a checkpoint")
    file.seek(end - nbytes)
    text = file.read(nbytes)
    if zlib.crc32(text) != checksum:
        raise CheckpointError(f"{path} is damaged: the checksum of its index is wrong")
    fields = json.loads(text)
    index = Index(**{**fields, "pieces": [Stored(*piece) for piece in fields["pieces"]]})
    if index.nbytes + nbytes != end:
        raise CheckpointError(f"{path} is damaged: {end - nbytes} bytes are before its index, which has {index.nbytes}")
    return index


def verified(path: Path) -> Index:
    """The index, after all data were read and found as they were written. Raises as `read_index`."""
    with open(path, "rb") as file:
        index = _index(file, path)
        for number in range(len(index.crc32)):
            read_block(file, path, index, number)
    return index


def read_block(file: BinaryIO, path: Path, index: Index, number: int, into: memoryview | None = None) -> memoryview:
    """Block ``number`` of the data, its checksum compared. Raises CheckpointError where it is wrong, OSError."""
    start = number * index.block
    view = memoryview(bytearray(min(index.block, index.nbytes - start))) if into is None else into
    file.seek(start)
    if file.readinto(view) != len(view) or zlib.crc32(view) != index.crc32[number]:  # type: ignore[attr-defined]
        raise CheckpointError(f"{path} is damaged: bytes {start} to {start + len(view) - 1} of its data have changed")
    return view
