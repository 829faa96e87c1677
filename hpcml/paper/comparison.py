"""The algorithms of a collective side by side on a simulated machine, for one or more sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hpcml.collectives.algorithms import Algorithm
from hpcml.collectives.bounds import lower_bound
from hpcml.collectives.cost import Prediction, best_segments
from hpcml.paper.simulation import Machine, Simulated, TooLargeError, simulate


@dataclass(frozen=True)
class Entry:
    """One algorithm at one point. sent: bytes through the busiest rank in one direction.

    ``prediction`` is None where the schedule was too large to be simulated, and ``remark`` says why.
    """

    algorithm: str
    segments: int
    rounds: int
    sent: float
    prediction: Prediction | None
    remark: str = ""

    @property
    def seconds(self) -> float:
        return self.prediction.seconds if self.prediction else float("inf")


@dataclass(frozen=True)
class Point:
    """All algorithms for ``nbytes`` on ``ranks`` ranks, the fastest first; ``bound``: seconds that none can beat."""

    ranks: int
    nbytes: int
    bound: float
    entries: tuple[Entry, ...]


def compare(
    rows: Iterable[Algorithm],
    points: Iterable[tuple[int, int]],
    machine: Machine,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Point]:
    """Simulate ``rows``, of one collective, at each point ``(ranks, nbytes)``, with the number of segments that suits.

    nbytes: of the whole array; in an all-to-all, of the array of one rank. What a schedule asks of the machine does not
    depend on the bytes, so points that differ in bytes alone are quick.
    """
    rows = list(rows)
    known: dict[tuple[str, int, int], Simulated | TooLargeError] = {}

    def entry(row: Algorithm, ranks: int, total: float) -> Entry:
        segments = best_segments(row, ranks, total, machine.network())
        nodes = row.by_nodes(ranks, machine.per_node)
        rounds = row.rounds(ranks, segments, *nodes)
        key = row.name, ranks, segments
        if key not in known:
            progress(f"{row.name}, {ranks} ranks, {rounds} rounds")
            try:
                known[key] = simulate(row, ranks, segments, machine)
            except TooLargeError as error:
                known[key] = error
        found = known[key]
        sent = row.volume(ranks, segments, *nodes) / max(row.blocks(ranks, segments), 1) * total
        if isinstance(found, TooLargeError):
            return Entry(row.name, segments, rounds, sent, None, f"not simulated: {found}")
        remark = "sampled" if found.sampled else ""
        return Entry(row.name, segments, rounds, sent, found.predict(total), remark)

    compared = []
    for ranks, nbytes in points:
        collective = rows[0].collective
        total = nbytes * ranks if collective == "alltoall" else nbytes
        bound = lower_bound(collective, ranks, total, machine.network()).seconds
        entries = sorted((entry(row, ranks, total) for row in rows), key=lambda e: e.seconds)
        compared.append(Point(ranks, nbytes, bound, tuple(entries)))
    return compared
