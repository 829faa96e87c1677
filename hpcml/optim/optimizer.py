"""The update rule of an optimizer, and the optimizer that applies it to a set of parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, TypedDict

import numpy as np

from hpcml.kinds import DEVICE, kind_of
from hpcml.optim.groups import Selection, grouped
from hpcml.optim.norms import BLOCK, Table, squares
from hpcml.optim.parameters import Arrays, check_parameters, items, listed, matched
from hpcml.optim.precision import DOUBLE, LossScale, bits, is_short, working

MASTER = "master"  # the slot of the float32 weights of 16-bit parameters


class Rule(NamedTuple):
    """How one parameter is updated; pure, apart from any parameters.

    ``kernel(theta, short, gradient, factor, *slots, *coefficients)`` updates flat contiguous arrays in place, in one
    pass. ``theta`` and the slots are float32 or float64 and the scalars of that dtype; ``short`` is where ``theta``
    is also kept in 16 bits, or empty; ``gradient`` may be of 16 bits, too (see `precision`).
    ``coefficients(hyperparameters, step)`` are the scalars of step number ``step`` (from 1), computed in float64.
    ``slots`` names the state arrays that stand beside each parameter; they start at what ``start(hyperparameters)``
    says, or at zero.

    A rule that scales the step of each parameter by norms of whole arrays has two passes. ``measure``, called as
    ``kernel`` with ``sums`` (2, blocks) behind, puts sums of squares over the blocks of `norms` there; from their two
    roots ``trust(hyperparameters, norms)`` makes the scalar that ``kernel`` gets behind its coefficients.
    """

    name: str
    slots: tuple[str, ...]
    coefficients: Callable[[Mapping[str, Any], int], tuple[float, ...]]
    kernel: Callable[..., None]
    start: Callable[[Mapping[str, Any]], tuple[float, ...]] | None = None
    measure: Callable[..., None] | None = None
    trust: Callable[[Mapping[str, Any], np.ndarray], float] | None = None


class Family(NamedTuple):
    """What the optimizers of a name have in common. checked: hyperparameters that were found right, or it raises.
    rule: the rule for these groups of hyperparameters."""

    checked: Callable[..., dict[str, Any]]
    rule: Callable[[Sequence[Mapping[str, Any]]], Rule]


class Options(TypedDict, total=False):
    """What every optimizer takes, by keyword.

    groups: parameters with hyperparameters of their own: dicts of "params", the names of some (positions in a list),
        or a function of name and array that says whether it is meant, and of what differs, as in
        ``{"params": ["b"], "lr": 0.1, "weight_decay": 0.0}``. A group's lr stays the same multiple of ``lr`` when that
        is set.
    decays: the parameters to which weight decay applies (None: all): names, or a function, as in
        ``lambda name, array: array.ndim > 1``.
    clip_norm: the norm, over all parameters, to which gradients are scaled down (Pascanu, Mikolov & Bengio 2013).
    loss_scale: a `LossScale`, or a fixed factor, that the gradients were multiplied by.
    """

    groups: Sequence[Mapping[str, Any]]
    decays: Selection | None
    clip_norm: float | None
    loss_scale: LossScale | float | None


class _Target(NamedTuple):
    """What a kernel updates of a parameter: flat. whole: the parameter, where ``theta`` or ``short`` is a copy."""

    theta: np.ndarray
    short: np.ndarray
    slots: tuple[np.ndarray, ...]
    whole: np.ndarray | None


class Optimizer:
    """Parameters that are updated in place by a rule; made by ``SGD``, ``Adam`` and their kin.

    ``params`` is a dict or list of NumPy arrays of any shape, or of arrays in GPU memory (CuPy's), whose state is kept
    there, too, and which SGD and Adam update in one kernel: float32, float64, or float16 and bfloat16, for which
    float32 weights are kept beside. Gradients have the dtype of their parameter; those of float32 may be of 16
    bits, and those of 16 bits float32. C-contiguous arrays are updated in one pass over memory; others through a
    packed copy.

    Attributes: ``params`` as given; ``lr``, the learning rate, which may be set between steps; ``steps``, how
    many were made; ``hyperparameters`` (dict); ``loss_scale``; ``norm``, of the last gradients before they were
    clipped (None where nothing asks for it); ``pairs``, the (name, array) of each parameter, and ``state``, for each of
    them a dict of arrays by slot, of its shape, in float32 for 16 bits.
    """

    def __init__(self, params: Arrays, family: Family, hyperparameters: Mapping[str, Any], options: Options) -> None:
        if unknown := sorted(options.keys() - Options.__annotations__.keys()):
            raise TypeError(f"unknown argument {listed(unknown)}; the options are {', '.join(Options.__annotations__)}")
        self.params = params
        self.pairs = items(params, "params")
        check_parameters(self.pairs)
        self.hyperparameters = family.checked(**hyperparameters)
        self._own, self._group_of = grouped(
            self.pairs, options.get("groups", ()), options.get("decays"), self.hyperparameters
        )
        for number, own in enumerate(self._own):
            found = family.checked(**{**self.hyperparameters, **own})
            self._own[number] = {name: found[name] for name in own}
        self._rates = [_ratio(own, self.lr) for own in self._own]
        self.rule = family.rule(self._groups())
        scale, clip = options.get("loss_scale"), options.get("clip_norm")
        self.loss_scale = LossScale(scale, interval=None) if isinstance(scale, (int, float)) else scale
        self.clip_norm = None if clip is None else nonnegative("clip_norm", clip)
        self.steps = 0
        self.norm: float | None = None
        self._device = self._on_device()
        self.ranges = [(0, prod(array.shape)) for _, array in self.pairs]
        starts = [self.rule.start(h) if self.rule.start else (0.0,) * len(self.rule.slots) for h in self._groups()]
        self.state = [self._fresh(i, starts[group]) for i, group in enumerate(self._group_of)]
        self._targets = self._aimed()
        self._scalars: list[dict[np.dtype, tuple]] = []

    def _fresh(self, i: int, starts: tuple[float, ...]) -> dict[str, np.ndarray]:
        array = self.pairs[i][1]
        if self._device is not None:
            return self._device.fresh(i, dict(zip(self.rule.slots, starts, strict=True)))
        dtype = working(array.dtype)
        # zeros, not zeros_like, which would take the memory order of a Fortran-ordered parameter.
        slots = {slot: np.zeros(array.shape, dtype) for slot in self.rule.slots}
        for slot, start in zip(slots.values(), starts, strict=True):
            if start:
                slot[...] = start
        if dtype != array.dtype:
            slots[MASTER] = np.array(array, dtype, order="C")
        return slots

    def _on_device(self) -> Any:
        """What updates parameters in GPU memory; None for those of the host."""
        if kind_of(self.pairs[0][1]) != DEVICE:
            return None
        from hpcml.optim.device.updates import Updates

        if self.clip_norm is not None or self.loss_scale is not None:
            raise TypeError("clip_norm and loss_scale are not there for parameters in GPU memory")
        return Updates(self.rule.name, self.pairs, MASTER)

    def _groups(self) -> list[dict[str, Any]]:
        """The hyperparameters of each group."""
        base = self.hyperparameters
        return [{**base, **own, "lr": base["lr"] * rate} for own, rate in zip(self._own, self._rates, strict=True)]

    @property
    def lr(self) -> float:
        return self.hyperparameters["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        self.hyperparameters["lr"] = nonnegative("lr", value)

    @property
    def needs_all(self) -> bool:
        """Whether the update of one parameter depends on the gradients of all, or on more of its own than is here."""
        return self.clip_norm is not None or self.loss_scale is not None or self.rule.measure is not None

    def described(self) -> list[str]:
        """What the optimizers of all ranks have to have in common, in words."""
        scaled = None if self.loss_scale is None else self.loss_scale.interval
        groups = {
            name: {**self._own[group], "lr": f"{self._rates[group]}·lr"}
            for (name, _), group in zip(self.pairs, self._group_of, strict=True)
            if self._own[group]
        }
        return [
            self.rule.name,
            f"clip_norm={self.clip_norm}",
            f"a loss_scale of interval {scaled}" if self.loss_scale else "no loss_scale",
            f"groups {groups}",
            *(f"{name!r}, {array.dtype} of shape {array.shape}" for name, array in self.pairs),
        ]

    def step(self, grads: Arrays, scale: float = 1.0) -> None:
        """Update every parameter from its gradient, multiplied on the fly by ``scale``.

        ``grads`` has the keys (or length) and shapes of the parameters; it is not changed. Where a `LossScale`
        finds gradients that are not finite, nothing but the scale is changed.

        Raises ValueError or TypeError, before anything is changed, when a gradient does not fit its parameter.
        """
        gradients = matched(self.pairs, grads)
        if self._device is not None:
            self.update([gradient.packed() for gradient in gradients], scale)
            return
        self.update([np.ascontiguousarray(gradient).reshape(-1) for gradient in gradients], scale)

    def update(
        self,
        gradients: Sequence[np.ndarray],
        scale: float = 1.0,
        complete: Callable[[np.ndarray], None] = lambda sums: None,
    ) -> bool:
        """As `step`, from the flat gradients of `ranges`; whether the step was made.

        complete: adds what the other ranks have to sums over all blocks (float64), of which this one has those of its
        ranges.
        """
        factor = self._factor(gradients, scale, complete)
        if factor is None:
            return False
        self.advance()
        if self._device is not None:
            self._device.apply([self._device_step(i, gradient, factor) for i, gradient in enumerate(gradients)])
            return True
        trusts = [1.0] * len(self.pairs) if self.rule.measure is None else self._measured(gradients, factor, complete)
        for i, (gradient, trust) in enumerate(zip(gradients, trusts, strict=True)):
            self.apply(i, gradient, factor, trust)
        return True

    def advance(self) -> None:
        """Begin a step: what `apply` takes from the hyperparameters is settled."""
        self.steps += 1
        self._scalars = [
            {dtype: tuple(map(dtype.type, self.rule.coefficients(h, self.steps))) for dtype in self._dtypes}
            for h in self._groups()
        ]

    def apply(self, i: int, gradient: np.ndarray, factor: float, trust: float = 1.0) -> None:
        """Update this rank's range of parameter ``i`` from its flat gradient, times ``factor``."""
        if self._device is not None:
            self._device.apply([self._device_step(i, gradient, factor)])
            return
        theta, short, slots, whole = target = self._targets[i]
        if not theta.size:
            return
        if whole is not None:
            self._take_in(i, target)
        number = theta.dtype.type
        scalars = self._scalars[self._group_of[i]][theta.dtype]
        if self.rule.measure is not None:
            scalars = (*scalars, number(trust))
        self.rule.kernel(theta, short, bits(gradient), number(self._signed(i, factor)), *slots, *scalars)
        if whole is not None:
            start, stop = self.ranges[i]
            whole.flat[start:stop] = short.view(whole.dtype) if short.size else theta

    def _device_step(self, i: int, gradient: Any, factor: float) -> tuple[int, Any, float, tuple[float, ...]]:
        """What `hpcml.optim.device.updates.Updates.apply` wants of parameter ``i``."""
        (scalars,) = self._scalars[self._group_of[i]].values()
        return i, gradient, self._signed(i, factor), scalars

    def _signed(self, i: int, factor: float) -> float:
        own = self._own[self._group_of[i]]
        return -factor if own.get("maximize", self.hyperparameters["maximize"]) else factor

    def _factor(self, gradients: Sequence[np.ndarray], scale: float, complete: Callable) -> float | None:
        """What gradients are multiplied by; None where the step is left out."""
        if self.loss_scale is not None:
            scale /= self.loss_scale.value
        if self.clip_norm is None and self.loss_scale is None:
            return scale
        table = self._table(1)
        for i, gradient in enumerate(gradients):
            squares(bits(gradient), table.rows(i, self.ranges[i][0], gradient.size)[0])
        complete(table.sums)
        self.norm = norm = abs(scale) * math.sqrt(table.sums.sum())
        if self.loss_scale is not None:
            self.loss_scale.update(math.isfinite(norm))
            if not math.isfinite(norm):
                return None
        if self.clip_norm is not None and not norm <= self.clip_norm:
            return scale * (self.clip_norm / (norm + 1e-6))  # as torch.nn.utils.clip_grad_norm_
        return scale

    def _measured(self, gradients: Sequence[np.ndarray], factor: float, complete: Callable) -> list[float]:
        table = self._table(2)
        for i, gradient in enumerate(gradients):
            theta, short, slots, whole = target = self._targets[i]
            if whole is not None:
                self._take_in(i, target)
            scalars = self._scalars[self._group_of[i]][theta.dtype]
            signed = theta.dtype.type(self._signed(i, factor))
            sums = table.rows(i, self.ranges[i][0], gradient.size)
            self.rule.measure(theta, short, bits(gradient), signed, *slots, *scalars, sums)  # type: ignore[misc]
        complete(table.sums)
        groups = self._groups()
        return [self.rule.trust(groups[g], table.norms(i)) for i, g in enumerate(self._group_of)]  # type: ignore[misc]

    def _table(self, kinds: int) -> Table:
        return Table([array.size for _, array in self.pairs], kinds)

    def weights(self) -> list[np.ndarray]:
        """The parameters in the precision in which they are updated: those of 16 bits have copies in float32."""
        return [state.get(MASTER, array) for (_, array), state in zip(self.pairs, self.state, strict=True)]

    def assign(self, weights: Sequence[np.ndarray]) -> None:
        """Set the parameters, as `weights` returns them."""
        for (_, array), state, given in zip(self.pairs, self.state, weights, strict=True):
            array[...] = given
            if MASTER in state:
                state[MASTER][...] = given

    def restrict(self, ranges: Sequence[tuple[int, int]]) -> None:
        """From now on update only elements start … stop − 1 of each flattened parameter, and keep the state of those.

        A start is a multiple of `norms.BLOCK`, unless the range is empty.
        """
        if any(start % BLOCK and start < stop for start, stop in ranges):
            raise ValueError(f"a range begins within a block of {BLOCK}: {ranges}")
        for i, (start, stop) in enumerate(ranges):
            first = self.ranges[i][0]
            for slot, array in self.state[i].items():
                self.state[i][slot] = array.reshape(-1)[start - first : stop - first].copy()
        self.ranges = list(ranges)
        self._targets = self._aimed()

    def _aimed(self) -> list[_Target]:
        targets: list[_Target] = []
        if self._device is not None:
            self._dtypes = {DOUBLE}
            return targets
        for (_, array), state, (start, stop) in zip(self.pairs, self.state, self.ranges, strict=True):
            straight = array.flags.c_contiguous
            own = array.reshape(-1)[start:stop] if straight else np.empty(stop - start, array.dtype)
            slots = {slot: values.reshape(-1) for slot, values in state.items()}
            if MASTER in slots:
                theta, short = slots.pop(MASTER), bits(own)
            else:
                theta, short = own, np.empty(0, own.dtype)
            targets.append(_Target(theta, short, tuple(slots.values()), None if straight else array))
        self._dtypes = {target.theta.dtype for target in targets}
        return targets

    def _take_in(self, i: int, target: _Target) -> None:
        """Read a parameter that is not contiguous into its packed copy."""
        if target.whole is not None and not is_short(target.whole.dtype):
            start, stop = self.ranges[i]
            target.theta[:] = target.whole.flat[start:stop]

    def state_dict(self) -> dict[str, Any]:
        """A copy of all but the parameters: rule, hyperparameters, step count and state arrays by name."""
        state = {
            name: {slot: _copied(array) for slot, array in slots.items()}
            for (name, _), slots in zip(self.pairs, self.state, strict=True)
        }
        return {
            "rule": self.rule.name,
            "hyperparameters": dict(self.hyperparameters),
            "steps": self.steps,
            "loss_scale": None if self.loss_scale is None else self.loss_scale.state_dict(),
            "state": state,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict()`` returned, for parameters of the same names, shapes and dtypes.

        Raises ValueError, before anything is changed, when it belongs to another rule or to other parameters.
        """
        if state_dict["rule"] != self.rule.name:
            raise ValueError(f"this state belongs to {state_dict['rule']}, the optimizer is {self.rule.name}")
        found = state_dict["state"]
        differing = sorted(found.keys() ^ dict(self.pairs).keys(), key=str)
        if differing:
            raise ValueError(f"the parameters of this state and the optimizer differ in {listed(differing)}")
        for (name, _), slots in zip(self.pairs, self.state, strict=True):
            for slot, array in slots.items():
                value = found[name].get(slot)
                if value is None or value.shape != array.shape or value.dtype != array.dtype:
                    what = "nothing" if value is None else f"{value.dtype} of shape {value.shape}"
                    raise ValueError(
                        f"state {slot!r} of parameter {name!r} is {what}; expected {array.dtype} of shape {array.shape}"
                    )
        for (name, _), slots in zip(self.pairs, self.state, strict=True):
            for slot, array in slots.items():
                fill(array, found[name][slot])
        self.hyperparameters.update(state_dict["hyperparameters"])
        self.steps = int(state_dict["steps"])
        scale = state_dict.get("loss_scale")
        if self.loss_scale is not None and scale is not None:
            self.loss_scale.load_state_dict(scale)

    def __repr__(self) -> str:
        numbers = sum(parameter.size for _, parameter in self.pairs)
        shown = ", ".join(f"{name}={value!r}" for name, value in self.hyperparameters.items())
        return f"{self.rule.name}({len(self.pairs)} arrays, {numbers} numbers, {shown})"


def fill(array: Any, values: np.ndarray) -> None:
    """Put values into an array, of the host or in GPU memory."""
    if kind_of(array) == DEVICE:
        from hpcml.collectives.arrays import as_array

        as_array(array).fill_from_host(values)
    else:
        array[...] = values


def _copied(array: Any) -> np.ndarray:
    """A copy in the host's memory."""
    if kind_of(array) != DEVICE:
        return array.copy()
    from hpcml.collectives.arrays import host_array

    return host_array(array)


def _ratio(own: Mapping[str, Any], lr: float) -> float:
    """A group's learning rate as a multiple of the common one."""
    if "lr" not in own or own["lr"] == lr:
        return 1.0
    if lr == 0:
        raise ValueError(f"a group has lr={own['lr']!r}, which is kept as a multiple of lr, but that is 0")
    return own["lr"] / lr


def nonnegative(name: str, value: float, below: float = float("inf")) -> float:
    """``value`` as a float; raises ValueError unless 0 ≤ value < below."""
    number = float(value)
    if not 0.0 <= number < below:
        limit = "" if below == float("inf") else f" and below {below:g}"
        raise ValueError(f"{name} is {value!r}; expected a number of at least 0{limit}")
    return number
