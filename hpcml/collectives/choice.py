"""Which algorithm ``algorithm="auto"`` runs, in how many segments, and why.

In this order: what `hpcml tune` measured on as many ranks and nodes; on one node a rule from such measurements
(benchmarks/results/tune-*.txt); between nodes the cost model, with latency and bandwidth as they were probed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hpcml.collectives import algorithms, cost, shared
from hpcml.collectives.machine import Machine

SMALL = 16 << 10  # bytes up to which latency is all that counts
ONE_WAY = 1 << 10  # bytes below which a root need not wait for others where there are messages
LARGE_PARTS = 8 << 20  # bytes from which a scatter is faster by messages
PAIRS = 2 << 20, 16 << 20  # bytes between which two ranks do better by messages (allreduce-*-2.txt)
SEGMENT = 512 << 10  # bytes of a segment: long enough for the transport, short enough to be folded in the L2 cache
# Between nodes a segment is short, so that it goes out without asking the receiver first (rendezvous), which costs TCP
# links up to half their rate; but it takes this many times longer than the processor's work for a message.
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


def choose(machine: Machine, collective: str, nbytes: int, allowed: Callable[[str], bool]) -> Choice:
    """The algorithm for ``nbytes`` per rank (of the whole array, where parts differ) among those ``allowed``."""
    if machine.tuning is not None:
        for seconds, name in machine.tuning.ranking(collective, nbytes):
            if allowed(name):
                why = f"measured to be the fastest ({machine.tuning.path})"
                return Choice(name, segments(machine, collective, name, nbytes), seconds, why)
    if machine.network is not None:
        total = _of_all_blocks(machine, collective, nbytes)
        ranking = cost.ranking(collective, machine.size, total, machine.network)
        for seconds, row, _ in sorted(ranking, key=lambda c: c.seconds * (1 if c.algorithm.name in STEADY else DOUBT)):
            if allowed(row.name) and not (row.hierarchical and machine.lanes == 1):
                why = "the fastest by the cost model, with latency and bandwidth probed between the nodes"
                return Choice(row.name, segments(machine, collective, row.name, nbytes), seconds, why)
    shares = allowed(shared.NAME) and _shares_well(machine.size, collective, nbytes)
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
        shortest = max(EAGER_SEGMENT, int(OVERHEADS * link.further() / link.beta))
    return max(1, min(MOST_SEGMENTS, nbytes // row.blocks(machine.size, 1) // shortest))


def predicted(machine: Machine, collective: str, nbytes: int) -> list[tuple[float, str]]:
    """(seconds, algorithm) by measurement where there is one, else by the model, the fastest first."""
    if machine.tuning is not None and (measured := machine.tuning.ranking(collective, nbytes)):
        return measured
    total = _of_all_blocks(machine, collective, nbytes)
    return [(seconds, row.name) for seconds, row, _ in cost.ranking(collective, machine.size, total, network(machine))]


def network(machine: Machine) -> cost.Network:
    """The network as probed; on one node the model's own figures."""
    return machine.network or cost.Network(per_node=machine.size)


def _of_all_blocks(machine: Machine, collective: str, nbytes: int) -> int:
    """What the model counts: the bytes of all blocks, which for an all-to-all are the arrays of all ranks."""
    return nbytes * machine.size if collective == "alltoall" else nbytes


def _shares_well(size: int, collective: str, nbytes: int) -> bool:
    """Whether memory that the node shares is the fastest, as it mostly is."""
    if collective not in shared.COLLECTIVES:
        return False
    if collective in ("broadcast", "reduce", "gather", "scatter") and size > 2 and nbytes < ONE_WAY:
        return False
    if collective == "allreduce" and size == 2 and PAIRS[0] <= nbytes < PAIRS[1]:
        return False
    return not (collective == "scatter" and nbytes >= LARGE_PARTS)


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
