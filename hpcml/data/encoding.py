"""From a table to the matrix that a model sees: numbers are standardised, strings become one-hot columns, or codes.

What is learned here from the training rows of all ranks is saved with the model, so that prediction applies
the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.data.table import Schema, Table

CHUNK_ROWS = 4096
MOST_CODES = 255  # categories that trees tell apart in one column


@dataclass(frozen=True)
class Encoding:
    """mean, deviation: (number columns,) float64; a number x becomes (x - mean) / deviation.
    categories: for each string column its sorted categories, one column of 0 and 1 each. A string that is
    none of them, first seen at prediction, gives zeros in all of them. coded: a string column becomes one column of
    codes, the places in its categories and −1 for a string that is none of them, if they are not too many."""

    schema: Schema
    mean: np.ndarray
    deviation: np.ndarray
    categories: tuple[tuple[str, ...], ...]
    coded: bool = False

    @property
    def widths(self) -> list[int]:
        """How many columns of the encoded matrix each string column becomes."""
        return [1 if self.coded and len(known) <= MOST_CODES else len(known) for known in self.categories]

    @property
    def codes(self) -> tuple[int, ...]:
        """Which columns of the encoded matrix hold codes."""
        begins = len(self.mean) + np.cumsum([0, *self.widths])
        fits = [self.coded and len(known) <= MOST_CODES for known in self.categories]
        return tuple(int(begin) for begin, codes in zip(begins[:-1], fits, strict=True) if codes)

    @property
    def width(self) -> int:
        """The number of columns of the encoded matrix."""
        return len(self.mean) + sum(self.widths)

    @property
    def names(self) -> list[str]:
        """Of the columns of the encoded matrix: those of the table, and ``column=category`` of one-hot columns."""
        columns = self.schema.columns
        words = [column.name for column in columns if column.words]
        found = [column.name for column in columns if not column.words]
        for word, known in zip(words, self.categories, strict=True):
            codes = self.coded and len(known) <= MOST_CODES
            found += [word] if codes else [f"{word}={category}" for category in known]
        return found

    def encode(self, table: Table, dtype: str = "float32") -> np.ndarray:
        """(rows, width) of the given dtype: first the numbers, then the categories, columns in the table's order."""
        encoded = np.zeros((len(table), self.width), dtype)
        for rows in _chunks(len(table)):
            encoded[rows, : len(self.mean)] = (table.numbers[rows] - self.mean) / self.deviation
        begin = len(self.mean)
        for column, known, width in zip(table.words, self.categories, self.widths, strict=True):
            place = {category: i for i, category in enumerate(known)}
            places = np.array([place.get(category, -1) for category in column.categories] + [-1], np.int64)
            if begin in self.codes:
                encoded[:, begin] = places[column.codes]
            else:
                known_rows = np.flatnonzero(places[column.codes] >= 0)
                encoded[known_rows, begin + places[column.codes[known_rows]]] = 1
            begin += width
        return encoded

    def as_json(self) -> dict:
        """All but the arrays `mean` and `deviation`."""
        categories = [list(known) for known in self.categories]
        return {"schema": self.schema.as_json(), "categories": categories, "coded": self.coded}

    @classmethod
    def from_json(cls, fields: dict, mean: np.ndarray, deviation: np.ndarray) -> Encoding:
        categories = tuple(tuple(known) for known in fields["categories"])
        return cls(Schema.from_json(fields["schema"]), mean, deviation, categories, fields.get("coded", False))


def fit_encoding(
    table: Table, comm: MPI.Comm, scale: str | None = None, exact: bool = False, coded: bool = False
) -> Encoding:
    """Learn the encoding from the (training) rows of all ranks. Collective; the same on every rank.

    scale: "columns" gives each column of numbers mean 0 and deviation 1, "whole" all numbers together, which
    suits features of one unit (pixels: a rare one is not blown up), "none" leaves them. None: by the table's
    schema. A column that is constant is left with deviation 1. exact: sums are exact before they are rounded, so that
    they do not depend on how the rows are spread; takes memory for the numbers in float64. coded: see `Encoding`.
    """
    if scale is None:
        scale = "whole" if table.schema.one_unit else "columns"
    width = table.numbers.shape[1]
    mean, deviation = np.zeros(width), np.ones(width)
    if scale != "none" and width:
        whole = scale == "whole"
        mean = _column_means(table.numbers, np.zeros(width), 1, comm, whole, exact)
        # A second pass about the mean: sums of squares about 0 would cancel for columns far from 0.
        deviation = np.sqrt(_column_means(table.numbers, mean, 2, comm, whole, exact))
        deviation[deviation <= 1e-12 * np.abs(mean)] = 1.0
    own = [[column.categories[code] for code in np.unique(column.codes)] for column in table.words]
    union = [set().union(*ranks) for ranks in zip(*comm.allgather(own), strict=True)]
    return Encoding(table.schema, mean, deviation, tuple(tuple(sorted(found)) for found in union), coded)


def _column_means(
    numbers: np.ndarray, about: np.ndarray, power: int, comm: MPI.Comm, whole: bool, exact: bool
) -> np.ndarray:
    """The mean over all ranks' rows of ``(numbers - about) ** power``, (columns,) float64; whole: over columns too."""
    if exact:
        means = hc.allreduce((numbers - about) ** power, op="mean", comm=comm, reproducible=True, axis=0)
    else:
        sums = np.zeros(len(about) + 1)
        for rows in _chunks(len(numbers)):
            sums[:-1] += ((numbers[rows] - about) ** power).sum(axis=0, dtype=np.float64)
        sums[-1] = len(numbers)
        sums = hc.allreduce(sums, comm=comm)
        means = sums[:-1] / sums[-1]
    return np.full_like(means, means.mean()) if whole else means


def _chunks(count: int) -> list[slice]:
    """Row ranges that keep the float64 intermediates small."""
    return [slice(start, start + CHUNK_ROWS) for start in range(0, count, CHUNK_ROWS)]
