"""The split is a partition of the global rows that does not depend on how they lie over ranks."""

import numpy as np
import pytest

from hpcml.data.share import share
from hpcml.data.split import split_rows
from hpcml.data.table import DataError


def global_split(total, size, seed, **fractions):
    parts = [[], [], []]
    for rank in range(size):
        start, stop = share(total, rank, size)
        split = split_rows(start, stop - start, total, seed, **fractions)
        for part, rows in zip(parts, split, strict=True):
            part.extend((rows + start).tolist())
    return parts


@pytest.mark.parametrize("size", [2, 3, 4, 7, 200])
def test_same_rows_on_any_number_of_ranks(size):
    one = global_split(150, 1, 3, validation=0.1, test=0.2)
    assert global_split(150, size, 3, validation=0.1, test=0.2) == one
    training, validation, test = one
    assert (len(training), len(validation), len(test)) == (105, 15, 30)
    assert sorted(training + validation + test) == list(range(150))
    assert all(part == sorted(part) for part in one)


def test_seed_chooses_the_rows():
    assert global_split(150, 1, 0, validation=0.1, test=0.2) != global_split(
        150, 1, 1, validation=0.1, test=0.2
    )


def test_test_rows_do_not_depend_on_the_validation_fraction():
    with_validation = global_split(150, 1, 0, validation=0.1, test=0.2)
    without = global_split(150, 1, 0, validation=0, test=0.2)
    assert with_validation[2] == without[2]
    assert without[1] == []


def test_a_sorted_set_is_mixed():
    test = np.array(global_split(1000, 1, 0, validation=0, test=0.5)[2])
    assert 180 < (test < 500).sum() < 320


@pytest.mark.parametrize(
    "fractions, message",
    [
        ({"validation": 0.5, "test": 0.5}, "leave none of 10 rows"),
        ({"validation": 0, "test": 0.01}, "is no row"),
        ({"validation": -0.1, "test": 0.1}, "a fraction of the rows"),
        ({"validation": 0.1, "test": 1.0}, "a fraction of the rows"),
    ],
)
def test_fractions_that_leave_nothing_are_refused(fractions, message):
    with pytest.raises(DataError, match=message):
        split_rows(0, 10, 10, 0, **fractions)
