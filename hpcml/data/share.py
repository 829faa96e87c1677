"""Which part of a file a rank reads: rows by number, or bytes cut at the ends of lines."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from hpcml.data.table import DataError

# What the fields of a block take as Python strings should stay in the cache: with 4 MiB, a file of strings
# and numbers takes three times as long to parse.
BLOCK_NBYTES = 256 << 10


def share(total: int, rank: int, size: int) -> tuple[int, int]:
    """Rank `rank`'s part [start, stop) of `total` rows or bytes: consecutive, all of them, sizes differ by at
    most 1."""
    return total * rank // size, total * (rank + 1) // size


@contextmanager
def open_bytes(path: str) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed where it is gzip (by its first two bytes, whatever its name).

    Raises DataError, also within the block, for gzip data that are damaged or end too soon.
    """
    with gzip.open(path, "rb") if _is_gzip(path) else open(path, "rb") as file:
        try:
            yield file  # type: ignore[misc]
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path}: the gzip file is damaged or not complete: {error}") from None


def _is_gzip(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def count_bytes(path: str) -> int:
    """The number of bytes that `open_bytes` gives. A gzip file is decompressed once for it: its trailer only
    knows the size modulo 2^32, and only of its last member."""
    if not _is_gzip(path):
        return os.path.getsize(path)
    with open_bytes(path) as file:
        return sum(len(block) for block in iter(lambda: file.read(BLOCK_NBYTES), b""))


def line_blocks(path: str, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines: all lines that begin in the bytes [start, stop), with each block's offset.

    So the ranks' lines are those of the file, each once, wherever the cuts between the byte ranges fall; a
    rank whose range lies within one line has none.
    """
    with open_bytes(path) as file:
        if start > 0:
            file.seek(start - 1)
            file.readline()  # the rest of a line that began before; only its "\n" if one begins at `start`
        position = file.tell()
        while position < stop:
            block = file.read(min(BLOCK_NBYTES, stop - position))
            if not block:
                return
            if not block.endswith(b"\n"):
                block += file.readline()
            yield position, block
            position += len(block)


def line_number(path: str, offset: int) -> int:
    """The number, from 1, of the line that begins at byte `offset`. Reads the file up to there: for errors only."""
    number, left = 1, offset
    with open_bytes(path) as file:
        while left > 0 and (block := file.read(min(BLOCK_NBYTES, left))):
            number += block.count(b"\n")
            left -= len(block)
    return number
