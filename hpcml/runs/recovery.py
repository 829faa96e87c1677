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
from hpcml.runs.lock import run_lock


class Recovery:
    """Outlives the passes of a training: the run directory, copies of the state, and where the pass went on from.

    copies: None where nobody would outlive a death. stack: on which the run directory is open.
    """

    def __init__(self, stack: ExitStack, copies: Neighbours | None) -> None:
        self.copies = copies
        self.attempt: Attempt | None = None
        self._stack = stack
        self._path: Path | None = None
        self._locked = False
        self._from = "the beginning"

    def directory(
        self, there: str | None, output: str | None, label: str, comm: MPI.Intracomm, unused: bool = False
    ) -> Path:
        """The run directory: ``there``, of a run that goes on, or one that is made in the first pass (see
        `run_directory`). Collective then."""
        if self._path is None and there is not None:
            self._path = Path(there)
        elif self._path is None:
            self._path = self._stack.enter_context(run_directory(output, label, comm, unused))
        return self._path

    def goes_on(self, place: str) -> None:
        """The pass goes on from there."""
        self._from = place

    def lock(self) -> None:
        """Hold the run directory, from the first pass in which this rank is the first. Local."""
        if not self._locked:
            assert self._path is not None
            self._stack.enter_context(run_lock(self._path))
            self._locked = True

    def teller(self, ranks: int) -> Teller | None:
        """Where a rank has died, a follower that says who, and how the training goes on."""
        return Teller(self, ranks) if self.attempt is not None and self.attempt.number else None

    def sentence(self, ranks: int) -> str:
        assert self.attempt is not None
        lost, seconds = self.attempt.just_lost, monotonic() - self.attempt.since
        who = f"{ranks_phrase(list(lost))} {'has' if len(lost) == 1 else 'have'} died" if lost else "a rank has died"
        return (
            f"hpcml: {who}; {ranks} rank{'s go' if ranks > 1 else ' goes'} on from {self._from}: the next step was "
            f"made {seconds:.2f} s after that was noticed"
        )


class Teller:
    """Says it on stderr, once the training has gone on."""

    def __init__(self, recovery: Recovery, ranks: int) -> None:
        self._recovery, self._ranks = recovery, ranks
        self._told = False

    def step(self, record: dict) -> None:
        if not self._told:
            self._told = True
            print(self._recovery.sentence(self._ranks), file=sys.stderr, flush=True)

    epoch = step

    def close(self, error: BaseException | None = None) -> None: ...
