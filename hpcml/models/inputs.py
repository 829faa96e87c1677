"""What an estimator is given: rows checked with one verdict on every rank, classes made common."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc


class Shard(NamedTuple):
    """This rank's rows: ``X`` (n, d), C-contiguous; ``codes`` (n,), positions in the common ``classes``.

    ``counts[r]`` is the number of rows on rank r.
    """

    X: np.ndarray
    codes: np.ndarray
    counts: list[int]
    classes: np.ndarray


class Described(NamedTuple):
    """What the other ranks must know of the rows of one: how many, facts that must agree, distinct labels."""

    rows: int
    facts: dict[str, Any]
    labels: np.ndarray


def training_shard(X: Any, y: Any, dtype: np.dtype, comm: MPI.Intracomm) -> Shard:
    """Check the rows of all ranks and number their classes: the sorted union over the ranks. Collective.

    A rank with no rows passes X of shape (0, d), whatever its dtype.

    Raises CollectiveError on every rank for: X that is not 2-D, numeric and finite; y that is not 1-D, of
    the length of X, and either whole numbers or strings; differing dtypes, column counts or kinds of
    labels; fewer than two classes; no rows at all.
    """
    found, named, ranks = _everyones(X, y, dtype, comm)
    holding = [rank for rank in ranks if rank.rows]
    if not holding:
        raise hc.CollectiveError("no rank has any rows to train on")
    classes = np.unique(np.concatenate([rank.labels for rank in holding]))
    if len(classes) < 2:
        raise hc.CollectiveError(f"all labels are {classes[0].item()!r}; a classifier needs at least two classes")
    if not len(found):
        found, named = np.empty((0, holding[0].facts["columns of X"]), dtype), classes[:0]
    return Shard(found, np.searchsorted(classes, named), [rank.rows for rank in ranks], classes)


def validation_shard(validation: Any, classes: np.ndarray, columns: int, dtype: np.dtype, comm: Any) -> Shard | None:
    """As ``training_shard``, for a pair (X, y) of rows with labels among ``classes``; None for None.

    Raises CollectiveError on every rank for what ``training_shard`` does, for other columns or labels than in
    training, and when some ranks pass None and others do not.
    """
    given = comm.allgather(validation is not None)
    if not any(given):
        return None
    if not all(given):
        without = [rank for rank, present in enumerate(given) if not present]
        raise hc.CollectiveError(
            f"validation rows are given on some ranks and not on {len(without)} others, rank {without[0]} "
            "among them: a rank without any passes arrays with no rows"
        )
    with hc.all_or_none(comm):
        if not isinstance(validation, (tuple, list)) or len(validation) != 2:
            raise TypeError(f"validation is a {type(validation).__name__}; expected a pair (X, y)")
    X, named, ranks = _everyones(validation[0], validation[1], dtype, comm)
    if not any(rank.rows for rank in ranks):
        raise hc.CollectiveError("no rank has any rows to validate on: leave validation out")
    with hc.all_or_none(comm):
        codes = np.zeros(len(X), np.intp)
        if len(X):
            check_columns(X, columns)
            codes = _codes(named, classes)
        else:
            X = np.empty((0, columns), dtype)
    return Shard(X, codes, [rank.rows for rank in ranks], classes)


def features(X: Any, dtype: np.dtype) -> np.ndarray:
    """``X`` as a C-contiguous array (n, d) of ``dtype``; raises unless it is 2-D, numeric and finite."""
    if hasattr(X, "toarray"):
        raise TypeError(f"X is a sparse {type(X).__name__}; expected a dense array: pass X.toarray()")
    X = np.asarray(X)
    if X.ndim != 2:
        raise ValueError(f"X has shape {X.shape}; expected rows and columns (for a single row: X.reshape(1, -1))")
    if X.dtype.kind not in "biuf":
        raise TypeError(f"X has dtype {X.dtype}; expected numbers: encode strings and categories first")
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(X, dtype)
    # A sum is finite only where every summand is, and needs no array of booleans; overflow alone is looked
    # into.
    with np.errstate(all="ignore"):
        suspicious = not np.isfinite(converted.sum())
    if suspicious:
        rows, columns = np.nonzero(~np.isfinite(converted))
        if len(rows):
            raise ValueError(
                f"X has NaN, infinity or a number too large for {dtype} at {len(rows)} places, the first in "
                f"row {rows[0]}, column {columns[0]}: fill in or drop such rows"
            )
    return converted


def labels(y: Any) -> np.ndarray:
    """``y`` as an array (n,) of integers, booleans, whole floats or strings; raises for anything else."""
    y = np.asarray(y)
    if y.ndim != 1:
        raise ValueError(f"y has shape {y.shape}; expected one label per row (n,)")
    if y.dtype.kind == "O" and all(isinstance(label, str) for label in y):
        return y.astype(str) if len(y) else np.empty(0, "U1")
    if y.dtype.kind not in "biufU":
        raise TypeError(f"y has dtype {y.dtype}; expected labels that are whole numbers or strings")
    if y.dtype.kind == "f" and not (np.isfinite(y).all() and (y == np.floor(y)).all()):
        broken = y[~(np.isfinite(y) & (y == np.floor(y)))][0]
        raise ValueError(f"y has the label {broken}; expected whole numbers or strings (is it a regression target?)")
    return y


def same_length(X: np.ndarray, y: np.ndarray) -> None:
    if len(X) != len(y):
        raise ValueError(f"X has {len(X)} rows and y {len(y)} labels; expected as many")


def check_columns(X: np.ndarray, columns: int) -> None:
    if X.shape[1] != columns:
        raise ValueError(f"X has {X.shape[1]} columns; the model was trained on {columns}")


def _everyones(X: Any, y: Any, dtype: np.dtype, comm: MPI.Intracomm) -> tuple[np.ndarray, np.ndarray, list[Described]]:
    """This rank's features and labels, checked, and descriptions of all ranks, which agree. Collective."""
    with hc.all_or_none(comm):
        found, named = features(X, dtype), labels(y)
        same_length(found, named)
        family = {"U": "strings", "b": "booleans"}.get(named.dtype.kind, "numbers")
        facts = {
            "columns of X": found.shape[1],
            "dtypes of X": str(np.asarray(X).dtype),
            "kinds of labels": family,
        }
        mine = Described(len(found), facts, np.unique(named))
    ranks = comm.allgather(mine)
    holding = [(rank, described) for rank, described in enumerate(ranks) if described.rows]
    for rank, described in holding:
        for what, here in described.facts.items():
            expected = holding[0][1].facts[what]
            if here != expected:
                raise hc.MismatchError(
                    f"{what} differ between ranks: {expected} on rank {holding[0][0]}, {here} on rank {rank}"
                )
    return found, named, ranks


def _codes(found: np.ndarray, classes: np.ndarray) -> np.ndarray:
    comparable = (found.dtype.kind == "U") == (classes.dtype.kind == "U")
    unknown = np.setdiff1d(found, classes) if comparable else found
    if len(unknown):
        raise ValueError(f"the validation label {unknown[0].item()!r} does not occur among the training labels")
    return np.searchsorted(classes, found)
