"""A data set as the readers give it: every rank holds a run of consecutive rows, features not yet encoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np


class DataError(ValueError):
    """A data set that cannot be read as it was asked for: what was found, what was expected, what to do."""


class Column(NamedTuple):
    """One feature of a data set. ``words`` tells a column of strings (one-hot encoded) from one of numbers."""

    name: str
    words: bool = False


class Words(NamedTuple):
    """A column of strings on one rank.

    codes: (rows,) int32, an index into `categories`, which are this rank's distinct strings by first
    appearance.
    """

    codes: np.ndarray
    categories: tuple[str, ...]


@dataclass(frozen=True)
class Schema:
    """What must stay the same between the data a model was trained on and the data it is asked about.

    columns: the features in their order. named: whether the names come from the file (its header) or are made
    up. width, fields, target: how many columns the file has, and which of them are the features and the label
    (empty and None where that has no meaning); target_name: the label's name.
    first_index: the number of the first feature in LIBSVM text, 1 or 0.
    one_unit: all features are one quantity in one unit (pixels), so that they share one scale.
    """

    columns: tuple[Column, ...]
    named: bool = False
    width: int = 0
    fields: tuple[int, ...] = ()
    target: int | None = None
    target_name: str | None = None
    first_index: int = 1
    one_unit: bool = False

    def as_json(self) -> dict:
        return {
            **self.__dict__,
            "columns": [list(column) for column in self.columns],
            "fields": [*self.fields],
        }

    @classmethod
    def from_json(cls, fields: dict) -> Schema:
        columns = tuple(Column(name, words) for name, words in fields["columns"])
        return cls(**{**fields, "columns": columns, "fields": tuple(fields["fields"])})


@dataclass(frozen=True)
class Table:
    """The rows of a data set that this rank holds; rank 0 holds the first ones, the last rank the last ones.

    numbers: (rows, number columns) of any real dtype. words: the string columns. Both in the order of
    ``schema.columns``. labels: (rows,) int64 or str, None where the data set has none.
    first: the global number of the first row here; total: the rows of all ranks.
    """

    source: str
    schema: Schema
    numbers: np.ndarray
    words: tuple[Words, ...]
    labels: np.ndarray | None
    first: int
    total: int

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: np.ndarray) -> Table:
        """The given rows (numbered from 0 on this rank) as a table; `first` and `total` stay those of the whole."""
        return replace(
            self,
            numbers=self.numbers[rows],
            words=tuple(Words(column.codes[rows], column.categories) for column in self.words),
            labels=None if self.labels is None else self.labels[rows],
        )


@dataclass(frozen=True)
class Options:
    """How a file is to be read where it does not say so itself. Columns are given by name or number (from 0)."""

    target: str | None = None
    labels: str | None = None
    header: str = "auto"
    delimiter: str | None = None
    categorical: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
