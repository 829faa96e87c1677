"""What trees are given: numbers with gaps, and columns of categories, as an array of numbers and codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.models.inputs import features, names_of

MOST_CATEGORIES = 255


@dataclass(frozen=True)
class Columns:
    """``categories[f]``: those of column f in the order of their codes; columns that are not in it hold numbers."""

    categories: dict[int, list[Any]]

    @staticmethod
    def learned(X: Any, categorical: Any, comm: MPI.Intracomm) -> Columns:
        """The columns of categories and, sorted, what occurs in them on any rank. Collective.

        categorical: "from_dtype", those of a data frame with the dtype category; or names, numbers or a mask; or None.

        Raises ArgumentError on every rank for columns that are not there or have more than 255 categories.
        """
        X = _table(X)
        with hc.all_or_none(comm):
            mine = {f: sorted(set(_present(_column(X, f)))) for f in _which(X, categorical)}
        union: dict[int, set[Any]] = {}
        for theirs in comm.allgather(mine):
            for f, found in theirs.items():
                union.setdefault(f, set()).update(found)
        if not union:
            return Columns({})
        with hc.all_or_none(comm):
            for f, found in union.items():
                if len({isinstance(category, str) for category in found}) > 1:
                    raise TypeError(f"column {f} has strings and numbers as categories; expected one or the other")
                if len(found) > MOST_CATEGORIES:
                    raise ValueError(
                        f"column {f} has {len(found)} categories; at most {MOST_CATEGORIES} can be told apart: group "
                        "the rare ones, or encode the column as numbers"
                    )
        return Columns({f: sorted(found) for f, found in union.items()})

    def counts(self, columns: int) -> np.ndarray:
        """How many categories each column has (columns,) int64: 0 for numbers; at least 1 for one without any."""
        return np.array([max(1, len(self.categories[f])) if f in self.categories else 0 for f in range(columns)])

    def array(self, X: Any) -> np.ndarray:
        """X as float32 or float64 (n, d): NaN for what is missing; for categories their codes, −1 for unknown ones.

        Raises ValueError or TypeError for what is no such table. Local.
        """
        X = _table(X)
        if (isinstance(X, np.ndarray) and not self.categories) or X.ndim != 2 or hasattr(X, "toarray"):
            return features(X, missing=True)
        shape = X.shape
        made = np.empty(shape, np.float64)
        numbers = [f for f in range(shape[1]) if f not in self.categories]
        if numbers:
            made[:, numbers] = features(_columns(X, numbers), np.float64, missing=True)
        for f, known in self.categories.items():
            column = _column(X, f)
            codes = {category: code for code, category in enumerate(known)}
            made[:, f] = [np.nan if _is_missing(value) else codes.get(_plain(value), -1) for value in column]
        return made

    def as_json(self) -> dict[str, list[Any]]:
        return {str(f): found for f, found in self.categories.items()}

    @staticmethod
    def from_json(saved: dict[str, list[Any]]) -> Columns:
        return Columns({int(f): found for f, found in saved.items()})


def _table(X: Any) -> Any:
    """A data frame, a sparse matrix, which `features` refuses, or an array."""
    return X if hasattr(X, "iloc") or hasattr(X, "toarray") else np.asarray(X)


def _which(X: Any, categorical: Any) -> list[int]:
    width = X.shape[1] if len(X.shape) == 2 else 0
    if categorical is None or (isinstance(categorical, str) and categorical == "from_dtype"):
        if categorical is None or not hasattr(X, "dtypes") or not hasattr(X, "columns"):
            return []
        return [f for f, kind in enumerate(X.dtypes) if str(kind) == "category"]
    if isinstance(categorical, str) or not isinstance(categorical, (Sequence, np.ndarray)):
        raise TypeError(
            f"categorical_features={categorical!r}; expected 'from_dtype', None, or names, numbers or a mask"
        )
    given = list(categorical)
    if given and all(isinstance(one, (bool, np.bool_)) for one in given):
        if len(given) != width:
            raise ValueError(f"categorical_features is a mask of {len(given)}; X has {width} columns")
        return [f for f, chosen in enumerate(given) if chosen]
    names = names_of(X) or []
    found = []
    for one in given:
        if isinstance(one, str):
            if one not in names:
                raise ValueError(f"categorical_features has {one!r}, which is no column of X")
            found.append(names.index(one))
        elif 0 <= int(one) < width:
            found.append(int(one))
        else:
            raise ValueError(f"categorical_features has {one}; X has the columns 0 to {width - 1}")
    return found


def _column(X: Any, f: int) -> Any:
    return X.iloc[:, f] if hasattr(X, "iloc") else X[:, f]


def _columns(X: Any, chosen: list[int]) -> Any:
    return X.iloc[:, chosen].to_numpy() if hasattr(X, "iloc") else X[:, chosen]


def _present(column: Any) -> list[Any]:
    return [_plain(value) for value in column if not _is_missing(value)]


def _is_missing(value: Any) -> bool:
    return value is None or value != value or type(value).__name__ in ("NAType", "NaTType")


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return float(value) if isinstance(value, (int, float)) else value
