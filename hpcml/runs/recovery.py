"""What a training on the command line keeps when a rank dies, and what it says about it."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

from mpi4py import MPI

from hpcml.checkpoints import Neighbours
from hpcml.collectives import Attempt
from hpcml.collectives.errors import ranks_phrase
from hpcml.runs.directory import run_directory
from hpcml.runs.monitor import Display


class Recovery:
    """Outlives the passes of a training: the run directory, copies of the state, and where the pass went on from.

    copies: None where nobody would outlive a death. stack: on which the run directory is open.
    """

    def __init__(self, stack: ExitStack, copies: Neighbours | None) -> None:
        self.copies = copies
        self.attempt: Attempt | None = None
        self._stack = stack
        self._path: Path | None = None
        self._from = "the beginning"

    def directory(self, output: str | None, label: str, comm: MPI.Intracomm) -> Path:
        """The run directory, made in the first pass. Collective then."""
        if self._path is None:
            self._path = self._stack.enter_context(run_directory(output, label, comm))
        return self._path

    def goes_on(self, place: str) -> None:
        """The pass goes on from there."""
        self._from = place

    def watching(self, display: Display | None, ranks: int) -> Display | None:
        """A display that says first, where a rank has died, who, and how the training goes on."""
        if self.attempt is None or not self.attempt.number:
            return display
        return Telling(display, self, ranks)

    def sentence(self, ranks: int) -> str:
        assert self.attempt is not None
        lost, seconds = self.attempt.just_lost, monotonic() - self.attempt.since
        who = f"{ranks_phrase(list(lost))} {'has' if len(lost) == 1 else 'have'} died" if lost else "a rank has died"
        return (
            f"hpcml: {who}; {ranks} rank{'s go' if ranks > 1 else ' goes'} on from {self._from}: the next step was "
            f"made {seconds:.2f} s after that was noticed"
        )


class Telling:
    """A display, and a line on stderr at the first sign of progress."""

    def __init__(self, display: Display | None, recovery: Recovery, ranks: int) -> None:
        self._display, self._recovery, self._ranks = display, recovery, ranks
        self._told = False

    def step(self, record: dict) -> None:
        self._tell()
        if self._display is not None:
            self._display.step(record)

    def epoch(self, record: dict) -> None:
        self._tell()
        if self._display is not None:
            self._display.epoch(record)

    def close(self) -> None:
        if self._display is not None:
            self._display.close()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            print(self._recovery.sentence(self._ranks), file=sys.stderr, flush=True)
