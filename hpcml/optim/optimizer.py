"""An update rule bound to parameters: state, hyperparameters and the step count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hpcml.optim.parameters import Arrays, check_parameters, items, listed, matched


class Rule(NamedTuple):
    """An update rule apart from any parameters.

    ``kernel(parameter, gradient, scale, *slots, *coefficients)`` updates flat contiguous arrays of one
    dtype in place, in one pass; its scalars have the arrays' dtype. ``coefficients(hyperparameters, step)``
    are the scalars of step number ``step`` (from 1), computed in float64. ``slots`` names the state arrays
    that stand beside each parameter; they start at zero.
    """

    name: str
    slots: tuple[str, ...]
    coefficients: Callable[[Mapping[str, Any], int], tuple[float, ...]]
    kernel: Callable[..., None]


class Optimizer:
    """Parameters that are updated in place by a rule; made by ``SGD``, ``Adam`` or ``AdamW``.

    ``params`` is a dict or list of NumPy arrays, float32 or float64, of any shape. C-contiguous arrays are
    updated in one pass over memory; others through a packed copy. The state of a parameter has its shape
    and dtype.

    Attributes: ``params`` as given; ``lr``, the learning rate, which may be set between steps; ``steps``, how
    many were made; ``hyperparameters`` (dict); ``pairs``, the (name, array) of each parameter, and ``state``,
    for each of them a dict of arrays by slot.
    """

    def __init__(self, params: Arrays, rule: Rule, hyperparameters: dict[str, Any]) -> None:
        self.params = params
        self.rule = rule
        self.hyperparameters = hyperparameters
        self.steps = 0
        self.pairs = items(params, "params")
        check_parameters(self.pairs)
        # zeros, not zeros_like, which would take the memory order of a Fortran-ordered parameter.
        self.state = [{slot: np.zeros(p.shape, p.dtype) for slot in rule.slots} for _, p in self.pairs]

    @property
    def lr(self) -> float:
        return self.hyperparameters["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        self.hyperparameters["lr"] = nonnegative("lr", value)

    def step(self, grads: Arrays, scale: float = 1.0) -> None:
        """Update every parameter from its gradient, multiplied on the fly by ``scale``.

        ``grads`` has the keys (or length), shapes and dtypes of the parameters; it is not changed.

        Raises ValueError or TypeError, before anything is changed, when a gradient does not fit its
        parameter.
        """
        gradients = matched(self.pairs, grads)
        self.steps += 1
        coefficients = self.rule.coefficients(self.hyperparameters, self.steps)
        sign = -1.0 if self.hyperparameters["maximize"] else 1.0
        scalars = {p.dtype: tuple(map(p.dtype.type, (sign * scale, *coefficients))) for _, p in self.pairs}
        for (_, parameter), gradient, state in zip(self.pairs, gradients, self.state, strict=True):
            scaled, *rest = scalars[parameter.dtype]
            flat = np.ascontiguousarray(parameter).reshape(-1)
            slots = [array.reshape(-1) for array in state.values()]
            self.rule.kernel(flat, np.ascontiguousarray(gradient).reshape(-1), scaled, *slots, *rest)
            if not parameter.flags.c_contiguous:
                parameter[...] = flat.reshape(parameter.shape)

    def state_dict(self) -> dict[str, Any]:
        """A copy of all but the parameters: rule, hyperparameters, step count and state arrays by name."""
        state = {
            name: {slot: array.copy() for slot, array in slots.items()}
            for (name, _), slots in zip(self.pairs, self.state, strict=True)
        }
        return {
            "rule": self.rule.name,
            "hyperparameters": dict(self.hyperparameters),
            "steps": self.steps,
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
                array[...] = found[name][slot]
        self.hyperparameters.update(state_dict["hyperparameters"])
        self.steps = int(state_dict["steps"])

    def __repr__(self) -> str:
        numbers = sum(parameter.size for _, parameter in self.pairs)
        shown = ", ".join(f"{name}={value!r}" for name, value in self.hyperparameters.items())
        return f"{self.rule.name}({len(self.pairs)} arrays, {numbers} numbers, {shown})"


def nonnegative(name: str, value: float, below: float = float("inf")) -> float:
    """``value`` as a float; raises ValueError unless 0 ≤ value < below."""
    number = float(value)
    if not 0.0 <= number < below:
        limit = "" if below == float("inf") else f" and below {below:g}"
        raise ValueError(f"{name} is {value!r}; expected a number of at least 0{limit}")
    return number
