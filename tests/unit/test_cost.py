"""The time of collectives on paper: known cases by hand, closed forms against counted rounds, bounds against both."""

from math import inf, isclose

import numpy as np
import pytest

from hpcml.collectives import cost
from hpcml.collectives.algorithms import CATALOGUE, named
from hpcml.collectives.bounds import lower_bound
from hpcml.collectives.cost import Level, Network, best_segments, predict, ranking, seconds
from hpcml.collectives.phases import Load, Phase, count, merged

A, B, G = 3e-6, 2e-9, 5e-10
OVERHEAD = 1e-6
FLAT = Network(Level(A, B), G)
BY_NAME = {"ids": lambda a: f"{a.collective}-{a.name}"}


def counted(algorithm, size, segments=1, per_node=1):
    return count(algorithm.schedule(np.arange(size), size, 0, segments), size, per_node)


@pytest.mark.parametrize("algorithm", [a for a in CATALOGUE if a.phases], **BY_NAME)
def test_a_closed_form_is_what_is_counted(algorithm):
    for size in range(1, 18):
        for segments in (1, 2, 5) if algorithm.segmented else (1,):
            stated = merged(algorithm.phases(size, segments))
            assert stated == counted(algorithm, size, segments), f"p={size}, {segments} segments"


@pytest.mark.parametrize("algorithm", CATALOGUE, **BY_NAME)
def test_counted_rounds_agree_with_the_catalogue(algorithm):
    for size in (1, 2, 3, 6, 8, 13):
        phases = counted(algorithm, size)
        assert sum(phase.rounds for phase in phases) == algorithm.rounds(size, 1)
        assert sum(phase.rounds * phase.between.blocks for phase in phases) >= algorithm.volume(size, 1)


@pytest.mark.parametrize("p", [2, 5, 16])
@pytest.mark.parametrize("n", [0, 1000, 10**7])
def test_times_by_hand(p, n):
    lg = (p - 1).bit_length()

    def predicted(collective, name, segments=1):
        return seconds(named(collective, name), p, n, FLAT, segments)

    assert isclose(predicted("allreduce", "ring"), 2 * (p - 1) * (A + n / p * B) + (p - 1) * n / p * G)
    assert isclose(predicted("allreduce", "binomial"), 2 * lg * (A + n * B) + lg * n * G)
    assert isclose(predicted("broadcast", "binomial"), lg * (A + n * B))
    assert isclose(predicted("broadcast", "chain", 8), (p - 2 + 8) * (A + n / 8 * B))
    assert isclose(predicted("scatter", "direct"), (p - 1) * (A + n / p * B))
    assert isclose(predicted("scatter", "binomial"), lg * A + (p - 1) / p * n * B)


def test_parts_add_up():
    row = named("allreduce", "ring")
    whole = predict(row, 4, 4e6, FLAT)
    assert isclose(whole.latency, 6 * A)
    assert isclose(whole.bandwidth, 6e6 * B)
    assert isclose(whole.fold, 3e6 * G)
    assert isclose(whole.seconds, sum(whole[1:])) and whole.seconds == seconds(row, 4, 4e6, FLAT)


def test_segments_hide_the_fold_behind_the_wire():
    # A round of k messages: k(o + bβ) on the wire while the folds of the segments before go on; the last one ends it.
    p, n, k = 4, 4e8, 8
    b, network = n / p / k, Network(Level(A, B, OVERHEAD), G)
    last_round = A + b * B + (k - 1) * (OVERHEAD + b * B)
    by_hand = (2 * (p - 1) - 1) * k * (OVERHEAD + b * B) + last_round
    assert isclose(seconds(named("allreduce", "ring"), p, n, network, k), by_hand)
    unsegmented = seconds(named("allreduce", "ring"), p, n, network)
    assert unsegmented - by_hand > 0.99 * 3 * n / p * G


def test_two_ranks_that_exchange_take_turns_where_the_link_is_half_duplex():
    half = Network(Level(A, B, beta_mutual=2 * B), G)
    doubling, ring = (named("allreduce", name) for name in ("recursive_doubling", "ring"))
    assert isclose(seconds(doubling, 4, 1e6, half), 2 * (A + 2e6 * B + 1e6 * G))
    assert seconds(ring, 4, 1e6, half) == seconds(ring, 4, 1e6, FLAT)
    assert isclose(seconds(ring, 2, 1e6, half), 2 * (A + 1e6 * B) + 5e5 * G)


