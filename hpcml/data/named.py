"""The small data sets that scikit-learn ships: there without a download."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.data.share import share
from hpcml.data.table import Column, DataError, Schema, Table

NAMES = ("digits", "breast_cancer", "iris", "wine")


def read_named(name: str, comm: MPI.Comm, trained: Schema | None = None) -> Table:
    """This rank's rows of a named set. Every rank loads the whole, which is small. Collective.

    Raises CollectiveError where scikit-learn is absent.
    """
    with hc.all_or_none(comm):
        try:
            from sklearn import datasets
        except ImportError:
            raise DataError(f"the data set {name!r} comes with scikit-learn: pip install 'hpcml[train]'") from None
        bunch = getattr(datasets, f"load_{name}")()
        if trained is not None and len(trained.columns) != bunch.data.shape[1]:
            raise DataError(f"{name} has {bunch.data.shape[1]} features, the model expects {len(trained.columns)}")
    start, stop = share(len(bunch.data), comm.rank, comm.size)
    columns = tuple(Column(str(feature)) for feature in bunch.feature_names)
    return Table(
        source=name,
        schema=trained or Schema(columns, one_unit=name == "digits"),
        numbers=bunch.data[start:stop],
        words=(),
        labels=bunch.target[start:stop].astype(np.int64),
        first=start,
        total=len(bunch.data),
    )
