"""The training loop that all estimators share: one distributed optimizer step per global mini-batch."""

from __future__ import annotations

from itertools import islice
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.models.device import module_of
from hpcml.models.loads import Loads
from hpcml.models.losses import Loss, correct
from hpcml.models.network import Passes
from hpcml.models.resuming import Checkpoints, Progress
from hpcml.models.rows import Rows
from hpcml.models.settings import Settings
from hpcml.models.virtual import Order, rearranged
from hpcml.optim.account import Trace
from hpcml.runs.interruption import Interruption

#: Rows per forward pass outside of training: enough for BLAS, few enough for the cache.
BLOCK = 1024


class Monitor(Protocol):
    """Follows a training; called on every rank.

    ``step(record)`` comes after each optimizer step: epoch, step (both from 1), steps (per epoch), loss
    (mean over the global batch), samples (in it), learning_rate; and of this rank seconds, compute_seconds,
    communication_seconds (waiting for it), hidden (the share of communication that went on behind computation, 0
    where that is not known) and bound_seconds (what its communication takes at least, by the model). Now and then it
    has loads: by rank, its host and the seconds that it computes in a step.

    ``epoch(record)`` comes after each epoch: epoch, step (made so far, over all epochs), loss and accuracy
    (means over the training rows, each at the parameters of its step), validation_loss and
    validation_accuracy (if validation rows were given), samples_per_second (of training), seconds (with
    validation), compute_seconds and communication_seconds (of its steps: the latter waiting for sums of gradients,
    slower ranks included; mean over the ranks), hidden and bound_seconds (as in a step), learning_rate (of the last
    step), loads (in this epoch). All but the loads are plain numbers; the same on every rank.
    """

    def step(self, record: dict[str, Any]) -> None: ...

    def epoch(self, record: dict[str, Any]) -> None: ...


class Objective(NamedTuple):
    """Mean of ``loss`` over the rows + ½ Σ penalty[name]·‖parameters[name]‖²."""

    loss: Loss
    penalty: dict[str, float]


def train(
    parameters: dict[str, np.ndarray],
    objective: Objective,
    shard: Rows,
    validation: Rows | None,
    settings: Settings,
    seed: int,
    comm: MPI.Intracomm,
    monitor: Monitor | None = None,
    checkpoints: Checkpoints | None = None,
    note: Trace | None = None,
) -> list[dict[str, Any]]:
    """Minimise ``objective`` from ``parameters``, in place; returns the record of each epoch. Collective.

    With ``checkpoints`` it goes on from the newest that is there, and may be asked to end before its end. ``note`` is
    told what goes on.

    Raises CollectiveError on every rank when the loss is no longer finite, and where checkpoints are of another
    training or cannot be written; Interrupted, likewise, where it was asked to end and what is done was kept.
    """
    if settings.reproducible is not None:
        shard = rearranged(shard, settings.reproducible, comm)
    batches = Order(shard, comm.rank, settings.batch_size, seed, settings.reproducible)
    passes = Passes(parameters, batches.largest)
    interruption = None if checkpoints is None else checkpoints.interruption
    step = Step(passes, objective, shard, settings, batches, comm, note, interruption)
    check = Passes(parameters, min(BLOCK, len(validation.X))) if validation is not None else None
    loads = Loads(comm)
    with Progress(checkpoints, step.optimizer, settings, seed, batches.rows, comm) as progress:
        at = progress.position
        while at.epoch < settings.epochs:
            start = perf_counter()
            before = at.batches
            spent = np.zeros(4)  # seconds of the steps: in all, waiting, alone, bound
            for samples, parts in islice(batches.epoch(at.epoch), before, None):
                began = perf_counter()
                loss, hits, asked = step(parts)
                seconds, account = perf_counter() - began, step.optimizer.account
                spent += seconds, account.waiting, account.alone or account.waiting, account.bound
                at.loss, at.hits, at.batches = at.loss + loss, at.hits + hits, at.batches + 1
                looked = loads.step(seconds - account.waiting, seconds)
                if monitor is not None:
                    monitor.step(
                        {
                            "epoch": at.epoch + 1,
                            "step": at.batches,
                            "steps": batches.steps,
                            "loss": loss / samples,
                            "samples": samples,
                            "learning_rate": step.optimizer.lr,
                            "seconds": seconds,
                            "compute_seconds": seconds - account.waiting,
                            "communication_seconds": account.waiting,
                            "hidden": account.hidden or 0.0,
                            "bound_seconds": account.bound,
                            "loads": looked,
                        }
                    )
                if at.batches < batches.steps:
                    progress.after_step(asked)
            trained = perf_counter() - start
            if not np.isfinite(at.loss):
                raise hc.CollectiveError(
                    f"the loss is {at.loss} in epoch {at.epoch + 1}: the steps are too long, lower learning_rate "
                    f"({settings.learning_rate}) or scale the features"
                )
            record: dict[str, Any] = {
                "epoch": at.epoch + 1,
                "step": (at.epoch + 1) * batches.steps,
                "loss": at.loss / batches.rows,
                "accuracy": at.hits / batches.rows,
            }
            judged = check is not None and validation is not None
            found = evaluate(check, objective.loss, validation) if judged else (0, 0)  # type: ignore[arg-type]
            local = [*found, trained, perf_counter() - start, *spent]
            sums = hc.allreduce(np.array(local, np.float64), op="sum", comm=comm).tolist()
            if validation is not None:
                record["validation_loss"] = sums[0] / sum(validation.counts)
                record["validation_accuracy"] = sums[1] / sum(validation.counts)
            done = batches.rows * (batches.steps - before) / batches.steps
            record["samples_per_second"] = done * comm.size / sums[2]
            record["seconds"], in_steps, waiting, alone, bound = (total / comm.size for total in sums[3:])
            record["compute_seconds"], record["communication_seconds"] = in_steps - waiting, waiting
            record["hidden"] = max(0.0, 1 - waiting / alone) if alone else 0.0
            record["bound_seconds"] = bound
            record["learning_rate"] = step.optimizer.lr
            in_epoch = loads.epoch()
            at.history.append(record)
            at.epoch, at.batches, at.loss, at.hits = at.epoch + 1, 0, 0.0, 0.0
            if monitor is not None:
                monitor.epoch({**record, "loads": in_epoch})
            progress.after_step(asked)
        return at.history


