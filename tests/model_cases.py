"""Estimators trained by mini-batches, data and ways to spread it over ranks that the tests of hpcml.models share."""

from itertools import product

import numpy as np
import pytest
from mpi4py import MPI

from hpcml.models import MLPClassifier, SGDClassifier

COMM = MPI.COMM_WORLD

ESTIMATORS = [
    MLPClassifier((16,), learning_rate=0.01, epochs=15),
    SGDClassifier("log_loss", C=10, learning_rate=0.05, epochs=15),
    SGDClassifier("squared_hinge", C=1, learning_rate=0.05, epochs=15),
    SGDClassifier("hinge", C=1, learning_rate=0.05, epochs=15),
]
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)


def fresh(estimator, **changes):
    return type(estimator)(**{**estimator.get_params(), **changes})


def blobs(classes, rows=150, seed=0):
    """Points around ``classes`` corners of a cube, labelled by strings; about one in a hundred lies astray."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, classes, rows)
    corners = np.array(list(product([-2.0, 2.0], repeat=4)))[[0, 7, 11, 13][:classes]]
    return corners[codes] + random.normal(0, 0.9, (rows, 4)), np.array(["ant", "bee", "cat", "dog"])[codes]


def part(*arrays, comm=COMM):
    """This rank's rows: in order, uneven, from three ranks on none on rank 1."""
    weights = np.arange(comm.size) % 3 + 0.5
    if comm.size >= 3:
        weights[1] = 0
    cuts = np.rint(np.cumsum(weights) / weights.sum() * len(arrays[0])).astype(int)
    first, last = (0, *cuts)[comm.rank], cuts[comm.rank]
    return [array[first:last] for array in arrays]


#: Six rows that every estimator can be trained on.
GOOD_X, GOOD_Y = np.arange(24.0).reshape(6, 4), np.array([0, 1, 0, 1, 0, 1])
