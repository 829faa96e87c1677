"""An optimizer whose gradients are averaged over MPI ranks: synchronous data parallelism."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from time import perf_counter
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.collectives.errors import raise_together
from hpcml.optim.buckets import Buckets
from hpcml.optim.optimizer import Optimizer
from hpcml.optim.parameters import Arrays, matched

#: A weight travels as whole-number digits to this base: float32 sums of them are exact on up to 4096 ranks.
BASE = 4096
DIGITS = 4


class Distributed:
    """Averages gradients over the ranks of ``comm``, then lets ``optimizer`` make the same step on each.

    With gradient g_r and weight w_r on rank r, the step is made with Σ w_r·g_r / Σ w_r. Where g_r is the
    mean over w_r samples, this is the mean over all samples, however unevenly they lie.

    At the start, which is collective, the ranks check that their parameters have the same names, shapes
    and dtypes in the same order; all take over parameters, state, step count and hyperparameters of rank 0.

    A step is one all-reduce per bucket. Gradients are packed, times their weight, into flat buffers of at
    most ``bucket`` bytes (a larger array travels alone) that live as long as the optimizer. The weight
    rides in the first of them, as four digits to base 4096 and a fraction: each digit is a whole number
    that even float32 sums without rounding on up to 4096 ranks, so sample counts are exact up to 2⁴⁸. A
    count of ranks whose arguments were wrong rides with it; so a mistake on one rank is an error on all, at
    no further message.

    On one rank nothing is packed or scaled: the steps have the bits of ``optimizer`` alone.

    Arguments: ``optimizer``, from ``SGD``, ``Adam`` or ``AdamW``; ``comm``, an mpi4py communicator (None:
    MPI.COMM_WORLD); ``algorithm``, of the all-reduce; ``bucket``, bytes; ``values``, how many further
    numbers ride along in each step to be summed over the ranks.

    Attributes: ``optimizer``; ``lr``, which every rank sets alike; ``params``, ``steps``;
    ``communication_seconds``, spent in all-reduce so far.

    Raises CollectiveError on every rank where the structures differ or the algorithm is not known.

    Example, on every rank::

        opt = optim.Distributed(optim.Adam(params, lr=1e-3))
        for batch in batches:                         # this rank's rows of each batch
            grads = gradient(params, batch) if len(batch) else None
            opt.step(grads, weight=len(batch))
    """

    def __init__(
        self,
        optimizer: Optimizer,
        comm: MPI.Intracomm | None = None,
        algorithm: str = "auto",
        bucket: int = 4 << 20,
        values: int = 0,
    ) -> None:
        self.optimizer = optimizer
        self.comm = MPI.COMM_WORLD if comm is None else comm
        self.communication_seconds = 0.0
        self._values = values
        _agree(optimizer, bucket, values, self.comm)
        _start_as_rank_0(optimizer, self.comm)
        self._buckets = Buckets(optimizer.pairs, bucket, 2 + DIGITS + values)
        # Bound once: a step then costs no checks of arguments, which cannot differ any more.
        self._plans = [
            hc.plan("allreduce", message, op="sum", algorithm=algorithm, out=message, comm=self.comm)
            for message in self._buckets.messages
        ]
        names = [name for name, _ in optimizer.pairs]
        views = self._buckets.views
        self._means = dict(zip(names, views, strict=True)) if isinstance(optimizer.params, Mapping) else views

    def step(self, grads: Arrays | None, weight: float = 1.0, values: Sequence[float] | None = None) -> np.ndarray:
        """Average the gradients, weighted, over the ranks and make one step. Collective.

        ``grads`` has the keys, shapes and dtypes of the parameters and is not changed; ``weight`` ≥ 0 is
        usually the number of samples that it is the mean of. A rank without samples passes None and weight
        0. ``values`` (None: zeros) are summed over the ranks, in the dtype of the gradients; the sums are
        returned.

        Raises CollectiveError on every rank, before any parameter changes, when an argument is wrong on
        some rank or the weights of all ranks are 0.
        """
        error: Exception | None = None
        gradients: list[np.ndarray] | None = None
        try:
            gradients = self._checked(grads, weight, values)
        except Exception as caught:  # told to the other ranks, who would wait for this one
            error = caught
        if self.comm.size == 1:
            raise_together(error, self.comm)
            self._require_weight(weight)
            self.optimizer.step(grads)  # type: ignore[arg-type]
            return np.array(values if values is not None else [0.0] * self._values, np.float64)
        self._pack(gradients, 0.0 if error else weight, values if not error else None, failed=error is not None)
        self._reduce()
        failures, *digits = self._buckets.extra[: 2 + DIGITS].tolist()
        if failures:
            raise_together(error, self.comm)
        total = joined(digits)
        self._require_weight(total)
        self.optimizer.step(self._means, scale=1.0 / total)
        return self._buckets.extra[2 + DIGITS :].astype(np.float64)

    def _checked(self, grads: Arrays | None, weight: float, values: Sequence[float] | None) -> list[np.ndarray] | None:
        if not 0 <= weight < BASE**DIGITS:
            raise ValueError(f"weight is {weight!r}; expected a number of at least 0 and below 2**48")
        if values is not None and len([float(value) for value in values]) != self._values:
            raise ValueError(f"{len(values)} values given; this optimizer was made for values={self._values}")
        if grads is None:
            if weight > 0:
                raise ValueError(f"grads is None with weight {weight!r}: a rank without samples passes weight=0")
            return None
        return matched(self.optimizer.pairs, grads)

    def _pack(
        self,
        gradients: list[np.ndarray] | None,
        weight: float,
        values: Sequence[float] | None,
        failed: bool,
    ) -> None:
        extra = self._buckets.extra
        extra[0] = failed
        extra[1 : 2 + DIGITS] = split(weight)
        extra[2 + DIGITS :] = 0.0 if values is None else values
        for i, view in enumerate(self._buckets.views):
            # Not 0 × gradient: that would be NaN where the gradient is not finite.
            if weight == 0 or gradients is None:
                view.fill(0.0)
            else:
                with np.errstate(all="ignore"):  # whether numpy raises is each rank's own affair; the others wait
                    np.multiply(gradients[i], float(weight), out=view)

    def _reduce(self) -> None:
        start = perf_counter()
        for plan in self._plans:
            plan.start()
            plan.wait()
        self.communication_seconds += perf_counter() - start

    def _require_weight(self, total: float) -> None:
        if total == 0:
            raise hc.CollectiveError(
                "the weights of all ranks are 0, so there is no mean gradient: "
                "leave out a step for which no rank has samples"
            )

    @property
    def params(self) -> Arrays:
        return self.optimizer.params

    @property
    def steps(self) -> int:
        return self.optimizer.steps

    @property
    def lr(self) -> float:
        return self.optimizer.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self.optimizer.lr = value

    def state_dict(self) -> dict[str, Any]:
        """As ``optimizer.state_dict()``: it is the same on every rank."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As ``optimizer.load_state_dict()``; every rank loads the same."""
        self.optimizer.load_state_dict(state_dict)


