"""What each rank did when, as a file that Perfetto and chrome://tracing open (the Trace Event Format)."""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter
from typing import Any

from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.runs.wholefile import whole_file

MOST = 200_000  # events of a rank that are kept: some 30 MB in the file


class Timeline:
    """Notes events of this rank; `write` puts those of all ranks into one file.

    Making it is collective, as the ranks' clocks are set by each other: to within what a barrier takes.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm
        self._events: list[tuple[str, str, float, float]] = []
        self._dropped = 0
        comm.Barrier()
        self._origin = perf_counter()

    def note(self, track: str, name: str, start: float, stop: float) -> None:
        """Something went on, on a track of this rank, between two times of perf_counter."""
        if len(self._events) < MOST:
            self._events.append((track, name, start - self._origin, stop - self._origin))
        else:
            self._dropped += 1

    def write(self, path: Path) -> None:
        """Collective; the file is written by rank 0, whole or not at all.

        Raises CollectiveError on every rank where it cannot be written.
        """
        everyones = self._comm.gather((MPI.Get_processor_name(), self._events, self._dropped))
        with hc.all_or_none(self._comm):
            if everyones is None:
                return
            events = [event for rank, told in enumerate(everyones) for event in _events(rank, *told)]
            with whole_file(path) as file:
                file.write(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}).encode())


def _events(rank: int, host: str, noted: list[tuple[str, str, float, float]], dropped: int) -> list[dict[str, Any]]:
    tracks = {track: number for number, track in enumerate(dict.fromkeys(track for track, *_ in noted))}
    title = f"rank {rank} on {host}" + (f" ({dropped} later events left out)" if dropped else "")
    events: list[dict[str, Any]] = [{"ph": "M", "name": "process_name", "pid": rank, "args": {"name": title}}]
    events += [
        {"ph": "M", "name": "thread_name", "pid": rank, "tid": number, "args": {"name": track}}
        for track, number in tracks.items()
    ]
    for track, name, start, stop in noted:
        # Reductions overlap one another, so they are events of their own, not slices of a stack.
        common = {"name": name, "cat": track, "pid": rank, "tid": tracks[track]}
        if track == "communication":
            own = {**common, "id": f"{rank}.{name}"}
            events += [{**own, "ph": "b", "ts": start * 1e6}, {**own, "ph": "e", "ts": stop * 1e6}]
        else:
            events.append({**common, "ph": "X", "ts": start * 1e6, "dur": (stop - start) * 1e6})
    return events
