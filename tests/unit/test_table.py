"""Lowered tables give the right result on every rank, whatever the sizes, roots, layouts and order of arrival."""

import numpy as np
import pytest
from lowered_ranks import LoweredRanks

from hpcml.collectives.algorithms import CATALOGUE
from hpcml.collectives.contracts import CONTRACTS
from hpcml.collectives.table import CODE, COUNT, MESSAGE_BYTES, RECV, SEND, SLOT, Layout, lower

SIZES = [1, 2, 3, 4, 5, 7, 8, 13, 16]
IN_PLACE = ("allreduce", "broadcast", "reduce", "alltoall", "scan", "exscan")


def offsets(sizes):
    return np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)


def layout_of(collective, rank, size, sizes, root, in_place):
    """The natural layout: a full array where all blocks are held or wanted, else a dense part with the own ones."""
    contract = CONTRACTS[collective]

    def place(held):
        mine = held(rank, size, len(sizes), root)
        dense = np.where(mine, sizes, 0)
        return np.where(mine, offsets(sizes if mine.all() else dense), -1)

    return Layout(sizes, place(contract.before), place(contract.after), in_place)


def cases(algorithm):
    rooted = CONTRACTS[algorithm.collective].rooted
    for size in SIZES:
        for segments in ((1, 3) if size <= 8 else (2,)) if algorithm.segmented else (1,):
            for root in sorted({0, 1 % size, size - 1}) if rooted else (0,):
                for in_place in (False, True) if algorithm.collective in IN_PLACE else (False,):
                    yield size, segments, root, in_place


def lengths(blocks):
    """Items per block: none, fewer than blocks, even, uneven, and most of them empty."""
    for total in (0, 1, blocks - 1, 3 * blocks, 3 * blocks + 2):
        yield np.array([len(part) for part in np.array_split(np.arange(total), blocks)])
    yield np.arange(blocks) % 3 * 4


@pytest.mark.parametrize("algorithm", CATALOGUE, ids=lambda a: f"{a.collective}-{a.name}")
def test_tables_of_all_ranks_give_the_result(algorithm):
    for size, segments, root, in_place in cases(algorithm):
        blocks = algorithm.blocks(size, segments)
        for items in [np.zeros(blocks, int)] if algorithm.collective == "barrier" else lengths(blocks):
            schedules = [algorithm.schedule(rank, size, root, segments) for rank in range(size)]
            check_tables(algorithm.collective, schedules, items, root, in_place)


def check_tables(collective, schedules, items, root=0, in_place=False):
    """Lower the schedules of all ranks for blocks of so many items, play them, and compare with what was promised."""
    contract, size, empty = CONTRACTS[collective], len(schedules), collective == "barrier"
    rng = np.random.default_rng(items.sum())
    values = rng.integers(0, 1000, (size, items.sum()))
    if not contract.reduces:
        values[:] = values[0]
    tables, memory, layouts = [], [], []
    for rank, schedule in enumerate(schedules):
        layout = layout_of(collective, rank, size, items * 8, root, in_place)
        table = lower(schedule, rank, size, layout, 8, finish=contract.reduces, empty=empty)
        given = np.full(items.sum(), -1)
        for block, at in enumerate(layout.source):
            if at >= 0:
                start = items[:block].sum()
                given[at // 8 :][: items[block]] = values[rank, start : start + items[block]]
        kept = given if in_place else np.full(items.sum(), -2)
        tables.append(table)
        layouts.append(layout)
        memory.append((given, kept, np.full(-(-table.scratch // 8), -3)))
    inputs = [m[0].copy() for m in memory]
    LoweredRanks(tables, memory, finish=lambda a: 3 * a).play()
    for rank, layout in enumerate(layouts):
        summands = contract.prefix(rank, size) if contract.prefix else size
        want = 3 * values[:summands].sum(0) if contract.reduces else values[0]
        untouched = np.ones(items.sum(), bool)
        for block, at in enumerate(layout.target):
            start = items[:block].sum()
            got = memory[rank][1][at // 8 :][: items[block]]
            assert at < 0 or (got == want[start : start + items[block]]).all(), (collective, size, root, rank)
            untouched[at // 8 :][: items[block] if at >= 0 else 0] = False
        assert in_place or (memory[rank][1][untouched] == -2).all(), "more was written than is wanted"
        assert in_place or (memory[rank][0] == inputs[rank]).all(), "an input was overwritten"
    return tables


def test_bytes_sent_equal_the_formula():
    """What the busiest rank sends or receives in bytes is the catalogue's volume times the size of a block."""
    for algorithm in CATALOGUE:
        if algorithm.collective == "barrier":
            continue
        for size, segments, root, in_place in cases(algorithm):
            blocks = algorithm.blocks(size, segments)
            sizes = np.full(blocks, 8)
            tables = [
                lower(
                    algorithm.schedule(rank, size, root, segments), rank, size,
                    layout_of(algorithm.collective, rank, size, sizes, root, in_place), 8,
                )
                for rank in range(size)
            ]  # fmt: skip
            received = max(8 * _received_blocks(table) for table in tables)
            assert max(received, *(t.sent for t in tables), 0) == 8 * algorithm.volume(size, segments)


def _received_blocks(table):
    return int(table.rows[table.rows[:, CODE] == RECV, COUNT].sum()) // 8


def test_a_message_longer_than_a_c_int_travels_in_pieces():
    nbytes = 2 * MESSAGE_BYTES + 8
    layout = Layout(np.array([nbytes]), np.array([0]), np.array([0]), True)
    schedule = next(a for a in CATALOGUE if (a.collective, a.name) == ("broadcast", "binomial")).schedule(0, 2, 0, 1)
    rows = lower(schedule, 0, 2, layout, 8).rows
    sends = rows[rows[:, CODE] == SEND]
    assert sends[:, COUNT].tolist() == [MESSAGE_BYTES, MESSAGE_BYTES, 8]
    assert len(set(sends[:, SLOT])) == 3
