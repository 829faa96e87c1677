"""LIBSVM (svmlight) text: ``label index:value index:value ... # comment``, one row per line, indices rising.

Each rank parses the lines of its own range of bytes. The rows are given as dense float32.
"""

from __future__ import annotations

import os
import re

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.data.labels import number_labels, settle_labels
from hpcml.data.share import count_bytes, line_blocks, line_number, share
from hpcml.data.table import Column, DataError, Schema, Table

ROW = re.compile(rb"\s*[^\s:]+(\s+\d+:[^\s:]+)*\s*")


def is_libsvm(head: bytes) -> bool:
    """Whether the beginning of a file is LIBSVM text: its lines are rows of it, and one at least has a feature."""
    lines = [line.split(b"#")[0] for line in head.split(b"\n")[:20]]
    lines = [line for line in lines if line.strip()]
    return any(b":" in line for line in lines) and all(ROW.fullmatch(line) for line in lines)


def read_libsvm(path: str, comm: MPI.Comm, trained: Schema | None = None) -> Table:
    """This rank's lines of a LIBSVM file, numbers (rows, features) float32. Collective.

    The number of features is the highest index of all ranks, or what the trained model has; an index 0
    anywhere tells that they count from 0.

    Raises CollectiveError for a line that is no row of this format, and for an index that the model does not
    know.
    """
    with hc.all_or_none(comm):
        start, stop = share(count_bytes(path), comm.rank, comm.size)
        labels, counts, indices, values = read_lines(path, start, stop)
    lowest = comm.allreduce(int(indices.min(initial=1)), MPI.MIN)
    highest = comm.allreduce(int(indices.max(initial=0)), MPI.MAX)
    rows = comm.allgather(len(counts))
    if sum(rows) == 0:
        raise hc.CollectiveError(f"{path}: the file is empty; lines 'label index:value ...' were expected")
    if trained is None:
        base = min(1, lowest)
        width = highest - base + 1
        columns = tuple(Column(f"feature {i + base}") for i in range(width))
        trained = Schema(columns, first_index=base)
    base, width = trained.first_index, len(trained.columns)
    if lowest < base or highest - base >= width:
        raise hc.CollectiveError(
            f"{path}: has feature indices up to {highest}; the model knows {width}, from {base} to {base + width - 1}"
        )
    with hc.all_or_none(comm):
        numbers = _dense(path, counts, indices - base, values, width)
    return Table(
        source=path,
        schema=trained,
        numbers=numbers,
        words=(),
        labels=settle_labels(number_labels(labels), comm, path),
        first=sum(rows[: comm.rank]),
        total=sum(rows),
    )


def read_lines(path: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The lines that begin in the bytes [start, stop): labels (rows,), features per row (rows,), and the
    indices (int64) and values (float64) of all features, row after row. Raises DataError with file and line."""
    parts = [(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for offset, block in line_blocks(path, start, stop):
        lines = block.split(b"\n")
        if b"#" in block:
            lines = [line.split(b"#")[0] for line in lines]
        rows = [line for line in lines if line.strip()]
        counts = np.fromiter((line.count(b":") for line in rows), np.int64, len(rows))
        ends = np.cumsum(2 * counts + 1)
        tokens = b" ".join(rows).replace(b":", b" ").split()
        # One label and two numbers per colon: where the count or the parse fails, a line is not of this form.
        try:
            numbers = np.array(tokens, dtype=np.float64)
        except ValueError:
            numbers = np.empty(0)
        heads = ends - 2 * counts - 1
        if len(numbers) != (ends[-1] if len(ends) else 0) or not np.isfinite(numbers).all():
            raise _first_error(path, offset, lines)
        pairs = np.delete(numbers, heads).reshape(-1, 2)
        indices = pairs[:, 0].astype(np.int64)
        if not np.array_equal(indices, pairs[:, 0]) or not _rising(indices, counts):
            raise _first_error(path, offset, lines)
        parts.append((numbers[heads], counts, indices, pairs[:, 1]))
    labels, counts, indices, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    return labels, counts, indices, values


def _rising(indices: np.ndarray, counts: np.ndarray) -> bool:
    """Whether every row's indices rise; between the last of a row and the first of the next they need not."""
    rises = np.ones(len(indices) + 1, bool)
    rises[1:-1] = np.diff(indices) > 0
    rises[np.cumsum(counts)] = True
    return bool(rises.all() and (indices >= 0).all())


def _first_error(path: str, offset: int, lines: list[bytes]) -> DataError:
    """What is wrong with the first of these lines that is not a row."""
    for i, line in enumerate(lines):
        if what := _complaint(line):
            return DataError(f"{path}, line {line_number(path, offset) + i}: {what}")
    return DataError(f"{path}: not LIBSVM text; lines 'label index:value ...' were expected")


def _complaint(line: bytes) -> str | None:
    fields = line.decode("utf-8", "replace").split()
    last = -1
    for position, field in enumerate(fields):
        index, colon, value = field.rpartition(":")
        if position > 0 and not (colon and index.isdigit()):
            return f"found {field!r}, where index:value was expected"
        try:
            finite = np.isfinite(float(value))
        except ValueError:
            finite = False
        if not finite or (position == 0 and colon):
            expected = "index:value" if position else "a label"
            return f"found {field!r}, where {expected} of finite numbers was expected"
        if position > 0 and int(index) <= last:
            return f"index {index} comes after index {last}; indices must rise along a line"
        last = int(index) if position > 0 else -1
    return None


def _dense(path: str, counts: np.ndarray, indices: np.ndarray, values: np.ndarray, width: int) -> np.ndarray:
    nbytes = 4 * len(counts) * width
    if nbytes > os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise DataError(
            f"{path}: {len(counts)} rows of {width} features take {nbytes / 2**30:.0f} GiB when dense, "
            "which is more than this node has free; use more nodes"
        )
    numbers = np.zeros((len(counts), width), np.float32)
    numbers[np.repeat(np.arange(len(counts)), counts), indices] = values
    return numbers
