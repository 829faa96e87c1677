"""What the caller hands over for one step, checked. What is wrong is kept, for all ranks to raise it together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from hpcml import collectives as hc
from hpcml.optim.ballot import LIMIT
from hpcml.optim.messages import Message
from hpcml.optim.optimizer import Optimizer
from hpcml.optim.parameters import Values, listed


class Intake:
    """Of one rank, begun anew with each step.

    Attributes: ``weights``, of the gradients that came first for each parameter, second and so on; ``error``, the first
    that was made.
    """

    def __init__(self, optimizer: Optimizer, values: int, allow_unused: bool) -> None:
        self._pairs, self._values, self._allow_unused = optimizer.pairs, values, allow_unused
        self._places = {name: i for i, (name, _) in enumerate(optimizer.pairs)}
        self.begin()

    def begin(self) -> None:
        self.weights: list[float] = []
        self.error: Exception | None = None

    @property
    def weight(self) -> float:
        """That of all, exactly rounded; 0 where there is an error."""
        return 0.0 if self.error else math.fsum(self.weights)

    def fail(self, error: Exception) -> None:
        """Something went wrong on this rank: the next step raises it, on every rank."""
        self.error = self.error or error

    def place(self, name: Any) -> int:
        """The position of that parameter."""
        if name not in self._places:
            raise ValueError(f"there is no parameter {name!r}; there are {listed(list(self._places))}")
        return self._places[name]

    def weigh(self, times: int, weight: float) -> None:
        """Note the weight of the gradients that come for the (times + 1)-th time."""
        check_weight(weight)
        if times < len(self.weights):
            if weight != self.weights[times]:
                raise ValueError(f"weight is {weight!r} here and was {self.weights[times]!r} for another parameter")
        else:
            self.weights.append(float(weight))

    def riding(self, values: Values) -> np.ndarray:
        """The numbers that ride along, float64; zeros where there are none, or they are wrong, which is kept."""
        try:
            if values is not None and len([float(value) for value in values]) != self._values:
                raise ValueError(f"{len(values)} values given; this optimizer was made for values={self._values}")
        except Exception as caught:
            self.fail(caught)
            values = None
        return np.zeros(self._values) if values is None else np.asarray(values, np.float64)

    def require_all(self, messages: Iterable[Message]) -> None:
        """An error where gradients are missing in messages that were not sent, unless that is allowed."""
        if self._allow_unused or self.error or not any(self.weights):
            return
        unused = [
            self._pairs[i][0] for message in messages for i, times in message.times.items() if times < len(self.weights)
        ]
        if unused:
            self.error = ValueError(
                f"no gradient came for {listed(sorted(unused, key=str))}: hand them over before step(), or pass "
                "allow_unused=True, and they count as zero"
            )


def check_weight(weight: float) -> None:
    if not 0 <= weight < LIMIT:
        raise ValueError(f"weight is {weight!r}; expected a number of at least 0 and below 2**48")


def require_weight(total: float) -> None:
    """The verdict on the weights of all ranks: CollectiveError where they are 0."""
    if total == 0:
        raise hc.CollectiveError(
            "the weights of all ranks are 0, so there is no mean gradient: "
            "leave out a step for which no rank has samples"
        )


def require_rows(rows: float, virtual: int | None) -> None:
    """The verdict on the number of virtual shards that all ranks have given: CollectiveError where it is another."""
    if virtual is not None and rows != virtual:
        raise hc.CollectiveError(
            f"the ranks gave gradients of {rows:.0f} virtual shards in a step; reproducible={virtual} wants as many: "
            "each rank hands over those of its `shards`; of one without samples, add(None, weight=0)"
        )
