"""Latency and bandwidth between each pair of nodes, and whether a pair can send both ways at once.

Pairs of nodes are measured several at a time, in the rounds of a tournament (the circle method), so all are done after
as many rounds as there are nodes. A pair that shares a switch with the others of its round may be slowed down by them,
all pairs alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median

from hpcml.doctor.finding import Finding, fine, warning
from hpcml.doctor.place import Facts, Place, World

TAG = 78
ROUND_TRIPS = 20
FIRST, LONGEST = 64 << 10, 4 << 20  # bytes
ENOUGH_SECONDS = 20e-3  # a transfer that takes as long tells the bandwidth
REPEATS = 3
SLOW = 0.6  # of the median bandwidth
LATE = 3.0  # times the median latency,
LEAST_LATE = 50e-6  # and as many seconds above it
GIGABIT = 90e6  # bytes per second: what is below is no link for gradients
HALF_DUPLEX = 1.6  # times a one-way transfer, for two at once
BY_MEMORY = 2.5e9  # bytes per second: from here on the hosts' memory may set the pace, not the transport


def rounds(nodes: int) -> Iterator[list[tuple[int, int]]]:
    """Each pair of ``nodes`` once; no node twice in a round. ``nodes - 1`` rounds, one more if they are odd."""
    places = list(range(nodes + nodes % 2))
    for _ in range(len(places) - 1):
        half = len(places) // 2
        pairs = zip(places[:half], reversed(places[half:]), strict=True)
        yield [(min(a, b), max(a, b)) for a, b in pairs if max(a, b) < nodes]
        places.insert(1, places.pop())


def look(place: Place) -> Facts:
    """Collective. On the first rank of the lower node of a pair: its figures."""
    facts: Facts = {"pairs": []}
    node = place.node_of[place.rank]
    for pairs in rounds(len(place.firsts)):
        for low, high in pairs:
            if place.rank in (place.firsts[low], place.firsts[high]):
                other = high if node == low else low
                figures = _pair(place.comm, place.firsts[other], node == low)
                if node == low:
                    facts["pairs"].append({"nodes": [low, high], **figures})
        place.comm.Barrier()
    return facts


def _pair(comm, other: int, leads: bool) -> Facts:
    import numpy as np

    def turn(nbytes_there: int, nbytes_back: int, repeats: int) -> float:
        """Median seconds of a message there and one back, as who leads sees it."""
        there, back = np.zeros(nbytes_there, np.uint8), np.zeros(nbytes_back, np.uint8)
        times = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            if leads:
                comm.Send(there, other, TAG)
                comm.Recv(back, other, TAG)
            else:
                comm.Recv(there, other, TAG)
                comm.Send(back, other, TAG)
            times.append(time.perf_counter() - start)
        return median(times[1:])

    def long(transfer: Callable[[int], float]) -> tuple[int, float]:
        nbytes = FIRST
        while True:
            seconds = transfer(nbytes)
            enough = comm.sendrecv(seconds > ENOUGH_SECONDS or nbytes >= LONGEST, other, TAG, source=other, recvtag=TAG)
            done = (seconds > ENOUGH_SECONDS or nbytes >= LONGEST) if leads else enough  # who leads decides
            if done:
                return nbytes, seconds
            nbytes *= 4

    round_trip = turn(8, 8, ROUND_TRIPS)
    nbytes, there = long(lambda n: turn(n, 8, REPEATS))
    back = turn(8, nbytes, REPEATS)
    one, two = np.zeros(nbytes, np.uint8), np.zeros(nbytes, np.uint8)
    both = []
    for _ in range(REPEATS + 1):
        comm.sendrecv(None, other, TAG, source=other, recvtag=TAG)
        start = time.perf_counter()
        comm.Sendrecv(one, other, TAG, two, other, TAG)
        both.append(time.perf_counter() - start)
    least = round_trip / 2
    return {
        "latency": least,
        "there": nbytes / max(there - least, 1e-9),
        "back": nbytes / max(back - least, 1e-9),
        "both": nbytes / max(median(both[1:]) - least, 1e-9),
        "nbytes": nbytes,
    }


def pairs_of(world: World) -> list[Facts]:
    return [pair for facts in world.facts for pair in facts["pairs"]]


def judge(world: World) -> Sequence[Finding]:
    pairs = pairs_of(world)
    if not pairs:
        return [fine("one node: no link between nodes")]
    return [*_slow(world, pairs), *_late(world, pairs), *_both_ways(world, pairs)] or [_told(pairs)]


def _told(pairs: list[Facts]) -> Finding:
    rates = [rate for pair in pairs for rate in (pair["there"], pair["back"])]
    latencies = [pair["latency"] for pair in pairs]
    return fine(
        f"{len(pairs)} pair{'s' * (len(pairs) > 1)} of nodes: {_rate(min(rates))} to {_rate(max(rates))}, "
        f"latency {min(latencies) * 1e6:,.0f} to {max(latencies) * 1e6:,.0f} µs"
    )


def _slow(world: World, pairs: list[Facts]) -> list[Finding]:
    rates = {}  # of (from, to)
    for pair in pairs:
        a, b = pair["nodes"]
        rates[a, b], rates[b, a] = pair["there"], pair["back"]
    usual = median(rates.values())
    slow = {link for link, rate in rates.items() if rate < SLOW * usual}
    why = "a collective goes at the pace of its slowest link: all ranks wait for this one"
    findings = []
    for node, way in _culprits(slow, len(world.nodes)):
        its = [rate for (a, b), rate in rates.items() if (a, b) in slow and node in (a, b)]
        slow = {(a, b) for a, b in slow if node not in (a, b)}
        findings.append(
            warning(
                f"{world.host(node)} {way} at {_rate(median(its))}; the median of all links is {_rate(usual)}",
                why,
                f"leave it out (sbatch --exclude={world.host(node)}), and have its link looked at: ethtool or ibstat "
                "tell the negotiated speed and errors",
            )
        )
    for a, b in sorted(slow):
        findings.append(
            warning(
                f"from {world.host(a)} to {world.host(b)} {_rate(rates[a, b])}; the median of all links is "
                f"{_rate(usual)}",
                why,
                f"leave one of them out (sbatch --exclude={world.host(b)}); have the switch between them looked at",
            )
        )
    if usual < GIGABIT:
        findings.append(
            warning(
                f"between nodes the median is {_rate(usual)}, less than gigabit Ethernet",
                "the sum of gradients takes longer than computing them",
                "if there is a faster network, MPI does not use it: --mca btl_tcp_if_include IF or --mca pml ucx "
                "(Open MPI), FI_PROVIDER and FI_TCP_IFACE (MPICH); if not, hpcml train --wire float16 --overlap",
            )
        )
    return findings


def _culprits(slow: set[tuple[int, int]], nodes: int) -> list[tuple[int, str]]:
    """The nodes that are slow to or from all others, and how. Not told of two nodes: it may be either."""
    found: list[tuple[int, str]] = []
    if nodes < 3:
        return found
    for node in range(nodes):
        others = [other for other in range(nodes) if other != node]
        sends = all((node, other) in slow for other in others)
        receives = all((other, node) in slow for other in others)
        if sends or receives:
            found.append((node, "sends and receives" if sends and receives else "sends" if sends else "receives"))
    return found


def _late(world: World, pairs: list[Facts]) -> list[Finding]:
    usual = median(pair["latency"] for pair in pairs)
    late = [pair for pair in pairs if pair["latency"] > max(LATE * usual, usual + LEAST_LATE)]
    if not late:
        return []
    worst = max(late, key=lambda pair: pair["latency"])
    a, b = (world.host(node) for node in worst["nodes"])
    return [
        warning(
            f"latency between {a} and {b} is {worst['latency'] * 1e6:,.0f} µs; the median is {usual * 1e6:,.0f} µs"
            + (f"; {len(late) - 1} more pairs are late" if len(late) > 1 else ""),
            "small messages and barriers take as long as the slowest pair",
            "ask for nodes of one switch (sbatch --switches=1), and see whether something else computes there",
        )
    ]


def _both_ways(world: World, pairs: list[Facts]) -> list[Finding]:
    half = [pair for pair in pairs if pair["both"] * HALF_DUPLEX < min(pair["there"], pair["back"], BY_MEMORY)]
    if 2 * len(half) <= len(pairs):
        return []
    share = median(pair["both"] / min(pair["there"], pair["back"]) for pair in half)
    return [
        warning(
            f"two nodes that send {half[0]['nbytes'] / (1 << 20):g} MiB to each other at once get {share:.0%} of the "
            "rate each",
            "this MPI's transport is half-duplex for large messages: algorithms that exchange (recursive halving, "
            "pairwise) take up to twice as long; 'auto' knows, the MPI's own collectives do not",
            "mpiexec --mca btl_tcp_flags send, or export OMPI_MCA_btl_tcp_flags=send (Open MPI over TCP)",
        )
    ]


def _rate(nbytes_per_second: float) -> str:
    bits = nbytes_per_second * 8
    return f"{bits / 1e9:,.1f} Gbit/s" if bits >= 1e9 else f"{bits / 1e6:,.0f} Mbit/s"