def split(weight: float) -> list[float]:
    """``weight`` < 2⁴⁸ as whole-number digits to base 4096, lowest first, and its fraction."""
    whole = math.floor(weight)
    return [*(float(whole // BASE**k % BASE) for k in range(DIGITS)), weight - whole]


def joined(digits: list[float]) -> float:
    """The number, or sum of numbers, that was ``split``; digits that carry (are 4096 or more) are welcome.

    >>> joined(split(16777217.5))
    16777217.5
    """
    return math.fsum([*(digit * BASE**k for k, digit in enumerate(digits[:DIGITS])), digits[DIGITS]])


def _agree(optimizer: Optimizer, bucket: int, values: int, comm: MPI.Intracomm) -> None:
    """Raise on every rank unless the arguments and the structure of ``optimizer`` are those of rank 0."""
    mine = [optimizer.rule.name, f"bucket={bucket}", f"values={values}"]
    mine += [f"{name!r}, {array.dtype} of shape {array.shape}" for name, array in optimizer.pairs]
    expected = comm.bcast(mine)
    with hc.all_or_none(comm):
        if bucket <= 0 or values < 0:
            raise ValueError(f"bucket={bucket}, values={values}; expected a bucket of at least one byte")
        for here, there in zip_longest(mine, expected, fillvalue="nothing"):
            if here != there:
                raise ValueError(
                    f"the optimizer differs from that of rank 0: {here} here, {there} there; every rank must "
                    "make the same optimizer, for the same parameters in the same order"
                )


def _start_as_rank_0(optimizer: Optimizer, comm: MPI.Intracomm) -> None:
    """Parameters, state, step count and hyperparameters become those of rank 0."""
    if comm.size == 1:
        return
    state = [array for slots in optimizer.state for array in slots.values()]
    hc.broadcast([array for _, array in optimizer.pairs] + state, root=0, comm=comm)
    hyperparameters, optimizer.steps = comm.bcast((optimizer.hyperparameters, optimizer.steps))
    optimizer.hyperparameters.update(hyperparameters)
