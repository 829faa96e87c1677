"""The global order of rows: a permutation, well mixed, the same on any number of ranks."""

from itertools import pairwise

import numpy as np
import pytest

from hpcml.data.batches import Batches, permuted


def all_places(size, seed):
    return permuted(np.arange(size, dtype=np.uint64), size, seed)


@pytest.mark.parametrize("size", [*range(1, 40), 99, 100, 101, 1000, 65535, 65536, 65537])
def test_it_is_a_permutation(size):
    for seed in range(3):
        assert np.array_equal(np.sort(all_places(size, (seed, 0))), np.arange(size))


def test_numbers_beyond_32_bits_stay_in_range_and_apart():
    size = 2**40 + 7
    numbers = np.arange(size - 10_000, size, dtype=np.uint64)
    places = permuted(numbers, size, (1, 2))
    assert places.max() < size and len(np.unique(places)) == 10_000


def test_seed_and_epoch_each_change_it():
    kinds = {all_places(50, (seed, epoch)).tobytes() for seed in range(10) for epoch in range(10)}
    assert len(kinds) == 100


@pytest.mark.parametrize("size", [16, 23, 100])
def test_every_row_comes_to_every_place_equally_often(size):
    """χ² over 4000 seeds, of the places of rows and of the steps between neighbours; within 6 deviations."""
    trials = 4000
    places = np.array([all_places(size, (seed,)) for seed in range(trials)]).astype(int)
    for observed in (places, (np.diff(places, axis=1) % size)):
        counts = np.array([np.bincount(column, minlength=size) for column in observed.T])
        if observed is not places:
            assert not counts[:, 0].any(), "two rows cannot have one place"
            counts = counts[:, 1:]
        expected = trials / counts.shape[1]
        freedom = counts.shape[1] - 1
        chi2 = ((counts - expected) ** 2 / expected).sum(axis=1)
        assert chi2.max() < freedom + 6 * np.sqrt(2 * freedom)


COUNTS = [
    [10],
    [3, 7],
    [0, 10],
    [5, 0, 5],
    [1, 2, 3, 4],
    [0, 0, 0, 10, 0],
    [2, 0, 1, 1, 3, 0, 3],
    [10] + [0] * 7,
]


def batches_of(counts, batch_size, epoch):
    """The global numbers of the rows in each batch, in their order on the ranks, collected over all ranks."""
    starts = np.cumsum([0, *counts])
    collected = None
    for rank in range(len(counts)):
        batches = Batches(counts, rank, batch_size, seed=3)
        found = list(batches.epoch(epoch))
        assert len(found) == batches.steps
        assert all(len(mine) <= batches.largest for _, mine in found)
        rows = [(size, mine + starts[rank]) for size, mine in found]
        collected = collected or [(size, []) for size, _ in rows]
        for (size, everyone), (own_size, mine) in zip(collected, rows, strict=True):
            assert size == own_size
            everyone.extend(mine.tolist())
    return collected


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 11])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_batches_hold_the_same_rows_on_any_number_of_ranks(counts, batch_size):
    for epoch in range(3):
        expected = batches_of([10], batch_size, epoch)
        found = batches_of(counts, batch_size, epoch)
        assert [(size, sorted(rows)) for size, rows in found] == [(size, sorted(rows)) for size, rows in expected]
        assert [size for size, _ in found] == [len(rows) for _, rows in found]
        assert sorted(sum((rows for _, rows in found), [])) == list(range(10))


def test_batches_are_full_but_for_the_last():
    sizes = [size for size, _ in Batches([10], 0, 4, seed=0).epoch(0)]
    assert sizes == [4, 4, 2]


def test_rows_of_a_batch_come_in_the_order_of_the_permutation():
    places = all_places(10, (3, 1))
    order = [int(row) for _, rows in batches_of([10], 4, 1) for row in rows]
    assert all(places[a] < places[b] for a, b in pairwise(order))


def test_epochs_differ_and_can_be_repeated():
    batches = Batches([50], 0, 50, seed=1)
    orders = [next(batches.epoch(epoch))[1].tolist() for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