class Step:
    """One optimizer step on this rank's rows of a batch; holds what is allocated once for all steps."""

    def __init__(
        self,
        passes: Passes,
        objective: Objective,
        shard: Rows,
        settings: Settings,
        batches: Order,
        comm: MPI.Intracomm,
        note: Trace | None = None,
        interruption: Interruption | None = None,
    ) -> None:
        self.passes, self.objective, self.shard, self.settings = passes, objective, shard, settings
        self.steps_per_epoch = batches.steps
        self.optimizer = settings.distribute(passes.parameters, comm, values=3)
        self._xp = module_of(shard.X)
        self._batch = self._xp.empty((batches.largest, shard.X.shape[1]), shard.X.dtype)
        self._penalties = {name: self._xp.empty_like(passes.parameters[name]) for name in objective.penalty}
        self._sums = np.zeros(3)
        self._note, self._interruption = note, interruption
        if note is not None:
            self.optimizer.trace(note)

    def __call__(self, parts: list[np.ndarray]) -> tuple[float, float, bool]:
        """Sum of the loss, and number of rows classified correctly, over all ranks, before the step; and whether any
        rank was asked to end before it: that rides with the gradients, so all ranks know at the same step.

        parts: the rows of each part of the batch that is here.
        """
        optimizer, began = self.optimizer, perf_counter()
        optimizer.lr = self.settings.rate_at(optimizer.steps, self.steps_per_epoch)
        self._sums[:] = 0, 0, self._interruption is not None and self._interruption.asked()
        if self.settings.reproducible is None and not optimizer.overlap:
            (rows,) = parts
            gradients = self._gradients(rows) if len(rows) else None
            computed = perf_counter()
            loss, hits, asked = optimizer.step(gradients, weight=len(rows), values=self._sums)
        else:
            for rows in parts:
                if len(rows):
                    self._gradients(rows, hand_over=True)
                else:
                    optimizer.add(None, weight=0)
            computed = perf_counter()
            loss, hits, asked = optimizer.step(values=self._sums)
        if self._note is not None:
            self._note("step", f"step {optimizer.steps}", began, perf_counter())
            self._note("step", "gradients", began, computed)
            self._note("step", "sums and update", computed, perf_counter())
        return float(loss), float(hits), bool(asked)

    def _gradients(self, rows: np.ndarray, hand_over: bool = False) -> dict[str, np.ndarray]:
        """Of the objective's mean over the rows. hand_over: each to the optimizer as soon as it is there."""
        # mode="clip": with the default NumPy would take into a buffer first, in case a number is out of
        # range.
        batch = self._batch[: len(rows)]
        if self._xp is np:
            X = np.take(self.shard.X, rows, axis=0, out=batch, mode="clip")
        else:
            rows = self._xp.asarray(rows)
            X = self._xp.take(self.shard.X, rows, axis=0, out=batch)
        codes = self.shard.y[rows]
        scores = self.passes.forward(X)
        hits = correct(scores, codes)
        self._sums[:2] += self.objective.loss(scores, codes), hits
        scores /= len(rows)

        def done(name: str) -> None:
            gradient = self.passes.gradients[name]
            if name in self._penalties:
                gradient += self._xp.multiply(
                    self.passes.parameters[name], self.objective.penalty[name], out=self._penalties[name]
                )
            if hand_over:
                self.optimizer.ready(name, gradient, weight=len(rows))

        return self.passes.backward(X, done)


def evaluate(passes: Passes, loss: Loss, shard: Rows) -> tuple[float, int]:
    """Sum of the loss, and number of rows classified correctly, over this rank's rows."""
    total, hits = 0.0, 0
    for first in range(0, len(shard.X), BLOCK):
        scores = passes.forward(shard.X[first : first + BLOCK])
        codes = shard.y[first : first + BLOCK]
        hits += correct(scores, codes)
        total += loss(scores, codes)
    return total, hits
