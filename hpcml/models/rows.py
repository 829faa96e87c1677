"""The rows that all ranks pass to an estimator together: one verdict on every rank, common classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.models.inputs import labels, names_of, same_length, targets, weights

#: Checks ``X`` as an estimator wants it, and returns it as an array or a CSR matrix (n, d).
Check = Callable[[Any], Any]


class Rows(NamedTuple):
    """This rank's rows: ``X`` (n, d) as its check made it; ``y`` (n,), positions (int64) in the common ``classes``, or
    numbers (float64) to be predicted, where ``classes`` is None; ``weights`` (n,) float64, None where no rank has any.

    ``counts[r]`` is the number of rows on rank r; ``names`` those of the columns, if they have any.
    """

    X: Any
    y: np.ndarray
    counts: list[int]
    classes: np.ndarray | None = None
    weights: np.ndarray | None = None
    names: list[str] | None = None

    @property
    def total(self) -> int:
        return sum(self.counts)

    def first(self, rank: int) -> int:
        """The global number of that rank's first row: rank 0's rows come first."""
        return sum(self.counts[:rank])


def without_weightless(rows: Rows, comm: MPI.Intracomm) -> Rows:
    """Without the rows of no weight: as if they had not been passed. Collective."""
    if rows.weights is None or not hc.allreduce(np.array([(rows.weights == 0).any()]), op="lor", comm=comm)[0]:
        return rows
    kept = rows.weights > 0
    counts = comm.allgather(int(kept.sum()))
    return rows._replace(X=rows.X[kept], y=rows.y[kept], weights=rows.weights[kept], counts=counts)


class Described(NamedTuple):
    """What the other ranks must know of the rows of one: how many, facts that must agree, distinct labels."""

    rows: int
    facts: dict[str, Any]
    labels: np.ndarray
    weight: float


def training_rows(
    X: Any, y: Any, check: Check, comm: MPI.Intracomm, *, classify: bool = True, sample_weight: Any = None
) -> Rows:
    """Check the rows of all ranks and, to ``classify``, number their classes: the sorted union over the ranks.

    Collective. A rank with no rows passes X of shape (0, d), whatever its dtype.

    Raises ArgumentError or MismatchError on every rank for: X that does not pass its check; y that is not 1-D, of the
    length of X, and either whole numbers or strings (to classify) or finite numbers; differing dtypes, column counts
    or kinds of labels; fewer than two classes; no rows at all; weights that are negative, or all zero.
    """
    found, given, heavy, names, ranks = _everyones(X, y, check, comm, classify, sample_weight)
    holding = [rank for rank in ranks if rank.rows]
    if not holding:
        raise hc.ArgumentError("no rank has any rows to train on")
    counts = [rank.rows for rank in ranks]
    if heavy is not None and not sum(rank.weight for rank in ranks) > 0:
        raise hc.ArgumentError("sample_weight is zero for every row on every rank")
    if names is None and not found.shape[0]:
        names = holding[0].facts["names of columns"]
    if not found.shape[0]:
        found = _no_rows(found, holding[0].facts["columns of X"], np.dtype(holding[0].facts["checked dtype of X"]))
    if not classify:
        return Rows(found, given, counts, None, heavy, names)
    classes = np.unique(np.concatenate([rank.labels for rank in holding]))
    if len(classes) < 2:
        raise hc.ArgumentError(f"all labels are {classes[0].item()!r}, one class; a classifier needs at least two")
    given = given if len(given) else classes[:0]
    return Rows(found, np.searchsorted(classes, given), counts, classes, heavy, names)


def validation_rows(validation: Any, trained: Rows, check: Check, comm: MPI.Intracomm) -> Rows | None:
    """As ``training_rows``, for a pair (X, y) of rows with labels among the ``trained`` classes; None for None.

    Raises on every rank for what ``training_rows`` does, for other columns or labels than in training, and when some
    ranks pass None and others do not.
    """
    given = comm.allgather(validation is not None)
    if not any(given):
        return None
    if not all(given):
        without = [rank for rank, present in enumerate(given) if not present]
        raise hc.ArgumentError(
            f"validation rows are given on some ranks and not on {len(without)} others, rank {without[0]} "
            "among them: a rank without any passes arrays with no rows"
        )
    with hc.all_or_none(comm):
        if not isinstance(validation, (tuple, list)) or len(validation) != 2:
            raise TypeError(f"validation is a {type(validation).__name__}; expected a pair (X, y)")
    classify = trained.classes is not None
    X, y, _, names, ranks = _everyones(validation[0], validation[1], check, comm, classify, None)
    if not any(rank.rows for rank in ranks):
        raise hc.ArgumentError("no rank has any rows to validate on: leave validation out")
    with hc.all_or_none(comm):
        if X.shape[0]:
            if X.shape[1] != trained.X.shape[1]:
                raise ValueError(f"X has {X.shape[1]} columns; the model was trained on {trained.X.shape[1]}")
        else:
            X = trained.X[:0]
        if classify:
            y = _codes(y, trained.classes) if len(y) else np.zeros(0, np.int64)  # type: ignore[arg-type]
    return Rows(X, y, [rank.rows for rank in ranks], trained.classes, None, names)


def _everyones(
    X: Any, y: Any, check: Check, comm: MPI.Intracomm, classify: bool, sample_weight: Any
) -> tuple[Any, np.ndarray, np.ndarray | None, list[str] | None, list[Described]]:
    """This rank's rows, checked, and descriptions of all ranks, which agree. Collective."""
    with hc.all_or_none(comm):
        found = check(X)
        given = labels(y) if classify else targets(y)
        same_length(found, given)
        heavy, names = weights(sample_weight, len(given)), names_of(X)
        family = {"U": "strings", "b": "booleans"}.get(given.dtype.kind, "numbers")
        facts = {
            "columns of X": found.shape[1],
            "dtypes of X": _kind(X),
            "kinds of labels": family,
            "names of columns": names,
            "checked dtype of X": str(found.dtype),
        }
        distinct = np.unique(given) if classify else given[:0]
        mine = Described(len(given), facts, distinct, float(heavy.sum()) if heavy is not None else 0.0)
    ranks = comm.allgather(mine)
    holding = [(rank, described) for rank, described in enumerate(ranks) if described.rows]
    for rank, described in holding:
        for what, here in described.facts.items():
            expected = holding[0][1].facts[what]
            if here != expected:
                raise hc.MismatchError(
                    f"{what} differ between ranks: {expected} on rank {holding[0][0]}, {here} on rank {rank}"
                )
    weighted = comm.allgather(heavy is not None)
    if any(weighted) and heavy is None:
        heavy = np.ones(len(given))
    return found, given, heavy, names, ranks


def _kind(X: Any) -> str:
    if hasattr(X, "toarray"):
        return f"sparse {X.dtype}"
    return "a data frame" if hasattr(X, "columns") else str(np.asarray(X).dtype)


def _no_rows(found: Any, columns: int, dtype: np.dtype) -> Any:
    if hasattr(found, "toarray"):
        from scipy.sparse import csr_array

        return csr_array((0, columns), dtype=dtype)
    return np.empty((0, columns), dtype)


def _codes(found: np.ndarray, classes: np.ndarray) -> np.ndarray:
    comparable = (found.dtype.kind == "U") == (classes.dtype.kind == "U")
    unknown = np.setdiff1d(found, classes) if comparable else found
    if len(unknown):
        raise ValueError(f"the validation label {unknown[0].item()!r} does not occur among the training labels")
    return np.searchsorted(classes, found)
