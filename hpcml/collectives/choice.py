"""Which algorithm ``algorithm="auto"`` runs, in how many segments, and why.

In this order: what `hpcml tune` measured on as many ranks and nodes; on one node a rule from such measurements
(benchmarks/results/tune-*.txt); between nodes the cost model, with latency and bandwidth as they were probed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from hpcml.collectives import algorithms, cost, shared
from hpcml.collectives.machine import Machine

SMALL = 16 << 10  # bytes up to which latency is all that counts
ONE_WAY = 1 << 10  # bytes below which a root need not wait for others where there are messages
# Where ranks cannot reach each other's private memory, so that all goes through slots:
LARGE_PARTS = 8 << 20  # bytes from which a scatter is faster by messages
PAIRS = 2 << 20, 16 << 20  # bytes between which two ranks do better by messages
SEGMENT = 512 << 10  # bytes of a segment: long enough for the transport, short enough to be folded in the L2 cache
# Over TCP a segment is short, so that it goes out without asking the receiver first (rendezvous), which costs up to
# half the rate. On faster links it takes this many times longer than the processor's work for a message.
TCP = 1e-5  # seconds of latency; what is faster is no TCP
EAGER_SEGMENT = 32 << 10
OVERHEADS = 20
MOST_SEGMENTS = 256
# Algorithms that use each link one way, to one neighbour: they come up to the model's time. The others may lose up to
# half of it where ranks send to each other (benchmarks/results/cluster-allreduce-*.txt), so they have to promise more.
STEADY = ("ring", "chain")
DOUBT = 1.2


class Choice(NamedTuple):
    """An algorithm, its number of segments, the time expected of it (None: not known), and why it was taken."""

    algorithm: str
    segments: int
    seconds: float | None
    why: str


def choose(
    machine: Machine, collective: str, nbytes: int, allowed: Callable[[str], bool], waits: bool = True
) -> Choice:
    """The algorithm for ``nbytes`` per rank (of the whole array, where parts differ) among those ``allowed``.

    waits: it gets on in its own calls, so that those that work by nodes can use memory that the nodes' ranks share.
    """
    if machine.tuning is not None:
        for seconds, name in machine.tuning.ranking(collective, nbytes):
            if allowed(name):
                why = f"measured to be the fastest ({machine.tuning.path})"
                return Choice(name, segments(machine, collective, name, nbytes), seconds, why)
    if machine.network is not None:
        ranking = _by_the_model(machine, collective, nbytes, waits)
        for seconds, name, _ in sorted(ranking, key=lambda found: found[0] * (1 if found[2] else DOUBT)):
            if allowed(name) and not (machine.lanes == 1 and algorithms.named(collective, name).hierarchical):
                why = "the fastest by the cost model, with latency and bandwidth probed between the nodes"
                return Choice(name, segments(machine, collective, name, nbytes), seconds, why)
    shares = allowed(shared.NAME) and _shares_well(machine, collective, nbytes)
    name = shared.NAME if shares else _rule(machine.size, collective, nbytes)
    why = "a rule for ranks of one node; 'hpcml tune' measures this machine"
    return Choice(name, segments(machine, collective, name, nbytes), None, why)


def segments(machine: Machine, collective: str, name: str, nbytes: int) -> int:
    """In how many segments that algorithm is best run; ``nbytes`` as in `choose`."""
    if name not in (row.name for row in algorithms.of(collective)):
        return 1
    row = algorithms.named(collective, name)
    if not row.segmented:
        return 1
    shortest = SEGMENT
    if machine.network is not None:
        link = machine.network.between
        shortest = EAGER_SEGMENT
        if link.alpha < TCP:
            shortest = max(shortest, int(OVERHEADS * link.further() / link.beta))
    return max(1, min(MOST_SEGMENTS, nbytes // row.blocks(machine.size, 1) // shortest))


def predicted(machine: Machine, collective: str, nbytes: int) -> list[tuple[float, str]]:
    """(seconds, algorithm) by measurement where there is one, else by the model, the fastest first."""
    if machine.tuning is not None and (measured := machine.tuning.ranking(collective, nbytes)):
        return measured
    return sorted((seconds, name) for seconds, name, _ in _by_the_model(machine, collective, nbytes))


def network(machine: Machine) -> cost.Network:
    """The network as probed; on one node the model's own figures."""
    return machine.network or cost.Network(per_node=machine.size)


