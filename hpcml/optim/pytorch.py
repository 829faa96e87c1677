"""PyTorch over MPI: any optimizer of ``torch.optim`` makes the same steps on every rank, with gradients of all.

    from hpcml.optim.pytorch import DistributedOptimizer
    opt = DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model)     # every rank
    for X, y in batches:                                                               # this rank's rows of each
        opt.zero_grad()
        opt.weight = len(X)
        loss(model(X), y).backward()
        opt.step()

Gradients travel while ``backward`` goes on, as `hpcml.optim.Distributed` has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from mpi4py import MPI
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from hpcml import collectives as hc
from hpcml.optim.distributed import Distributed
from hpcml.optim.precision import LossScale, bits, is_short, scaled, working

ENOUGH = 1 << 18  # numbers that torch steps with at a time: they take much longer than the call


def DistributedOptimizer(
    optimizer: torch.optim.Optimizer, module: torch.nn.Module, comm: MPI.Intracomm | None = None, **options: Any
) -> Any:
    """``optimizer``, whose ``step()`` first averages the gradients of ``module`` over the ranks. Collective.

    Returns an object of a subclass of the optimizer's class that shares its state, so schedulers take it. It has more:
    ``weight``, 1 unless you set it before ``backward``: of this rank's gradients in the mean, usually its number of
    samples, 0 where it has none (then without ``backward``); ``finish()``, for ranks that run out of batches before
    others; ``distributed``, the `Distributed`. ``step`` takes no closure.

    Parameters and buffers of the module, and the optimizer's state, become those of rank 0. options: of `Distributed`
    (overlap, bucket, wire, accumulate, allow_unused, reproducible …; not shard, sync and values). With ``accumulate=k``
    there are k calls of ``backward`` a step, with or without ``zero_grad`` between them, each with its ``weight``.

    Raises CollectiveError on every rank where modules differ, TypeError for tensors that are not on the CPU.
    """
    comm = MPI.COMM_WORLD if comm is None else comm
    if refused := sorted(options.keys() & {"shard", "sync", "values"}):
        raise TypeError(f"DistributedOptimizer takes no {', '.join(refused)}: a torch optimizer wants all gradients")
    _start_as_rank_0(optimizer, module, comm)
    made: Any = object.__new__(type(f"Distributed{type(optimizer).__name__}", (_Steps, type(optimizer)), {}))
    made.__dict__ = optimizer.__dict__
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad and id(p) in known}
    bridge = _Bridge(trained, lambda: super(_Steps, made).step(), lambda: _may_split(optimizer))
    made.distributed = Distributed(bridge, comm, **options)  # type: ignore[arg-type]
    made.weight = 1.0
    for name, parameter in trained.items():
        parameter.register_post_accumulate_grad_hook(_hook(made, name))
    return made


class _Steps:
    """What is different of a torch optimizer over ranks."""

    distributed: Distributed
    weight: float

    def step(self, closure: Callable[[], Any] | None = None) -> None:
        if closure is not None:
            raise TypeError("step() over ranks takes no closure: call backward() before it")
        if self.weight == 0 and not self.distributed.intake.weights:
            self.distributed.step(None, weight=0)
        else:
            self.distributed.step(weight=self.weight)

    def finish(self) -> None:
        """This rank has no more samples: take part in the steps of the others to their end. Collective."""
        self.distributed.finish()


def _hook(steps: _Steps, name: str) -> Callable[[torch.Tensor], None]:
    def ready(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        steps.distributed.ready(name, _array(parameter.grad), weight=steps.weight)
        if steps.distributed.expected > 1:
            parameter.grad = None  # it is packed: what comes next is not to be added to it

    return ready


class _Rule(NamedTuple):
    name: str


class _Bridge:
    """Torch's parameters, as `Distributed` sees an optimizer: it gets mean gradients, and torch makes the step.

    It takes in each gradient as it comes. Where the rule looks at one parameter at a time, torch steps with what has
    come while others are under way; else with the last one.
    """

    needs_all = False
    loss_scale: LossScale | None = None

    def __init__(
        self, parameters: Mapping[str, torch.nn.Parameter], step: Callable[[], Any], may_split: Callable[[], bool]
    ) -> None:
        self._parameters, self._step, self._may_split = list(parameters.values()), step, may_split
        self.params = {name: _array(parameter.detach()) for name, parameter in parameters.items()}
        self.pairs = list(self.params.items())
        self.ranges = [(0, array.size) for array in self.params.values()]
        self.state: list[dict[str, np.ndarray]] = [{} for _ in self.pairs]
        self.rule = _Rule("torch")
        self.hyperparameters: dict[str, Any] = {}
        self.steps = self._missing = 0
        self._grads: list[torch.Tensor | None] = []  # of all, while torch is to see some
        self._fresh = 0  # numbers among those
        self._enough: float = 0  # to step with

    def described(self) -> list[str]:
        return [f"{name!r}, {array.dtype} of shape {array.shape}" for name, array in self.pairs]

    def step(self, grads: Mapping[str, np.ndarray]) -> None:
        self.advance()
        for i, name in enumerate(self.params):
            self.apply(i, np.ravel(grads[name]), 1.0)

    def advance(self) -> None:
        self.steps += 1
        self._missing = len(self.pairs)
        self._enough = ENOUGH if self._may_split() else math.inf
        self._grads = [parameter.grad for parameter in self._parameters]
        self._hide()

    def apply(self, i: int, gradient: np.ndarray, scale: float) -> None:
        parameter, mean = self._parameters[i], self._grads[i]
        if mean is None:
            mean = self._grads[i] = torch.empty_like(parameter)
        _write(gradient, scale, _array(mean))
        parameter.grad = mean
        self._fresh += mean.numel()
        self._missing -= 1
        if not self._missing or self._fresh >= self._enough:
            self._step()
            self._hide()
        if not self._missing:
            for one, grad in zip(self._parameters, self._grads, strict=True):
                one.grad = grad

    def _hide(self) -> None:
        """Torch leaves parameters without gradients alone."""
        self._fresh = 0
        for parameter in self._parameters:
            parameter.grad = None


def _may_split(optimizer: torch.optim.Optimizer) -> bool:
    """Whether some parameters may make a step before others do: not where somebody might look at all together."""
    hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    watched = any(hooks) or _global_optimizer_pre_hooks or _global_optimizer_post_hooks
    return type(optimizer).__module__.startswith("torch.optim.") and not watched


def _write(gradient: np.ndarray, scale: float, mean: np.ndarray) -> None:
    """mean ← gradient, which is flat, times scale."""
    straight = mean.flags.c_contiguous and not is_short(mean.dtype)
    numbers = mean.reshape(-1) if straight else np.empty(mean.size, working(mean.dtype))
    scaled(bits(gradient), numbers.dtype.type(scale), numbers)
    if not straight:
        mean[...] = numbers.reshape(mean.shape)


def _array(tensor: torch.Tensor) -> np.ndarray:
    """The memory of a tensor."""
    if tensor.device.type != "cpu":
        raise TypeError(f"a tensor is on {tensor.device}; DistributedOptimizer takes those of the CPU: module.cpu()")
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _start_as_rank_0(optimizer: torch.optim.Optimizer, module: torch.nn.Module, comm: MPI.Intracomm) -> None:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    described = [f"{name}: {tensor.dtype} of shape {tuple(tensor.shape)}" for name, tensor in tensors]
    expected = comm.bcast(described)
    with hc.all_or_none(comm):
        if described != expected:
            pairs = zip_longest(described, expected, fillvalue="nothing")
            here, there = next((here, there) for here, there in pairs if here != there)
            raise ValueError(f"the module differs from that of rank 0: {here} here, {there} there")
        arrays = [_array(tensor.detach()) for _, tensor in tensors]
    if comm.size == 1:
        return
    for array in arrays:
        hc.broadcast(array, root=0, comm=comm)
    state = comm.bcast(optimizer.state_dict())
    if comm.rank:
        optimizer.load_state_dict(state)
