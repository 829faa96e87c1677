"""Latency and bandwidth between nodes, by a few messages: what the cost model needs where nothing was measured."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np
from mpi4py import MPI

from hpcml.collectives.cost import Level, Network

SMALL = 8  # bytes of a message
FIRST, LONGEST = 256 << 10, 1 << 20  # long enough for the protocol that transports have for long messages
ROUND_TRIPS = 12
REPEATS = 3
ENOUGH_SECONDS = 1e-3  # a message that takes as long tells the bandwidth


def probe(comm: MPI.Comm, node_of: tuple[int, ...]) -> Network:
    """The slowest latency and bandwidth seen between the first ranks of the nodes; the same on every rank.

    Collective. Takes some milliseconds, or as long as eight messages of 256 KiB where links are slow. Measured for
    messages that go round the nodes, one way on each link, and for those that two nodes send to each other at once,
    which some transports carry at half the rate.
    """
    firsts = [node_of.index(node) for node in range(max(node_of) + 1)]
    place = firsts.index(comm.rank) if comm.rank in firsts else -1
    right, left = (firsts[(place + step) % len(firsts)] for step in (1, -1))
    even = len(firsts) - len(firsts) % 2
    partner = firsts[place ^ 1] if 0 <= place < even else MPI.PROC_NULL
    idle = place < 0
    tag = (comm.Get_attr(MPI.TAG_UB) or MPI.COMM_WORLD.Get_attr(MPI.TAG_UB) or 32767) - 1

    def round_(nbytes: int, dest: int, source: int) -> Callable[[], None]:
        sent, received = np.zeros(nbytes, np.uint8), np.empty(nbytes, np.uint8)

        def once() -> None:
            if not idle:
                comm.Sendrecv(sent, dest, tag, received, source, tag)

        return once

    def slowest(once: Callable[[], None], repeats: int) -> float:
        once()
        comm.Barrier()
        times = []
        for _ in range(repeats):
            start = perf_counter()
            once()
            times.append(perf_counter() - start)
        return comm.allreduce(float(np.median(times)), MPI.MAX)

    alpha = slowest(round_(SMALL, right, left), ROUND_TRIPS)
    betas = []
    for dest, source in ((right, left), (partner, partner)):
        nbytes = FIRST
        while (seconds := slowest(round_(nbytes, dest, source), REPEATS)) < ENOUGH_SECONDS and nbytes < LONGEST:
            nbytes *= 4
        betas.append(max(seconds - alpha, seconds / 2) / nbytes)
    return Network(Level(alpha, betas[0], alpha / 4, max(betas)))
