"""What "auto" takes where nothing was measured: a rule on one node, the cost model between nodes."""

from dataclasses import replace

import pytest

from hpcml.collectives.choice import EAGER_SEGMENT, choose, is_staged, lane_choice, segments, staged_seconds
from hpcml.collectives.cost import Level, Network
from hpcml.collectives.machine import Machine

ONE_NODE = {size: Machine("mpi-1.0", (0,) * size, None, None, shares=True) for size in (2, 4)}
# 150 µs and 12 MB/s, as over TCP at 100 Mbit/s.
FOUR_HOSTS = Machine("mpi-1.0", (0, 1, 2, 3), Network(Level(150e-6, 8.4e-8, 37e-6)), None)

TWO_OF_FOUR = Machine("mpi-1.0", (0,) * 4 + (1,) * 4, Network(Level(5e-5, 2e-8, 1e-5), per_node=4), None, shares=True)


def anything(name):
    return True


def messages(name):
    return name != "shared"


@pytest.mark.parametrize(
    ("collective", "size", "nbytes", "expected"),
    [
        ("allreduce", 2, 8, "shared"),
        ("allreduce", 2, 4 << 20, "ring"),
        ("allreduce", 4, 4 << 20, "shared"),
        ("allreduce", 2, 64 << 20, "shared"),
        ("broadcast", 4, 8, "binomial"),
        ("broadcast", 4, 1 << 20, "shared"),
        ("scatter", 2, 64 << 20, "direct"),
        ("alltoall", 4, 1 << 20, "shared"),
    ],
)
def test_the_rule_on_one_node(collective, size, nbytes, expected):
    assert choose(ONE_NODE[size], collective, nbytes, anything).algorithm == expected


def test_where_ranks_reach_each_others_memory_it_is_always_shared():
    for size, collective, nbytes in ((2, "allreduce", 4 << 20), (2, "scatter", 64 << 20), (4, "alltoall", 1 << 20)):
        machine = replace(ONE_NODE[size], process_ids=tuple(range(1, size + 1)))
        assert choose(machine, collective, nbytes, anything).algorithm == "shared"


def test_what_is_not_allowed_is_not_taken():
    for collective in ("allreduce", "broadcast", "allgather", "reduce_scatter", "gather", "scatter", "barrier"):
        assert choose(ONE_NODE[4], collective, 1 << 20, messages).algorithm != "shared"
    assert choose(ONE_NODE[4], "alltoall", 64, messages).algorithm == "bruck"
    assert choose(ONE_NODE[4], "alltoall", 1 << 20, messages).algorithm == "pairwise"


def test_between_nodes_large_arrays_go_round_in_short_segments():
    for collective, expected in (("allreduce", "ring"), ("reduce_scatter", "ring"), ("broadcast", "chain")):
        taken = choose(FOUR_HOSTS, collective, 8 << 20, anything)
        assert taken.algorithm == expected and taken.seconds is not None
        assert taken.segments > 1
    assert (8 << 20) // 4 // segments(FOUR_HOSTS, "allreduce", "ring", 8 << 20) >= EAGER_SEGMENT


def test_over_tcp_segments_are_short_however_long_a_message_takes():
    slow, fast = Level(330e-6, 1 / 58e6, 83e-6), Level(1.5e-6, 8e-11, 3e-7)
    sizes = []
    for link in (slow, fast):
        machine = Machine("mpi-1.0", tuple(range(8)), Network(link), None)
        sizes.append((4 << 20) // segments(machine, "broadcast", "chain", 4 << 20))
    assert sizes[0] == EAGER_SEGMENT and 2 * EAGER_SEGMENT < sizes[1] < 4 * EAGER_SEGMENT


def test_between_nodes_small_arrays_take_few_rounds():
    taken = choose(FOUR_HOSTS, "allreduce", 8, anything)
    assert taken.algorithm not in ("ring", "chain") and taken.seconds < 4 * 150e-6


def test_nodes_whose_ranks_share_memory_are_done_in_stages():
    for nbytes in (64 << 10, 16 << 20):
        taken = choose(TWO_OF_FOUR, "allreduce", nbytes, anything)
        seconds, lane = staged_seconds(TWO_OF_FOUR, "allreduce", nbytes)
        assert taken.algorithm == "hierarchical" and taken.seconds == seconds
        assert lane == lane_choice(TWO_OF_FOUR, "allreduce", nbytes // 4).algorithm
        # Four lanes share a link, over which all bytes go once each way.
        assert seconds > nbytes * 2e-8
        by_messages = choose(TWO_OF_FOUR, "allreduce", nbytes, anything, waits=False)
        assert by_messages.seconds != seconds
    assert is_staged(TWO_OF_FOUR, "allreduce", "hierarchical") and not is_staged(TWO_OF_FOUR, "allreduce", "ring")
    apart = replace(TWO_OF_FOUR, shares=False)
    uneven = replace(TWO_OF_FOUR, node_of=(0,) * 5 + (1,) * 3)
    for machine in (ONE_NODE[4], FOUR_HOSTS, apart, uneven):
        assert not is_staged(machine, "allreduce", "hierarchical")
