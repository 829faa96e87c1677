"""The reductions of a step: started one after another as their messages fill, and waited for in the same order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TypeVar

import numpy as np

from hpcml.optim.account import Trace
from hpcml.optim.reductions import Reduction

Result = TypeVar("Result")


class Pipeline:
    """Every rank starts and waits for the same reductions in the same order, each once a step.

    Attributes: ``sent``, how many of this step were started; ``seconds`` spent in starting and waiting; ``note``, who
    is told when each was under way.
    """

    def __init__(self, reductions: Sequence[Reduction]) -> None:
        self.reductions = reductions
        self.begin()
        self.seconds = 0.0
        self.note: Trace | None = None
        self._sent_at = [0.0] * len(reductions)

    def send_full(self, times: int) -> None:
        """Start those, from the next one on, of which each gradient has come so many times."""
        while self.sent < len(self.reductions) and min(self._next.message.times.values()) >= times:
            self._send()

    def send_all(self) -> None:
        while self.sent < len(self.reductions):
            self._send()

    def receive(self) -> np.ndarray:
        """This rank's part of the next sum that was not waited for."""
        if self._received == self.sent:
            self._send()
        while self._turned < self.sent:
            self.timed(self.reductions[self._turned].turn)
            self._turned += 1
        found = self.timed(self.reductions[self._received].wait)
        if self.note is not None:
            sent = self._sent_at[self._received]
            self.note("communication", f"bucket {self._received}", sent, perf_counter())
        self._received += 1
        return found

    def drain(self) -> None:
        """Wait for what is under way, and forget the messages that were not sent."""
        while self._received < self.sent:
            self.receive()
        for reduction in self.unsent:
            reduction.message.close()
        self.begin()

    def begin(self) -> None:
        """All have been received: the next step."""
        self.sent = self._turned = self._received = 0

    def timed(self, call: Callable[[], Result]) -> Result:
        """What ``call`` returns; its time counts as communication."""
        before = perf_counter()
        try:
            return call()
        finally:
            self.seconds += perf_counter() - before

    @property
    def unsent(self) -> Sequence[Reduction]:
        return self.reductions[self.sent :]

    @property
    def _next(self) -> Reduction:
        return self.reductions[self.sent]

    def _send(self) -> None:
        self._sent_at[self.sent] = perf_counter()
        self.timed(self._next.start)
        self.sent += 1