def is_staged(machine: Machine, collective: str, name: str) -> bool:
    """Whether that algorithm goes through shared memory inside the nodes, in stages (see `by_node`)."""
    if not machine.shares or machine.nodes == 1 or machine.lanes == 1:
        return False
    return any(row.name == name and row.hierarchical for row in algorithms.of(collective))


def lane_choice(machine: Machine, collective: str, nbytes: int) -> Choice:
    """The algorithm for the lanes, each of which does ``nbytes`` among one rank of each node, all at the same time."""
    between = network(machine).between
    mutual = between.beta_mutual
    lanes = machine.lanes
    link = replace(between, beta=between.beta * lanes, beta_mutual=None if mutual is None else mutual * lanes)
    among = replace(network(machine), between=link, per_node=1)
    lane = Machine(machine.library, tuple(range(machine.nodes)), among, None)
    return choose(lane, collective, nbytes, lambda name: name != shared.NAME)


def staged_seconds(machine: Machine, collective: str, nbytes: int) -> tuple[float, str]:
    """What it takes through shared memory inside the nodes by the model, and the algorithm of the lanes.

    A rank copies the bytes once where a message would copy them twice, in and out of the memory between two ranks.
    """
    lanes, net = machine.lanes, network(machine)
    lane = lane_choice(machine, collective, -(-nbytes // lanes))
    inside = net.inside.alpha + nbytes * net.inside.beta / 2
    folds = (lanes - 1) / lanes * nbytes * net.gamma if collective == "allreduce" else 0.0
    return 2 * inside + folds + (lane.seconds or 0.0), lane.algorithm


def _by_the_model(machine: Machine, collective: str, nbytes: int, waits: bool = True) -> list[tuple[float, str, bool]]:
    """(seconds, algorithm, whether it is one of the `STEADY`) of each."""
    found = []
    ranking = cost.ranking(collective, machine.size, _of_all_blocks(machine, collective, nbytes), network(machine))
    for seconds, row, _ in ranking:
        name = row.name
        if waits and is_staged(machine, collective, row.name):
            seconds, name = staged_seconds(machine, collective, nbytes)
        found.append((seconds, row.name, name in STEADY))
    return found


def _of_all_blocks(machine: Machine, collective: str, nbytes: int) -> int:
    """What the model counts: the bytes of all blocks, which for an all-to-all are the arrays of all ranks."""
    return nbytes * machine.size if collective == "alltoall" else nbytes


def _shares_well(machine: Machine, collective: str, nbytes: int) -> bool:
    """Whether memory that the node shares is the fastest, as it mostly is."""
    size, slots = machine.size, not machine.process_ids
    if collective not in shared.COLLECTIVES:
        return False
    if collective in ("broadcast", "reduce", "gather", "scatter") and size > 2 and nbytes < ONE_WAY:
        return False
    if slots and collective == "allreduce" and size == 2 and PAIRS[0] <= nbytes < PAIRS[1]:
        return False
    return not (slots and collective == "scatter" and nbytes >= LARGE_PARTS)


def _rule(size: int, collective: str, nbytes: int) -> str:
    if collective == "allreduce":
        if nbytes <= max(SMALL, (1 << 20) // size**2):
            return "recursive_doubling"
        return "ring" if nbytes >= (1 << 20) * size else "rabenseifner"
    if collective == "broadcast":
        if nbytes <= SMALL or size == 2:
            return "binomial"
        return "chain" if nbytes >= (64 << 10) * size else "scatter_allgather"
    if collective in ("scatter", "gather"):
        return "binomial" if nbytes <= (4 << 10) * size else "direct"
    if collective == "alltoall":
        return "bruck" if nbytes <= 256 * size and size > 2 else "pairwise"
    rest = {"reduce": "binomial", "allgather": "ring", "reduce_scatter": "ring", "barrier": "dissemination"}
    return rest.get(collective, "recursive_doubling")
