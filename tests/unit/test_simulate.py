"""Schedules on simulated machines: rounds made lazily, loads of links against brute force, sampled against full."""

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import product
from math import isclose

import numpy as np
import pytest

from hpcml.cli import Ending, main, parse
from hpcml.collectives.algorithms import CATALOGUE, named
from hpcml.collectives.bounds import lower_bound
from hpcml.collectives.contracts import CONTRACTS
from hpcml.collectives.cost import Level, seconds
from hpcml.collectives.phases import columns
from hpcml.collectives.schedule import Finish
from hpcml.paper import report, topology
from hpcml.paper.comparison import compare
from hpcml.paper.deferred import Deferred
from hpcml.paper.simulation import Machine, TooLargeError, simulate

BY_NAME = {"ids": lambda a: f"{a.collective}-{a.name}"}
ALPHA, BETA, GAMMA, OVERHEAD = 2e-6, 1e-9, 3e-10, 4e-7
INSIDE = Level(5e-7, 5e-10, 2e-7)


def machine(text, per_node=1, alpha=(ALPHA, 1e-7), beta=(BETA, 2 * BETA)):
    levels = 1 if text == "flat" else 2
    return Machine(topology.parse(text, alpha[:levels], beta[:levels]), OVERHEAD, INSIDE, GAMMA, per_node)


