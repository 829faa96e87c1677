"""Parameter groups: which parameters have hyperparameters of their own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from hpcml.optim.parameters import listed

#: Some of the parameters: their names (positions in a list), or a function that says whether one is meant.
Selection = Collection[Any] | Callable[[Any, np.ndarray], bool]

Pairs = list[tuple[Any, np.ndarray]]


def grouped(
    pairs: Pairs, groups: Sequence[Mapping[str, Any]], decays: Selection | None, hyperparameters: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[int]]:
    """What the groups have of their own, and the group of each parameter.

    Raises ValueError for an unknown parameter or hyperparameter, and for a parameter in two groups.
    """
    own: list[dict[str, Any]] = [{} for _ in pairs]
    taken: dict[Any, int] = {}
    for number, group in enumerate(groups):
        if "params" not in group:
            raise ValueError(f"group {number} has no 'params': name those that it is for, as in {{'params': ['b'], …}}")
        differing = {name: value for name, value in group.items() if name != "params"}
        if unknown := [name for name in differing if name not in hyperparameters]:
            raise ValueError(
                f"group {number} has {listed(unknown)}; the hyperparameters here are {', '.join(hyperparameters)}"
            )
        for i in _selected(pairs, group["params"], f"group {number}"):
            if i in taken:
                raise ValueError(f"parameter {pairs[i][0]!r} is in group {taken[i]} and in group {number}")
            taken[i] = number
            own[i] = differing
    if decays is not None:
        decaying = _selected(pairs, decays, "decays")
        own = [one if i in decaying else {**one, "weight_decay": 0.0} for i, one in enumerate(own)]
    distinct: list[dict[str, Any]] = []
    for one in own:
        if one not in distinct:
            distinct.append(one)
    return distinct, [distinct.index(one) for one in own]


def _selected(pairs: Pairs, chosen: Selection, where: str) -> set[int]:
    """Positions of the parameters that are meant."""
    if callable(chosen):
        return {i for i, (name, array) in enumerate(pairs) if chosen(name, array)}
    if isinstance(chosen, (str, bytes)):
        raise ValueError(f"{where}: expected names of parameters in a list, not {chosen!r} alone")
    places = {name: i for i, (name, _) in enumerate(pairs)}
    if unknown := [name for name in chosen if name not in places]:
        raise ValueError(f"{where}: there is no parameter {listed(unknown)}; there are {listed(list(places))}")
    return {places[name] for name in chosen}
