"""Labels, from what the files hold to what an estimator is given: int64 numbers or strings, alike on all ranks."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.data.layout import is_number
from hpcml.data.table import Words

MAX_LABELS = 10_000


def settle_labels(found: Words | None, comm: MPI.Comm, source: str) -> np.ndarray | None:
    """The labels of this rank's rows: int64 where the labels of all ranks are whole numbers, else str.

    A full stop that ends every label of a data set is dropped (the test half of the UCI Adult set is written
    so): as it stands behind all of them it tells nothing apart, so nothing is lost. Collective.

    Raises CollectiveError for labels that are not whole numbers, which a classifier has no use for.
    """
    shared: list[set[str] | None] = comm.allgather(None if found is None else set(found.categories))
    union = sorted(set().union(*(labels for labels in shared if labels)))
    if found is None or not union:
        return None
    codes, own = found.codes, list(found.categories)
    if all(is_number(label) for label in union):
        broken = next((label for label in union if not float(label).is_integer()), None)
        if broken is not None:
            raise hc.CollectiveError(
                f"{source}: the target has numbers that are not whole, such as {broken}; "
                "class labels are whole numbers or strings: is it the right --target?"
            )
        return np.array([int(float(label)) for label in own], dtype=np.int64)[codes]
    if all(label.endswith(".") for label in union):
        own, union = ([label.removesuffix(".") for label in labels] for labels in (own, union))
    width = max(map(len, union))  # of all ranks, so that they agree on the dtype
    return np.array(own, dtype=f"U{width}")[codes]


def number_labels(values: np.ndarray) -> Words:
    """A column of numbers as labels: the distinct ones are written out, which keeps every float64 exactly."""
    distinct, codes = np.unique(np.asarray(values), return_inverse=True)
    return Words(codes.reshape(-1).astype(np.int32), tuple(str(value) for value in distinct.tolist()))
