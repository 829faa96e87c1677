"""Training with virtual shards ends with the same bits on any number of ranks, however it is done."""

import numpy as np
import pytest
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.data.encoding import fit_encoding
from hpcml.data.table import Schema, Table
from hpcml.models import MLPClassifier
from hpcml.models.rows import Rows
from hpcml.models.virtual import Order, rearranged

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
VIRTUAL = 8

pytestmark = pytest.mark.skipif(SIZE > VIRTUAL, reason="more ranks than virtual shards")


def problem(rows=403, columns=13):
    random = np.random.default_rng(2)
    X = random.normal(size=(rows, columns)).astype("f4") * np.float32(3.0) ** np.arange(columns, dtype="f4")
    return X, (X[:, 0] + X[:, 1] > 0) + 2 * (X[:, 2] > 1)


def uneven(rows):
    """This rank's rows: consecutive, of very different number, none on the last of several ranks."""
    ends = [rows * (r + 1) ** 2 // max(1, SIZE - 1) ** 2 for r in range(SIZE - 1)] if SIZE > 1 else [rows]
    ends = [0, *ends, rows]
    return slice(ends[RANK], ends[RANK + 1])


def fitted(X, y, comm, **options):
    options = {"batch_size": 50, "epochs": 3, "learning_rate": 0.01, "reproducible": VIRTUAL, **options}
    return MLPClassifier((17, 9), comm=comm, **options).fit(X, y).parameters_


WAYS = {
    "as it is": {},
    "sharded": {"shard": True, "overlap": False},
    "overlapped": {"overlap": True},
    "sharded and overlapped": {"shard": True, "overlap": True},
    "by a ring": {"algorithm": "ring"},
    "by recursive doubling, overlapped": {"algorithm": "recursive_doubling", "overlap": True},
}


@pytest.mark.parametrize(
    "options",
    [{}, {"clip_norm": 0.5, "optimizer": "momentum"}, {"dtype": "float64", "batch_size": 7}],
    ids=["adam", "clipped momentum", "float64"],
)
def test_ranks_end_with_the_bits_of_one_rank(options):
    X, y = problem()
    alone = fitted(X, y, MPI.COMM_SELF, **options)
    mine = uneven(len(X))
    for way, how in WAYS.items():
        for name, array in fitted(X[mine], y[mine], COMM, **options, **how).items():
            np.testing.assert_array_equal(array, alone[name], err_msg=f"{name}, {way}", strict=True)


def test_without_virtual_shards_the_bits_may_differ_and_the_test_would_see_it():
    X, y = problem()
    alone = fitted(X, y, MPI.COMM_SELF)
    other = fitted(X, y, MPI.COMM_SELF, reproducible=VIRTUAL - 1)
    assert any((other[name] != alone[name]).any() for name in alone)


def test_rows_move_to_the_ranks_of_their_shards_in_their_order():
    X, y = problem(101)
    mine = uneven(len(X))
    counts = COMM.allgather(len(X[mine]))
    moved = rearranged(Rows(X[mine], y[mine], counts, np.unique(y)), VIRTUAL, COMM)
    np.testing.assert_array_equal(np.concatenate(COMM.allgather(moved.X)), X)
    np.testing.assert_array_equal(np.concatenate(COMM.allgather(moved.y)), y)
    assert moved.counts == COMM.allgather(len(moved.X))
    owned = np.array_split(np.arange(VIRTUAL), SIZE)[RANK]
    assert len(moved.X) == 101 * (owned[-1] + 1) // VIRTUAL - 101 * owned[0] // VIRTUAL


def test_each_batch_has_the_same_rows_of_each_virtual_shard_on_any_number_of_ranks():
    X, y = problem(101)
    found = []
    for comm in (MPI.COMM_SELF, COMM):
        whole = Rows(np.arange(101.0)[:, None], y, [101], np.unique(y))
        share = np.array_split(np.arange(101), comm.size)
        mine = share[comm.rank]
        shard = whole if comm.size == 1 else Rows(whole.X[mine], y[mine], [len(s) for s in share], whole.classes)
        shard = rearranged(shard, VIRTUAL, comm)
        order = Order(shard, comm.rank, 20, 5, VIRTUAL)
        steps = [(size, [shard.X[rows, 0].tolist() for rows in parts]) for size, parts in order.epoch(1)]
        everyones = comm.allgather(steps)
        found.append([(ranks[0][0], sum((parts for _, parts in ranks), [])) for ranks in zip(*everyones, strict=True)])
    assert found[0] == found[1]
    assert [size for size, _ in found[0]] == [20] * 5 + [1]
    assert sorted(row for _, parts in found[0] for part in parts for row in part) == list(range(101))


@pytest.mark.parametrize("scale", ["columns", "whole"])
def test_the_encoding_has_the_same_bits_on_any_number_of_ranks(scale):
    X, _ = problem()
    schema = Schema(())

    def table(rows):
        return Table("a test", schema, rows, (), None, 0, len(X))

    alone = fit_encoding(table(X), MPI.COMM_SELF, scale, exact=True)
    together = fit_encoding(table(X[uneven(len(X))]), COMM, scale, exact=True)
    np.testing.assert_array_equal(together.mean, alone.mean)
    np.testing.assert_array_equal(together.deviation, alone.deviation)


@pytest.mark.skipif(SIZE == 1, reason="one rank has a virtual shard in any case")
def test_too_few_virtual_shards_are_an_error_on_every_rank():
    X, y = problem()
    with pytest.raises(hc.CollectiveError, match=f"reproducible={SIZE - 1} on {SIZE} ranks"):
        fitted(X, y, COMM, reproducible=SIZE - 1)