def test_ranks_of_a_node_share_its_port():
    # Ranks 0, 1 | 2, 3: all four cross at distance 2, none at distance 1.
    crossing, staying = Load(1, 2, 2), Load(1, 1, 1)
    doubling = named("allreduce", "recursive_doubling")
    assert counted(doubling, 4, per_node=2) == (Phase(1, Load(), staying, 1), Phase(1, crossing, Load(), 1))
    inside = Level(A / 10, B / 4)
    network = Network(Level(A, B), G, inside, per_node=2)
    n = 1e6
    assert isclose(seconds(doubling, 4, n, network), A / 10 + n * B / 4 + A + 2 * n * B + 2 * n * G)
    assert isclose(lower_bound("allreduce", 4, n, network).bandwidth, n * B)
    everything_inside = Network(Level(inf, inf), G, inside, per_node=64)
    assert isclose(seconds(doubling, 4, n, everything_inside), 2 * (A / 10 + n * B / 4 + n * G))


@pytest.mark.parametrize("algorithm", [a for a in CATALOGUE if a.hierarchical], **BY_NAME)
def test_what_works_by_nodes_is_told_how_many_ranks_they_have(algorithm):
    p = 16
    n = 1e8 if algorithm.collective == "allreduce" else 1e3  # in a long chain it does not matter whose rank is next
    network = Network(Level(A, B), 0.0, Level(A / 10, B / 10), per_node=4)
    blind = count(algorithm.schedule(np.arange(p), p, 0, 1, 1), p, 4)
    unaware = cost.duration(blind, n / algorithm.blocks(p, 1), network)
    assert seconds(algorithm, p, n, network) < 0.7 * unaware
    uneven = seconds(algorithm, 15, n, network)
    assert uneven == cost.duration(
        count(algorithm.schedule(np.arange(15), 15), 15, 4), n / algorithm.blocks(15, 1), network
    )


@pytest.mark.parametrize("algorithm", CATALOGUE, **BY_NAME)
def test_nothing_is_faster_than_the_bound(algorithm):
    networks = [
        Network(Level(A, B, overhead), gamma, Level(A / inner, B / inner, overhead), per_node)
        for overhead, gamma in ((None, G), (A / 3, 0.0), (A / 50, 10 * B), (0.0, B))
        for inner, per_node in ((1, 1), (1, 2), (4, 3), (1, 64))
    ]
    for size in (1, 2, 3, 4, 6, 8, 13, 17):
        for network in networks:
            for n in (0.0, 1e3, 1e8):
                bound = lower_bound(algorithm.collective, size, n, network)
                for segments in (1, 4) if algorithm.segmented else (1,):
                    predicted = seconds(algorithm, size, n, network, segments)
                    assert predicted >= bound.seconds * (1 - 1e-9), (size, network, n, segments)


def test_bounds_by_hand():
    bound = lower_bound("allreduce", 8, 1e6, FLAT)
    assert bound.latency == 3 * A
    assert isclose(bound.bandwidth, 2 * 7 / 8 * 1e6 * B)
    assert isclose(bound.fold, 7 / 8 * 1e6 * G)
    assert bound.seconds == max(bound)
    assert lower_bound("broadcast", 1, 1e6, FLAT).seconds == 0
    # LogP with o = α/2: 1 knows at 0; messages leave at 0, 1, 2, … halves; 1, 1, 2, 3, 5, 8 know after as many.
    quick = Network(Level(A, B, A / 2), G)
    assert isclose(lower_bound("broadcast", 5, 0, quick).latency, 4 * A / 2)
    assert isclose(lower_bound("broadcast", 6, 0, quick).latency, 5 * A / 2)


def test_segments_are_chosen_where_they_pay():
    ring, chain = named("allreduce", "ring"), named("broadcast", "chain")
    assert best_segments(ring, 8, 1e3, FLAT) == 1
    assert best_segments(named("broadcast", "binomial"), 8, 1e9, FLAT) == 1
    found = best_segments(chain, 10, 1e7, FLAT)
    ideal = np.sqrt(1e7 * B * 8 / A)  # (p − 2 + k)(α + n/k β) is least at k² = (p − 2)nβ/α
    assert found in cost.SEGMENTS and ideal / 1.5 < found < ideal * 1.5
    one_node = Network(Level(A / 100, B), G, Level(A, B), per_node=10)
    assert best_segments(chain, 10, 1e7, one_node) == found


def test_ranking_names_the_right_ones():
    for p in (16, 10_000):
        small, large = ranking("allreduce", p, 8, FLAT), ranking("allreduce", 16, 1e9, FLAT)
        assert small[0].algorithm.rounds(p, 1) < 2 * (p - 1).bit_length()
        assert large[0].seconds <= seconds(named("allreduce", "ring"), 16, 1e9, FLAT)
        assert [choice.seconds for choice in small] == sorted(choice.seconds for choice in small)
        assert {choice.algorithm.name for choice in small} == {a.name for a in CATALOGUE if a.collective == "allreduce"}
