"""More than 2³¹ items in one call: more than a C int can count."""

import numpy as np
import pytest

from hpcml import collectives as hc

ITEMS = (1 << 31) + 12_345


@pytest.fixture
def large(comm):
    """An array of one-byte items; the test is skipped where two ranks have no room for three of them each."""
    with open("/proc/meminfo") as file:
        free = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) << 10
    wanted = comm.size * 3 * ITEMS
    if comm.size != 2 or comm.allreduce(free > 1.25 * wanted) != comm.size:
        pytest.skip(f"for 2 ranks with {wanted >> 30} GiB")
    return np.zeros(ITEMS, np.uint8)


def test_more_items_than_a_c_int_counts(comm, large):
    marks = np.array([0, 1 << 30, (1 << 31) - 1, 1 << 31, ITEMS - 1])
    large[marks] = 1 + comm.rank
    hc.allreduce(large, out=large, algorithm="ring")
    assert (large[marks] == 3).all() and np.count_nonzero(large) == len(marks)
    if comm.rank == 0:
        large[marks] = 5
    hc.broadcast(large)
    assert (large[marks] == 5).all()
    half = hc.scatter(large if comm.rank == 0 else None)
    assert len(half) == len(np.array_split(np.empty(ITEMS, bool), 2)[comm.rank])
    whole = hc.allgather(half, out=large)
    assert (whole[marks] == 5).all() and np.count_nonzero(whole) == len(marks)
