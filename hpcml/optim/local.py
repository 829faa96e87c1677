"""Steps of each rank's own, and now and then an average: communication every H steps instead of in each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.optim.optimizer import Optimizer
from hpcml.optim.parameters import Arrays, Values
from hpcml.optim.sgd import SGD

if TYPE_CHECKING:
    from hpcml.optim.distributed import Distributed


@dataclass(frozen=True)
class Local:
    """``sync=Local(H)``: parameters are averaged after every H steps; with lr=1 and momentum=0, they become the mean.

    Each rank's parameters θ_r start from a common θ. After H steps, of Σw_r samples, the mean displacement
    Δ = Σ w_r·(θ − θ_r) / Σ w_r is the gradient of an *outer* step of SGD with ``lr``, ``momentum`` and ``nesterov``,
    which makes the next common θ. The state of the inner optimizer stays each rank's own.

    Raises ValueError for fewer than one step.

    Sources: Stich 2019, "Local SGD converges fast and communicates little", Algorithm 1; Douillard et al. 2023,
    "DiLoCo", Algorithm 1, which is about ``Local(500, lr=0.7, momentum=0.9, nesterov=True)``.
    """

    steps: int
    lr: float = 1.0
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.steps, int) and self.steps >= 1):
            raise ValueError(f"steps={self.steps!r}; expected a whole number of at least 1")


class LocalSteps:
    """What `Distributed` does with ``sync=Local(...)``: steps of this rank alone, and outer steps of all.

    make: makes a `Distributed` of an optimizer, a communicator, a number of values, and a wire.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        sync: Local,
        comm: MPI.Intracomm,
        values: int,
        wire: Any,
        make: Callable[[Optimizer, MPI.Intracomm, int, Any], Distributed],
    ) -> None:
        self._optimizer, self._every = optimizer, sync.steps
        self._common = [weights.copy() for weights in optimizer.weights()]
        outer = SGD(self._common, sync.lr, sync.momentum, nesterov=sync.nesterov)
        self.inner, self.outer = make(optimizer, MPI.COMM_SELF, 0, None), make(outer, comm, values, wire)
        self._begin(values)

    def _begin(self, values: int) -> None:
        self._values, self._weight, self._count = np.zeros(values), 0.0, 0

    def step(self, grads: Arrays | None, weight: float, values: Values) -> np.ndarray:
        """Sums of the values of all steps since the last average, where this step ends with one, else zeros."""
        inner = self.inner
        self._values += self.outer.intake.riding(values)
        handed_over = inner.intake.weights
        try:
            if handed_over or grads is not None or weight != 0:
                own = math.fsum(handed_over) + (weight if grads is not None else 0.0)
                if own != 0 or grads is None:
                    inner.step(grads, weight)
                self._weight += own
        except hc.CollectiveError as error:  # of this rank alone: the others learn of it when they average
            self.outer.intake.fail(error)
        self._count += 1
        return self._average() if self._count == self._every else np.zeros(len(self._values))

    def finish(self) -> None:
        """As `Distributed.finish`: to the end of the averages of those that have samples."""
        if self._count:
            self._average()
        self.outer.finish()
        self._optimizer.assign(self._common)

    def _average(self) -> np.ndarray:
        pairs = zip(self._common, self._optimizer.weights(), strict=True)
        moved = [common - weights for common, weights in pairs] if self._weight else None
        weight, values = self._weight, self._values
        self._begin(len(values))
        sums = self.outer.step(moved, weight, values)
        self._optimizer.assign(self._common)
        return sums

    def state_dict(self) -> dict[str, Any]:
        """This rank's own: to be taken after an average."""
        return {"inner": self._optimizer.state_dict(), "outer": self.outer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._optimizer.load_state_dict(state_dict["inner"])
        self.outer.load_state_dict(state_dict["outer"])
        for common, weights in zip(self._common, self._optimizer.weights(), strict=True):
            common[...] = weights
