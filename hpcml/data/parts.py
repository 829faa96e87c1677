"""A data set ready to train on: read, split into training, validation and test rows, encoded."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.data.encoding import Encoding, fit_encoding
from hpcml.data.source import read
from hpcml.data.split import split_rows
from hpcml.data.table import Options, Table


class Part(NamedTuple):
    """Rows of this rank: X (rows, features) float32, y (rows,) labels. total: how many rows all ranks have."""

    X: np.ndarray
    y: np.ndarray
    total: int


class Parts(NamedTuple):
    """What a model is trained on, watched by and judged by; validation and test are None where not wanted."""

    training: Part
    validation: Part | None
    test: Part | None
    encoding: Encoding


def load_parts(
    source: str,
    options: Options,
    comm: MPI.Comm,
    *,
    seed: int,
    validation: float,
    test: float,
    test_source: str | None = None,
    scale: str | None = None,
    exact: bool = False,
    coded: bool = False,
) -> Parts:
    """Read `source`, split off the fractions `validation` and `test` of its rows, and encode all by what the
    training rows show. With `test_source` the test rows are all rows of that data set, and `test` is not
    used.

    exact: the same bits on any number of ranks; coded: strings as codes, not one-hot (see `fit_encoding`).

    Collective. Raises CollectiveError for whatever is wrong with the data, before anything is trained.
    """
    table = read(source, options, comm)
    if test_source is not None:
        test = 0.0
    check_labels(table, None)
    assert table.labels is not None
    split = split_rows(table.labels, table.first, table.total, seed, comm, validation=validation, test=test)
    training = table.take(split.training)
    encoding = fit_encoding(training, comm, scale, exact, coded)
    tested = table.take(split.test)
    if test_source is not None:
        tested = read(test_source, replace(options, labels=None), comm, table.schema)
        check_labels(tested, training.labels)
    return Parts(
        _part(training, encoding, comm),
        _part(table.take(split.validation), encoding, comm) if validation else None,
        _part(tested, encoding, comm) if test or test_source else None,
        encoding,
    )


def check_labels(table: Table, like: np.ndarray | None) -> None:
    """Raise CollectiveError where a data set has no labels, or numbers where `like` has strings."""
    if table.labels is None:
        raise hc.CollectiveError(f"{table.source}: there are no labels; name their column with --target")
    if like is not None and (table.labels.dtype.kind == "i") != (like.dtype.kind == "i"):
        kinds = {True: "numbers", False: "strings"}
        raise hc.CollectiveError(
            f"{table.source}: the labels are {kinds[table.labels.dtype.kind == 'i']}, "
            f"those of the training data are {kinds[like.dtype.kind == 'i']}"
        )


def _part(table: Table, encoding: Encoding, comm: MPI.Comm) -> Part:
    assert table.labels is not None
    with hc.all_or_none(comm):
        X = encoding.encode(table)
    return Part(X, table.labels, comm.allreduce(len(table)))