@pytest.mark.parametrize("algorithm", CATALOGUE, **BY_NAME)
def test_a_deferred_round_is_the_round(algorithm):
    for size in (1, 2, 5, 8, 24):
        segments = 3 if algorithm.segmented else 1
        plain = algorithm.schedule(np.arange(size), size, 0, segments)
        deferred = algorithm.schedule(Deferred.ranks(size), size, 0, segments)
        some = np.array([0, size // 2, size - 1])
        for known, later in zip(plain, deferred, strict=True):
            if isinstance(known, Finish):
                continue
            for a, b in zip(known, later, strict=True):
                if isinstance(b.dest, Deferred):
                    assert (np.broadcast_to(a.dest, size)[some] == b.dest.at(some)).all()
                assert all((x == y).all() for x, y in zip(columns(a, size), columns(b, size), strict=True))


@pytest.mark.parametrize("algorithm", CATALOGUE, **BY_NAME)
def test_on_a_flat_network_it_is_the_model(algorithm):
    for size, per_node in product((1, 2, 3, 7, 16), (1, 3)):
        flat = machine("flat", per_node)
        for segments in (1, 4) if algorithm.segmented else (1,):
            found = simulate(algorithm, size, segments, flat)
            assert not found.sampled
            for n in (0, 1e7):
                model = seconds(algorithm, size, n, flat.network(), segments)
                assert found.predict(n).seconds == pytest.approx(model)


def test_the_ring_on_thousands_of_ranks_by_hand():
    p, n = 5000, 1e9
    found = simulate(named("allreduce", "ring"), p, 1, machine("flat"))
    assert not found.sampled and len(found.stretches) == 2
    by_hand = 2 * (p - 1) * (ALPHA + n / p * BETA) + (p - 1) * n / p * GAMMA
    assert isclose(found.predict(n).seconds, by_hand)
    assert isclose(sum(found.predict(n)[1:]), by_hand)


@pytest.mark.parametrize("text", ["torus:4x4x4", "fat-tree:8:3", "dragonfly:4x2"])
@pytest.mark.parametrize("algorithm", CATALOGUE, **BY_NAME)
def test_sampled_rounds_stand_for_all(algorithm, text):
    few, full = (simulate(algorithm, 64, 1, machine(text), worked_out) for worked_out in (8, 1000))
    assert not full.sampled
    if not few.sampled:
        assert few == full
    for n in (0, 1e8):
        assert few.predict(n).seconds == pytest.approx(full.predict(n).seconds, rel=0.25)


def test_what_a_schedule_computes_for_all_ranks_at_once_goes_with_what_is_deferred():
    size, some = 6, np.array([1, 4])
    rank, table = Deferred.ranks(size), np.arange(size) ** 2
    looked_up, everybody = np.take(table, rank), np.asarray((rank + 1) % size)
    assert (np.where(rank % 2, looked_up, everybody).at(some) == [1, 5]).all()
    listed = np.expand_dims(rank, -1) * 10 + np.arange(size)  # a row for each rank, as long as there are ranks
    assert (listed.at(some) == np.array([[10], [40]]) + np.arange(size)).all()
    assert np.asarray(listed).shape == (size, size)
    with pytest.raises(TypeError, match="no truth value"):
        bool(rank > 2)


def test_rounds_that_are_alike_need_no_sampling():
    for name in ("ring", "recursive_doubling"):
        assert not simulate(named("allreduce", name), 64, 1, machine("torus:8x8"), worked_out=8).sampled
    assert simulate(named("broadcast", "chain"), 64, 4, machine("torus:8x8"), worked_out=8).sampled


@pytest.mark.parametrize("algorithm", CATALOGUE, **BY_NAME)
def test_no_topology_is_faster_than_the_bound(algorithm):
    for text, per_node in product(("flat", "fat-tree:2:2", "dragonfly:2x2", "torus:3x2x2"), (1, 2)):
        size = 12 * per_node
        simulated = simulate(algorithm, size, 1, machine(text, per_node))
        for n in (0, 1e8):
            bound = lower_bound(algorithm.collective, size, n, machine(text, per_node).network())
            assert simulated.predict(n).seconds >= bound.seconds * (1 - 1e-9)


def test_fat_tree_by_hand():
    tree = topology.FatTree((ALPHA, 1e-7), (BETA, BETA), leaf=4, oversubscription=2.0)
    source, blocks = np.arange(4), np.array([1, 1, 1, 1])
    # Four ports' worth through uplinks that are two ports wide.
    assert tree.passage(source, source + 4, blocks, 8) == pytest.approx((ALPHA + 2e-7, 2 * BETA))
    within = tree.passage(source, (source + 1) % 4, blocks, 8)
    assert within == pytest.approx((ALPHA, BETA))
    one_port = tree.passage(np.array([1, 2, 3]), np.array([0, 0, 0]), np.array([1, 1, 5]), 8)
    assert one_port == pytest.approx((ALPHA, 7 * BETA))


def random_messages(nodes, seed=3):
    rng = np.random.default_rng(seed)
    source, dest = rng.integers(0, nodes, (2, 3 * nodes))
    different = source != dest
    return source[different], dest[different], rng.integers(1, 5, different.sum())


@pytest.mark.parametrize("shape", [(7,), (4, 6), (2, 3, 5)])
def test_torus_against_walking_the_paths(shape):
    nodes = int(np.prod(shape))
    source, dest, blocks = random_messages(nodes)
    load, longest = Counter(), 0
    for start, end, weight in zip(source, dest, blocks, strict=True):
        here, there, hops = list(np.unravel_index(start, shape)), np.unravel_index(end, shape), 0
        for axis in reversed(range(len(shape))):
            up = (there[axis] - here[axis]) % shape[axis]
            step = 1 if up <= shape[axis] - up else -1
            while here[axis] != there[axis]:
                load[tuple(here), axis, step] += weight
                here[axis] = (here[axis] + step) % shape[axis]
                hops += 1
        longest = max(longest, hops)
    torus = topology.Torus((ALPHA, 1e-7), (0.0, BETA), shape)
    found = torus.passage(source, dest, blocks, nodes)
    assert found == pytest.approx((ALPHA + longest * 1e-7, max(load.values()) * BETA))


def test_dragonfly_against_walking_the_paths():
    routers, hosts, nodes = 4, 3, 60
    source, dest, blocks = random_messages(nodes)
    groups, bundle = 5, 3  # 12 global links a group, to 4 others
    local, between, longest = Counter(), Counter(), 0.0
    for start, end, weight in zip(source, dest, blocks, strict=True):
        router, last, latency = divmod(start // hosts, routers), divmod(end // hosts, routers), 0.0
        path = [router]
        if router[0] != last[0]:
            lane = end % bundle
            path += [(router[0], (last[0] * bundle + lane) % routers), (last[0], (router[0] * bundle + lane) % routers)]
            between[router[0], last[0], lane] += weight
            latency += 1e-6
        path.append(last)
        for a, b in zip(path, path[1:], strict=False):
            if a[0] == b[0] and a != b:
                local[a, b] += weight
                latency += 1e-7
        longest = max(longest, latency)
    assert groups == nodes // (routers * hosts)
    for betas in ((0.0, BETA, 0.0), (0.0, 0.0, BETA)):
        fly = topology.Dragonfly((ALPHA, 1e-7, 1e-6), betas, routers, hosts)
        load = max((local if betas[1] else between).values())
        assert fly.passage(source, dest, blocks, nodes) == pytest.approx((ALPHA + longest, load * BETA))


def test_topologies_are_read_and_refused():
    tree = topology.parse("fat-tree:32:2.5", [1e-6], [1e-9, 2e-9])
    assert (tree.leaf, tree.oversubscription, tree.beta) == (32, 2.5, (1e-9, 2e-9))
    assert tree.alpha == (1e-6, topology.SWITCH_ALPHA)
    assert topology.parse("torus:4x5", [1e-6], [1e-9]).shape == (4, 5)
    for wrong in (
        "ring",
        "flat:3",
        "fat-tree",
        "fat-tree:8:0",
        "dragonfly:8",
        "dragonfly:8x2x2",
        "torus:4xb",
        "torus:0x4",
    ):
        with pytest.raises(ValueError, match=f"found {wrong!r}, expected"):
            topology.parse(wrong, [1e-6], [1e-9])
    with pytest.raises(ValueError, match="found 3 values of alpha, expected up to 2: port, hop"):
        topology.parse("torus:4x5", [1e-6] * 3, [1e-9])
    with pytest.raises(ValueError, match="a torus of 4x5 joins 20 nodes, found 21"):
        topology.parse("torus:4x5", [1e-6], [1e-9]).check(21)


def test_what_is_too_large_is_said():
    row = named("scatter", "direct")
    with pytest.raises(TooLargeError, match="a round has 19999 messages a rank"):
        simulate(row, 20_000, 1, machine("flat"))
    point = compare([row, named("scatter", "binomial")], [(20_000, 10**6)], machine("flat"))[0]
    assert [e.algorithm for e in point.entries] == ["binomial", "direct"]
    assert "direct" in report.table(point) and "not simulated" in report.table(point)


def test_an_all_to_all_is_of_the_array_of_each_rank():
    point = compare([named("alltoall", "pairwise")], [(8, 8000)], machine("flat"))[0]
    assert point.entries[0].sent == 7000
    assert isclose(point.entries[0].seconds, 7 * (ALPHA + 1000 * BETA))


def test_the_command(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    outputs = ["--json", str(tmp_path / "s.json"), "--plot", str(tmp_path / "s.png")]
    machine_of_two_levels = ["--alpha", "2us", "--beta", "1GB/s", "--gamma", "4GB/s", "--overhead", "2us"]
    assert main(["simulate", "allreduce", "--ranks", "10", "--bytes", "1MB", *machine_of_two_levels, *outputs]) == 0
    printed = capsys.readouterr().out
    assert "10 ranks, 1 MB" in printed
    ring = next(line for line in printed.splitlines() if line.startswith("ring")).split()
    record = json.loads((tmp_path / "s.json").read_text())["points"][0]["algorithms"]
    found = next(e for e in record if e["algorithm"] == "ring")
    segments = found["segments"]
    assert isclose(found["seconds"], seconds(named("allreduce", "ring"), 10, 1e6, _network(), segments))
    assert ring[1:4] == [str(segments), "18", "1.8"]
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert main(["simulate", "barrier", "--ranks", "64", "--sweep", "ranks", "--plot", str(tmp_path / "b.svg")]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if "0 B" in line] == ["4", "16", "64"]


def _network():
    from hpcml.collectives.cost import Network

    return Network(Level(2e-6, 1e-9, 2e-6), 2.5e-10)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["sing"], "there is no collective 'sing'"),
        (["allreduce", "--algorithms", "rang"], "allreduce has no algorithm 'rang'"),
        (["allreduce", "--topology", "torus:3x3"], "a torus of 3x3 joins 9 nodes, found 8"),
        (["allreduce", "--json", "/nowhere/at/all.json"], "there is no folder /nowhere/at"),
    ],
)
def test_wrong_arguments_are_refused(arguments, said, capsys):
    assert main(["simulate", *arguments, "--ranks", "8"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--alpha", "2"], ["--beta", "fast"], ["--beta", "0GB/s"], ["--bytes", "1QB"]])
def test_units_are_checked_while_parsing(option):
    with pytest.raises(Ending, match=f"found '{option[1]}', expected a"):
        parse(["simulate", "allreduce", "--ranks", "8", *option])


def test_no_mpi_is_started():
    program = """
import sys
from hpcml.cli import main
status = main(["simulate", "allreduce", "--ranks", "100"])
from mpi4py import MPI
sys.exit(status or MPI.Is_initialized())
"""
    environment = {name: value for name, value in os.environ.items() if "OMPI" not in name and "PMI" not in name}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    "raised, status, said", [("KeyboardInterrupt", 130, "interrupted"), ("KeyError", 1, "KeyError")]
)
def test_an_end_without_mpi_is_a_plain_one(raised, status, said):
    program = f"""
import sys
from hpcml.commands import simulate
from hpcml.cli import main
def points(args):
    raise {raised}
simulate._points = points
sys.exit(main(["simulate", "allreduce", "--ranks", "100"]))
"""
    environment = {name: value for name, value in os.environ.items() if "OMPI" not in name and "PMI" not in name}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert found.returncode == status and said in found.stderr and "MPI_" not in found.stderr


def test_every_collective_has_a_bound():
    for collective in CONTRACTS:
        assert lower_bound(collective, 4, 1e6, machine("flat").network()).latency > 0
