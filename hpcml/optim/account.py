"""Where the time of steps goes: computing, waiting for communication, and how much of that is hidden."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

#: Of the steps of an overlapped optimizer, counted from 0, those in which it does not overlap: they show what
#: communication takes alone. Not the first, in which much is done for the first time.
ALONE = range(1, 4)

#: Notes that something went on: on which track of this rank, what, from when and until when (time.perf_counter).
Trace = Callable[[str, str, float, float], None]


class Account(NamedTuple):
    """Seconds of one step on this rank. waiting: for communication, slower ranks included. alone: what it takes where
    nothing is computed meanwhile; None where that is not known yet. bound: what it takes at least, by the model."""

    waiting: float
    alone: float | None
    bound: float

    @property
    def hidden(self) -> float | None:
        """The share of communication that went on behind computation."""
        return None if not self.alone else max(0.0, 1.0 - self.waiting / self.alone)


class Book:
    """Keeps the accounts of the steps of an optimizer. overlap: whether it hides communication; bound: of each step."""

    def __init__(self, overlap: bool, bound: float) -> None:
        self._overlap, self._bound = overlap, bound
        self._seconds = 0.0
        self._steps = 0
        self._alone: list[float] = []
        self.last = Account(0.0, None, bound)

    @property
    def hides(self) -> bool:
        """Whether communication is to be hidden in the step that comes now. The same on every rank."""
        return self._overlap and self._steps not in ALONE

    def close(self, seconds: float) -> None:
        """A step is over, when the rank has spent so many seconds waiting in all."""
        waiting, self._seconds = seconds - self._seconds, seconds
        if self._overlap and self._steps in ALONE:
            self._alone.append(waiting)
        self._steps += 1
        alone = statistics.median(self._alone) if len(self._alone) == len(ALONE) else None
        self.last = Account(waiting, alone if self._overlap else waiting, self._bound)
