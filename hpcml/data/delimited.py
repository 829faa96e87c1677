"""CSV and TSV files: each rank parses the lines of its own range of bytes.

The file is cut at line ends, so a line break within a quoted field cannot be told from the end of a row; it
is refused with an error. Blank lines are skipped.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from math import isfinite

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.data.labels import MAX_LABELS, settle_labels
from hpcml.data.layout import MISSING, Layout, decode, find_layout, is_number
from hpcml.data.share import count_bytes, line_blocks, line_number, share
from hpcml.data.table import DataError, Options, Schema, Table, Words

MAX_CATEGORIES = 10_000


def read_delimited(path: str, options: Options, comm: MPI.Comm, trained: Schema | None = None) -> Table:
    """This rank's lines of a CSV or TSV file. Collective; every rank raises
    `hpcml.collectives.CollectiveError` for a ragged file, a field that is no number in a column of numbers, a
    missing label, an absent column."""
    layout: Layout | None = None
    with hc.all_or_none(comm):
        if comm.rank == 0:
            layout = find_layout(path, options, trained)
    layout = comm.bcast(layout)
    assert layout is not None
    with hc.all_or_none(comm):
        numbers, words, labels = read_lines(layout, comm.rank, comm.size)
    rows = comm.allgather(len(numbers))
    if sum(rows) == 0:
        raise hc.CollectiveError(f"{path}: there is no row below the header")
    return Table(
        source=path,
        schema=layout.schema,
        numbers=numbers,
        words=words,
        labels=settle_labels(labels, comm, path),
        first=sum(rows[: comm.rank]),
        total=sum(rows),
    )


def read_lines(layout: Layout, rank: int, size: int) -> tuple[np.ndarray, tuple[Words, ...], Words | None]:
    """Part `rank` of `size` of the file, local: numbers (rows, number columns) float64, string columns,
    labels.

    Raises DataError, with file, line and column.
    """
    if count_bytes(layout.path) != layout.nbytes:
        raise DataError(f"{layout.path}: has {count_bytes(layout.path)} bytes here, {layout.nbytes} on rank 0")
    start, stop = (layout.begin + cut for cut in share(layout.nbytes - layout.begin, rank, size))
    numbers = [np.empty((0, len(layout.number_fields)))]
    words = [Wordbook(layout.names[field], MAX_CATEGORIES) for field in layout.word_fields]
    labels = Wordbook("target", MAX_LABELS)
    for offset, nbytes in line_blocks(layout.path, start, stop):
        block = Block(layout, offset, nbytes)
        matrix = block.matrix() if not words else None
        if matrix is not None:
            numbers.append(matrix[:, layout.number_fields])
            if layout.target is not None:
                labels.extend(block.split_off(layout.target))
            continue
        columns = block.columns()
        numbers.append(block.numbers(columns))
        for book, field in zip(words, layout.word_fields, strict=True):
            book.extend("?" if word in MISSING else word for word in map(str.strip, columns[field]))
        if layout.target is not None:
            labels.extend(block.labels(columns[layout.target]))
    found = labels.words() if layout.target is not None else None
    return np.concatenate(numbers), tuple(book.words() for book in words), found


class Wordbook:
    """Strings as they come, coded by the order of their first appearance."""

    def __init__(self, name: str, limit: int) -> None:
        self.name, self.limit = name, limit
        self.codes: list[np.ndarray] = [np.empty(0, np.int32)]
        self.code: defaultdict[str, int] = defaultdict()
        self.code.default_factory = self.code.__len__

    def extend(self, words) -> None:
        self.codes.append(np.fromiter(map(self.code.__getitem__, words), np.int32))
        if len(self.code) > self.limit:
            raise DataError(
                f"column {self.name!r} has more than {self.limit} distinct values; "
                "a label or a category has few: drop the column, or choose another target"
            )

    def words(self) -> Words:
        return Words(np.concatenate(self.codes), tuple(self.code))


class Block:
    """Some consecutive lines of a file, and where they stand in it."""

    def __init__(self, layout: Layout, offset: int, nbytes: bytes) -> None:
        self.layout, self.offset = layout, offset
        self.lines = decode(layout.path, offset, nbytes)
        self.underscores, self.quotes = b"_" in nbytes, b'"' in nbytes

    def matrix(self) -> np.ndarray | None:
        """All fields as float64 (rows, width), by NumPy's parser in C; None where it cannot, or where there
        are quotes: then `columns` reads them, or tells why they cannot be read."""
        if self.quotes:
            return None
        if not any(map(str.strip, self.lines)):
            return np.empty((0, self.layout.width))
        try:
            found = np.loadtxt(self.lines, delimiter=self.layout.delimiter, comments=None, ndmin=2)
        except ValueError:
            return None
        return found if found.shape[1] == self.layout.width and np.isfinite(found).all() else None

    def split_off(self, field: int) -> list[str]:
        """One field of each row as it is written, of lines that `matrix` could read."""
        delimiter = self.layout.delimiter
        rows = (line for line in self.lines if line.strip())
        if field == self.layout.width - 1:
            return [row.rsplit(delimiter, 1)[-1].strip() for row in rows]
        return [row.split(delimiter, field + 1)[field].strip() for row in rows]

    def columns(self) -> list[tuple[str, ...]]:
        """The fields, column by column. Raises DataError for a line with too few or too many, or an open quote."""
        rows = self._rows()
        if not {len(row) for row in rows} <= {0, self.layout.width}:
            for i, row in enumerate(rows):
                if len(row) != self.layout.width and any(map(str.strip, row)):
                    found = f"found {len(row)} fields, expected {self.layout.width} as in the first row"
                    raise self.error(i, found)
        kept = [row for row in rows if len(row) == self.layout.width]
        return list(zip(*kept, strict=True)) if kept else [()] * self.layout.width

    def _rows(self) -> list[list[str]]:
        """The fields of every line, none for a blank one. Without quotes a plain split does, in half the time."""
        delimiter = self.layout.delimiter
        if not self.quotes:
            return [line.split(delimiter) if line and not line.isspace() else [] for line in self.lines]
        rows: list[list[str]] = []
        reader = csv.reader(self.lines, delimiter=delimiter, skipinitialspace=True)
        for row in reader:
            rows.append(row)
            if reader.line_num != len(rows):
                raise self.error(len(rows) - 1, "a quoted field does not end on its line")
        return rows

    def numbers(self, columns: list[tuple[str, ...]]) -> np.ndarray:
        """The columns of numbers, (rows, number columns) float64. Raises DataError at the first field that is none."""
        fields = self.layout.number_fields
        matrix = np.empty((len(columns[0]), len(fields)))
        for j, field in enumerate(fields):
            try:
                matrix[:, j] = np.fromiter(map(float, columns[field]), np.float64, len(matrix))
            except ValueError:
                matrix[:, j] = np.nan
            if self.underscores or not np.isfinite(matrix[:, j]).all():
                self._refuse(columns[field], field)
        return matrix

    def _refuse(self, column: tuple[str, ...], field: int) -> None:
        for row, text in enumerate(column):
            if not is_number(text) or not isfinite(float(text)):
                raise self.error(
                    self._line_of(row),
                    f"column {self.layout.names[field]!r} holds {text.strip()!r}, where a finite number was "
                    "expected; remove the row or fill the value in (--categorical COLUMN if the column holds "
                    "categories, --drop COLUMN to leave it out)",
                )

    def labels(self, column: tuple[str, ...]) -> list[str]:
        """The labels, stripped. Raises DataError where one is missing."""
        labels = [label.strip() for label in column]
        if "" in labels:
            raise self.error(self._line_of(labels.index("")), "the label is missing; remove the row")
        return labels

    def _line_of(self, row: int) -> int:
        """The line, from 0 within the block, of a row: blank lines are no rows."""
        return [i for i, line in enumerate(self.lines) if line.strip()][row]

    def error(self, line: int, what: str) -> DataError:
        number = line_number(self.layout.path, self.offset) + line
        return DataError(f"{self.layout.path}, line {number}: {what}")
