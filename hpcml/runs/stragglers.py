"""Which ranks keep the others waiting, by how long each computes in a step."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_low
from typing import Any

FACTOR = 1.3  # times the median
LEAST = 1e-3  # seconds above it: less is noise


def stragglers(seconds: Sequence[float]) -> list[int]:
    """The ranks, the slowest first.

    >>> stragglers([0.1, 0.1, 0.25, 0.11])
    [2]
    """
    if len(seconds) < 2:
        return []
    usual = median_low(seconds)
    late = [rank for rank, spent in enumerate(seconds) if spent > max(FACTOR * usual, usual + LEAST)]
    return sorted(late, key=lambda rank: -seconds[rank])


def named(loads: Sequence[Sequence[Any]], late: Sequence[int]) -> str:
    """``rank 2 on node1 computes 250 ms a step, the others 100 ms``."""
    usual = median_low(seconds for _, seconds in loads)
    shown = ", ".join(f"rank {rank} on {loads[rank][0]} computes {_ms(loads[rank][1])} a step" for rank in late[:4])
    more = f", and {len(late) - 4} more" if len(late) > 4 else ""
    return f"{shown}{more}; the median is {_ms(usual)}: all wait for the slowest"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.3g} ms"
