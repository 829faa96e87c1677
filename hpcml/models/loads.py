"""How long each rank computes in a step: who keeps the others waiting."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc

FIRST = 10  # steps before the first look
SECONDS = 5.0  # from one look to the next, about

#: By rank: its host, and the seconds that it computes in a step.
Load = list[list[Any]]  # lists: as JSON gives them back


class Loads:
    """Those of all ranks of ``comm``; made and used by all of them alike. One all-gather of 16 bytes a rank, every few
    seconds: how many steps that is follows from what was gathered, so the ranks agree on it without a message."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm, self._hosts = comm, comm.allgather(MPI.Get_processor_name())
        self._wait, self._steps = FIRST, 0
        self._window, self._epoch = np.zeros(2), np.zeros(2)  # seconds of computing, and in all
        self._epoch_steps = 0

    def step(self, compute_seconds: float, seconds: float) -> Load | None:
        """After a step. Every rank's load since the last look, when it is time for one. Collective."""
        self._steps, self._epoch_steps = self._steps + 1, self._epoch_steps + 1
        self._window += compute_seconds, seconds
        self._epoch += compute_seconds, seconds
        if self._comm.size == 1 or self._steps < self._wait:
            return None
        everyones = hc.allgather(self._window[None] / self._steps, comm=self._comm)
        self._wait = ceil(SECONDS / max(everyones[:, 1].max(), 1e-6))
        self._steps, self._window[:] = 0, 0
        return self._named(everyones)

    def epoch(self) -> Load:
        """After an epoch: every rank's load in it. Collective."""
        everyones = hc.allgather(self._epoch[None] / max(self._epoch_steps, 1), comm=self._comm)
        self._epoch_steps, self._epoch[:] = 0, 0
        return self._named(everyones)

    def _named(self, everyones: np.ndarray) -> Load:
        return [[host, seconds] for host, seconds in zip(self._hosts, everyones[:, 0].tolist(), strict=True)]
