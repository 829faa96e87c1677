"""The course of a fit of a kernel machine, as its monitor is told of it: an iteration of the solver is an epoch."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from hpcml.models.training import Monitor


class Course:
    """The records of a fit, over all its problems (SVC has one for each pair of classes).

    Each record is what the solver keeps of an iteration, and epoch, loss (the primal objective, divided by the weight
    of the data in it: 1 for SVC at the start), compute_seconds and samples_per_second. With a monitor there is one more
    at the end: what the whole model is worth.
    """

    def __init__(self, monitor: Monitor | None) -> None:
        self.history: list[dict[str, Any]] = []
        self._monitor = monitor

    def of(self, rows: int, weight: float, **facts: Any) -> Callable[[dict[str, Any]], None]:
        """What to tell of each iteration of a problem of so many ``rows``, whose C sum to ``weight``, both over all
        ranks; ``facts`` stand in each record."""

        def note(record: dict[str, Any]) -> None:
            seconds = record["seconds"]
            self._tell(
                {
                    "loss": record["primal"] / weight,
                    **facts,
                    **record,
                    "compute_seconds": seconds - record["communication_seconds"],
                    "samples_per_second": rows / max(seconds, 1e-9),
                }
            )

        return note

    def close(self, judged: Callable[[], dict[str, float]], rows: int) -> None:
        """Add what ``judged`` says of the model, to the last loss of each problem and the largest gap. Collective."""
        began = perf_counter()
        last = {str(record.get("pair")): record for record in self.history}.values()
        worth = judged()
        seconds = perf_counter() - began
        self._tell(
            {
                "loss": sum(record["loss"] for record in last) / len(last),
                "gap": max(record["gap"] for record in last),
                **worth,
                "seconds": seconds,
                "compute_seconds": seconds,
                "communication_seconds": 0.0,
                "samples_per_second": rows / max(seconds, 1e-9),
            }
        )

    def _tell(self, record: dict[str, Any]) -> None:
        record = {"epoch": len(self.history) + 1, **record}
        self.history.append(record)
        if self._monitor is not None:
            self._monitor.epoch(dict(record))
