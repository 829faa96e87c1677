"""How a model is trained: the parameters that all estimators share, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcml import optim
from hpcml.models.device import DEVICES
from hpcml.optim.optimizer import Optimizer

if TYPE_CHECKING:
    from mpi4py import MPI

OPTIMIZERS = ("sgd", "momentum", "adam")
WIRES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Settings:
    """Training parameters of an estimator, named as there.

    Raises ValueError or TypeError for the first that is out of range, saying what was found and expected.
    """

    optimizer: str
    learning_rate: float
    rate: str
    warmup_epochs: float
    momentum: float
    nesterov: bool
    weight_decay: float
    batch_size: int
    epochs: int
    random_state: int | None
    dtype: Any
    algorithm: str
    reproducible: int | None = None
    shard: bool = False
    overlap: bool | None = None
    wire: str | None = None
    clip_norm: float | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        choice("optimizer", self.optimizer, OPTIMIZERS)
        choice("rate", self.rate, tuple(optim.rates.LAWS))
        number("learning_rate", self.learning_rate, above=0)
        number("warmup_epochs", self.warmup_epochs, least=0)
        number("momentum", self.momentum, least=0, below=1)
        number("weight_decay", self.weight_decay, least=0)
        whole("batch_size", self.batch_size, least=1)
        whole("epochs", self.epochs, least=1)
        if self.random_state is not None:
            whole("random_state", self.random_state, least=0)
        if self.reproducible is not None:
            whole("reproducible", self.reproducible, least=1)
        if self.wire is not None:
            choice("wire", self.wire, WIRES)
        if self.clip_norm is not None:
            number("clip_norm", self.clip_norm, above=0)
        choice("device", self.device, DEVICES)
        if self.device == "cuda" and (given := self._of_the_host()):
            raise ValueError(f"device='cuda' does not go with {', '.join(given)}: leave it, or device='cpu'")
        choice("dtype", np.dtype(self.dtype).name, ("float32", "float64"))

    def _of_the_host(self) -> list[str]:
        """What is asked for that there is for processors only."""
        names = ("reproducible", "shard", "wire", "clip_norm")
        return [name for name in names if getattr(self, name) not in (None, False)]

    @property
    def placed(self) -> str:
        """The device, "auto" being the processor where that alone has what is asked for."""
        return "cpu" if self.device == "auto" and self._of_the_host() else self.device

    @classmethod
    def of(cls, params: dict[str, Any]) -> Settings:
        return cls(**{field.name: params[field.name] for field in fields(cls) if field.name in params})

    def make_optimizer(self, parameters: dict[str, np.ndarray]) -> Optimizer:
        """The update rule, bound to ``parameters``. ``weight_decay`` with "adam" is decoupled (AdamW)."""
        if self.optimizer == "adam":
            return optim.AdamW(
                parameters, lr=self.learning_rate, weight_decay=self.weight_decay, clip_norm=self.clip_norm
            )
        momentum, nesterov = (0.0, False) if self.optimizer == "sgd" else (self.momentum, self.nesterov)
        return optim.SGD(
            parameters,
            self.learning_rate,
            momentum,
            weight_decay=self.weight_decay,
            nesterov=nesterov,
            clip_norm=self.clip_norm,
        )

    def distribute(self, parameters: dict[str, np.ndarray], comm: MPI.Intracomm, values: int) -> optim.Distributed:
        """The same, over the ranks of ``comm``, with so many numbers more to be summed in each step."""
        return optim.Distributed(
            self.make_optimizer(parameters),
            comm=comm,
            algorithm=self.algorithm,
            values=values,
            reproducible=self.reproducible,
            shard=self.shard,
            overlap=self.overlap,
            wire=self.wire,
        )

    def rate_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of step number ``step`` (from 0, over all epochs)."""
        warmup = round(self.warmup_epochs * steps_per_epoch)
        return self.learning_rate * optim.rates.LAWS[self.rate](step, self.epochs * steps_per_epoch, warmup=warmup)


def number(
    name: str, value: Any, least: float | None = None, above: float | None = None, below: float | None = None
) -> None:
    """Raise unless ``value`` is a finite number within the bounds."""
    limits = [
        f"{word} {limit:g}"
        for word, limit in (("at least", least), ("above", above), ("below", below))
        if limit is not None
    ]
    message = f"{name}={value!r}; expected a number {' and '.join(limits)}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(message)
    value = float(value)
    if (
        not math.isfinite(value)
        or (least is not None and value < least)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
    ):
        raise ValueError(message)


def whole(name: str, value: Any, least: int) -> None:
    """Raise unless ``value`` is a whole number of at least ``least``."""
    message = f"{name}={value!r}; expected a whole number of at least {least}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(message)
    if value < least:
        raise ValueError(message)


def choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}; expected one of {', '.join(allowed)}")
