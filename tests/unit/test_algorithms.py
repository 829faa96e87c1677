"""What the catalogue's formulas do not say about algorithms: bounds from the papers, nodes, messages that are cut."""

from itertools import chain

import numpy as np
import pytest
from test_table import check_tables

from hpcml.collectives import steps
from hpcml.collectives.algorithms import closed_forms, double_tree, halving, named
from hpcml.collectives.phases import count, merged
from hpcml.collectives.schedule import NONE, RIGHT, Blocks, Finish, Listed, ceil_log2, exchange_one_way
from hpcml.collectives.table import CODE, COPY, SEND
from hpcml.collectives.verify import ScheduleError, verify_algorithm

TWO_TREES = (double_tree.broadcast, double_tree.reduce, double_tree.allreduce)


def test_two_trees_take_few_rounds():
    for size in (*range(2, 70), 127, 128, 129, 1000):
        for segments in (1, 7):
            lg = ceil_log2(size)
            assert double_tree.one_way_rounds(size, segments) <= 2 * lg + 2 * segments - 1
            assert double_tree.allreduce_rounds(size, segments) <= 4 * lg + 2 * segments - 1


def peers(exchange, size):
    return [np.broadcast_to(peer, size) for peer in (exchange.dest, exchange.source)]


def test_two_trees_keep_every_rank_busy():
    """In the middle of a long broadcast all ranks but the root receive in every round."""
    for size in (2, 3, 4, 7, 8, 13, 64):
        rounds = list(double_tree.broadcast(np.arange(size), size, 0, 40))
        for (exchange,) in rounds[30:50]:
            assert (peers(exchange, size)[1][1:] != NONE).all()


@pytest.mark.parametrize("schedule", TWO_TREES)
def test_many_segments_in_two_trees_are_counted_as_few(schedule):
    for size in (1, 2, 3, 4, 5, 6, 8, 11, 16):
        for segments in (1, 9, 40):
            played = count(schedule(np.arange(size), size, 0, segments), size)
            assert merged(closed_forms.two_trees(schedule, size, segments)) == played, (size, segments)


@pytest.mark.parametrize("name", ["circulant", "rabenseifner"])
def test_no_two_ranks_exchange_large_messages_with_each_other_where_it_can_be_helped(name):
    # By circulant graphs it cannot be for powers of two, where the first skip must be p/2.
    for size in (3, 5, 6, 7, 9, 10, 12) if name == "circulant" else (4, 8, 16):
        first = next(iter(named("allreduce", name).schedule(np.arange(size), size)))
        dest, source = peers(first[0], size)
        assert ((dest != source) | (dest == NONE)).all(), size


def test_all_ranks_of_an_odd_group_carry_the_same():
    for size in (3, 5, 7, 11, 27):
        sent = np.zeros(size, int)
        for round_ in halving.halve(np.arange(size), size):
            for e in round_:
                sent += np.where(e.dest != NONE, e.send_blocks.count, 0)
        assert (sent == size - 1).all()


@pytest.mark.parametrize("size, per_node", [(6, 2), (6, 3), (8, 4), (9, 3), (12, 4), (5, 5)])
def test_lanes(size, per_node):
    row = named("allreduce", "hierarchical")
    for segments in (1, 2):
        items = np.arange(row.blocks(size, segments)) % 3
        for in_place in (False, True):
            schedules = [row.schedule(rank, size, 0, segments, per_node) for rank in range(size)]
            check_tables("allreduce", schedules, items, 0, in_place)
    sent_out = np.zeros(size, int)
    for item in row.schedule(np.arange(size), size, 0, 1, per_node):
        for e in () if isinstance(item, Finish) else item:
            leaves = (e.dest != NONE) & (e.dest // per_node != np.arange(size) // per_node)
            sent_out += np.where(leaves, e.send_blocks.count, 0)
    assert (sent_out == 2 * (size // per_node - 1)).all()


@pytest.mark.parametrize("size, per_node", [(6, 2), (8, 4), (9, 3), (5, 5)])
def test_lanes_of_a_broadcast(size, per_node):
    row = named("broadcast", "hierarchical")
    nodes = size // per_node
    for root in (0, size // 2, size - 1):
        items = np.arange(row.blocks(size, 1)) % 3
        schedules = [row.schedule(rank, size, root, 1, per_node) for rank in range(size)]
        check_tables("broadcast", schedules, items, root, True)
        sent_out = np.zeros(size, int)
        for e in chain.from_iterable(row.schedule(np.arange(size), size, root, 1, per_node)):
            leaves = (e.dest != NONE) & (e.dest // per_node != np.arange(size) // per_node)
            sent_out += np.where(leaves, e.send_blocks.count, 0)
        last = (root // per_node - 1) % nodes
        assert (sent_out == np.where(np.arange(size) // per_node == last, 0, nodes)).all()


def test_nodes_must_be_equal():
    for collective in ("allreduce", "broadcast"):
        with pytest.raises(ValueError, match="8 ranks and 3 per node"):
            verify_algorithm(named(collective, "hierarchical"), 8, per_node=3)
    with pytest.raises(ScheduleError, match="per_node=2: stated"):
        stated = named("allreduce", "hierarchical")
        verify_algorithm(type(stated)(**{**vars(stated), "volume": lambda p, k, q: p}), 8, per_node=2)


WRAPPING = [
    ("allgather", "bruck"), ("allgather", "circulant"), ("reduce_scatter", "circulant"), ("allreduce", "circulant"),
    ("alltoall", "bruck"), ("scatter", "binomial"), ("gather", "binomial"), ("broadcast", "scatter_allgather"),
]  # fmt: skip


@pytest.mark.parametrize("collective, name", WRAPPING)
@pytest.mark.parametrize("in_place", [False, True])
def test_long_messages_are_cut_rather_than_copied(monkeypatch, collective, name, in_place):
    if in_place and collective not in ("allreduce", "broadcast", "alltoall"):
        pytest.skip("has no input and output in one place")
    row = named(collective, name)

    def rows(size, root, items):
        schedules = [row.schedule(rank, size, root, 1) for rank in range(size)]
        tables = check_tables(collective, schedules, items, root, in_place)
        codes = np.concatenate([table.rows[:, CODE] for table in tables])
        return (codes == SEND).sum(), (codes == COPY).sum()

    more = fewer = 0
    for size in (3, 5, 7, 8):
        for root in {0, size // 2} if collective in ("scatter", "gather", "broadcast") else {0}:
            for items in (np.full(row.blocks(size, 1), 2), np.arange(row.blocks(size, 1)) % 4):
                monkeypatch.setattr(steps, "CUT_BYTES", 1 << 40)
                whole = rows(size, root, items)
                monkeypatch.setattr(steps, "CUT_BYTES", 1)
                cut = rows(size, root, items)
                assert cut[0] >= whole[0] and cut[1] <= whole[1]
                more, fewer = more + cut[0] - whole[0], fewer + whole[1] - cut[1]
    assert more and fewer


def test_packed_messages_wait_for_those_before_them():
    """A receiver that folds takes few messages at a time, so the sender has to keep what it has packed."""

    def pairs(rank):
        for block in range(20):
            blocks = Listed(np.array([block, block + 20]))
            yield exchange_one_way(rank == 1, 0, rank == 0, 1, blocks, RIGHT)
        yield Finish(Blocks(0, np.where(rank == 0, 40, 0)))

    check_tables("reduce", [pairs(0), pairs(1)], np.full(40, 2))
