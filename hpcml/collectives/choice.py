"""Which algorithm ``algorithm="auto"`` runs, and how many segments a segmented one cuts its data into.

For now a rule from measurements on one node (benchmarks/results/allreduce-*.txt).
"""

from __future__ import annotations

SMALL = 16 << 10  # bytes up to which latency is all that counts
SEGMENT = 512 << 10  # bytes of a segment: long enough for the transport, short enough to be folded in the L2 cache


def choose(collective: str, nbytes: int, size: int) -> str:
    """The algorithm for ``nbytes`` per rank (of the whole array, where parts differ) on ``size`` ranks."""
    if collective == "allreduce":
        if nbytes <= max(SMALL, (1 << 20) // size**2):
            return "recursive_doubling"
        halves_well = size & (size - 1) == 0  # Rabenseifner's extra steps for other sizes move all data twice
        return "ring" if nbytes >= ((1 << 20) if halves_well else (64 << 10)) * size else "rabenseifner"
    if collective == "broadcast":
        if nbytes <= SMALL or size == 2:
            return "binomial"
        return "chain" if nbytes >= (64 << 10) * size else "scatter_allgather"
    if collective in ("scatter", "gather"):
        return "binomial" if nbytes <= (4 << 10) * size else "direct"
    return {"reduce": "binomial", "allgather": "ring", "barrier": "dissemination"}[collective]


def segments(collective: str, algorithm: str, nbytes: int, size: int) -> int:
    """How many segments; ``nbytes`` as in `choose`."""
    if (collective, algorithm) == ("allreduce", "ring"):
        return max(1, min(64, nbytes // size // SEGMENT))
    if (collective, algorithm) == ("broadcast", "chain"):
        return max(1, min(256, nbytes * 4 // SEGMENT))
    return 1
