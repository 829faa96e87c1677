"""Where a training is, written now and then, so that another one goes on from there, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.checkpoints import Checkpoint, Neighbours, Store
from hpcml.checkpoints.neighbours import Copy
from hpcml.models.settings import Settings
from hpcml.optim import Distributed, saving
from hpcml.runs.interruption import Interrupted, Interruption

# What does not change what is computed, or only its rounding: it may differ where a training goes on.
FREE = ("algorithm", "overlap", "shard")


@dataclass(frozen=True)
class Checkpoints:
    """Write where a training is to ``folder`` after every so many ``steps``, and keep the last ``keep``.

    ``steps`` None: only when ``interruption`` is asked to end. That ends the training, on all ranks after the same
    step, as soon as one of them is asked: with a checkpoint, and Interrupted.

    A training of the same data and settings that finds checkpoints there goes on from the newest: on any number of
    ranks; with ``reproducible``, to the bits that it would have ended with.

    copies: where it is kept in memory between these, for those who live when a rank dies; they go before what is on
    disk. folder: None, and nothing is written. told: called with where a training goes on, in words.
    """

    folder: str | Path | None
    steps: int | None = 1000
    keep: int = 3
    interruption: Interruption | None = None
    copies: Neighbours | None = None
    told: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps={self.steps}; expected a number of at least 1")


@dataclass
class Position:
    """Where a training is: ``batches`` of the ``epoch`` (from 0) are done; their sums, and the epochs' records."""

    epoch: int = 0
    batches: int = 0
    loss: float = 0.0
    hits: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


class Progress:
    """Keeps the ``position`` of a training, and writes it with the optimizer's state. Every rank does the same.

    rows: of the data, globally. checkpoints: None, and nothing is written.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        optimizer: Distributed,
        settings: Settings,
        seed: int,
        rows: int,
        comm: MPI.Intracomm,
    ) -> None:
        self.position = Position()
        self._optimizer, self._checkpoints, self._comm = optimizer, checkpoints, comm
        self._epochs = settings.epochs
        self._facts = {**asdict(settings), "dtype": str(settings.dtype), "random_state": seed, "rows": rows}
        self._store: Store | None = None
        if checkpoints is None:
            return
        # Where nothing is written until somebody asks, there is no folder either.
        if checkpoints.folder is not None and (checkpoints.steps or self._is_there(Path(checkpoints.folder))):
            self._store = self._opened()
        place = "in the memory of the ranks"
        found: Copy | Checkpoint | None = None if checkpoints.copies is None else checkpoints.copies.latest(comm)
        if found is None and self._store is not None:
            place, found = "on disk", self._store.latest()
        if checkpoints.told is not None:
            checkpoints.told("the beginning" if found is None else f"step {found.step}, kept {place}")
        if found is not None:
            with hc.all_or_none(comm):
                self._refuse_other(found.facts, found.step)
            saving.restore(optimizer, found, found.facts["optimizer"])
            self.position = Position(**found.facts["position"])

    def after_step(self, asked: bool) -> None:
        """Write, and copy, where it is time for it. asked: whether any rank was asked to end, the same on every rank.

        Raises Interrupted on every rank where it was, and steps are left; then what is done is on disk.
        """
        there = self._checkpoints
        if there is None:
            return
        steps = self._optimizer.steps
        copies = there.copies is not None and there.copies.is_due(steps)
        writes = there.folder is not None and (asked or (there.steps is not None and not steps % there.steps))
        if copies or writes:
            facts = {
                "training": self._facts,
                "position": asdict(self.position),
                "optimizer": saving.facts(self._optimizer),
            }
            arrays = saving.arrays(self._optimizer)
            if copies:
                there.copies.save(self._comm, steps, arrays, facts)  # type: ignore[union-attr]
            if writes:
                self._store = self._store or self._opened()
                self._store.save(steps, arrays, facts)
        if asked and self._store is not None and self.position.epoch < self._epochs:
            self._store.wait()
            raise Interrupted(steps, str(there.folder))

    def _opened(self) -> Store:
        assert self._checkpoints is not None and self._checkpoints.folder is not None
        return Store(self._checkpoints.folder, self._comm, self._checkpoints.keep)

    def _is_there(self, folder: Path) -> bool:
        """As rank 0 sees it. Collective."""
        return self._comm.bcast(folder.is_dir() if self._comm.rank == 0 else None)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *more: Any) -> None:
        if self._store is not None:
            self._store.__exit__(kind, *more)

    def _refuse_other(self, facts: Mapping[str, Any], step: int) -> None:
        before = facts.get("training", {})
        for name, value in self._facts.items():
            if name not in FREE and before.get(name) != value:
                raise ValueError(
                    f"the checkpoint of step {step} is of a training with {name}={before.get(name)!r}, this one has "
                    f"{value!r}: name another folder, or train with the same"
                )
