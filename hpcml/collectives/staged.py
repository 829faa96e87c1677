"""Several programs in a row as one: what one of them leaves in memory the next one takes up.

Each stage begins on a rank when the one before is complete there; ranks may be at different stages. All of them are
one call to whoever waits: they are known by its number, and their messages are counted together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hpcml.collectives.channel import Channel
from hpcml.collectives.errors import CommunicationError
from hpcml.collectives.program import FIRST_LOOK, LOOK_AROUND, Part, Program
from hpcml.collectives.stall import Rows, Stall
from hpcml.collectives.table import COLUMNS
from hpcml.collectives.under_way import TAKE_TURNS, others_advance, under_way

SOURCE, TARGET, BETWEEN = range(3)  # the memory of a stage: the caller's, or what the stages have in common


class Stage(NamedTuple):
    """A program, and which memory it reads and which it writes."""

    program: Part
    reads: int
    writes: int


class Staged(Program):
    """A program (see `hpcml.collectives.program`) of stages. between: the memory that they have in common.

    It serves a binding whether its input and output are one array or not. tag: the binding's.
    """

    def __init__(self, channel: Channel, stages: Sequence[Stage], between: np.ndarray, tag: int):
        self._channel, self._tag = channel, tag
        self._stages, self._between = stages, between
        self._at = len(stages)  # the stage that is under way; behind the last: none
        self._number = 0  # of the call that it runs in
        self._failed: CommunicationError | None = None

    @property
    def channel(self) -> Channel:
        return self._channel

    def bind(self, source: np.ndarray, target: np.ndarray) -> None:
        memory = source, target, self._between
        for stage in self._stages:
            stage.program.bind(memory[stage.reads], memory[stage.writes])

    def release(self) -> None:
        for stage in self._stages:
            stage.program.release()

    def start(self) -> None:
        if self._at < len(self._stages):
            raise CommunicationError(
                "this collective was interrupted or failed before, in the middle of its stages: end the program, or go "
                "on with another communicator"
            )
        self._number, self._at = self._channel.number, 0
        under_way().add(self)
        if self._stages:
            self._stages[0].program.start()
        self.poll(FIRST_LOOK)

    def launch(self, tag: int) -> None:
        """The same as `start`: it gets on when it is tested or waited for."""
        self.start()

    def test(self) -> bool:
        return self.poll(0)

    def poll(self, patience: int) -> bool:
        """Go on through the stages for so many fruitless polls; whether all are complete."""
        if self._failed is not None:
            raise self._failed
        while self._at < len(self._stages):
            if not self._stages[self._at].program.poll(patience):
                return False
            self._at += 1
            if self._at < len(self._stages):
                self._stages[self._at].program.start()
        under_way().discard(self)
        return True

    def wait(self) -> None:
        polls = 0
        stall: Stall | None = None
        try:
            while not self.poll(patience := TAKE_TURNS if self._others_advance() else LOOK_AROUND):
                polls += patience
                if polls >= LOOK_AROUND:
                    polls = 0
                    stall = stall or Stall(self._channel, self._number, self._tag)
                    stall.look_around(*self.awaits())
        finally:
            if stall:
                stall.over()

    def awaits(self) -> tuple[Rows, int]:
        """The messages of the stages so far, one after the other, and the row at which it is."""
        found = [stage.program.awaits() for stage in self._stages[: self._at + 1]]
        rows = [np.asarray(rows, np.int64).reshape(-1, COLUMNS) for rows, _ in found]
        return np.concatenate(rows), sum(map(len, rows[:-1])) + found[-1][1]

    def advance(self) -> bool:
        try:
            self.poll(0)
        except CommunicationError as error:  # told where it is waited for
            self._failed = error
        return True

    def forget(self) -> None:
        """Nothing: it is kept while it is under way."""

    def _others_advance(self) -> bool:
        return others_advance(self, *(stage.program for stage in self._stages[self._at : self._at + 1]))
