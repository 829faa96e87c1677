"""What of a distributed optimizer goes into a checkpoint, and how it comes back, on any number of ranks.

store.save(step, saving.arrays(opt), {"optimizer": saving.facts(opt), "epoch": epoch})
...
saving.restore(opt, found, found.facts["optimizer"])         # found: store.latest()
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hpcml import collectives as hc
from hpcml.checkpoints import Checkpoint, Slice
from hpcml.checkpoints.neighbours import Copy
from hpcml.optim.distributed import Distributed
from hpcml.optim.optimizer import fill
from hpcml.optim.parameters import listed

FORMAT = 1


def arrays(distributed: Distributed) -> dict[str, np.ndarray | Slice]:
    """Parameters and state by name, for `hpcml.checkpoints.Store.save`; of what is sharded the parts that are here."""
    _require_common(distributed)
    optimizer = distributed.optimizer
    made: dict[str, np.ndarray | Slice] = {}
    for (name, array), slots, (start, _) in zip(optimizer.pairs, optimizer.state, optimizer.ranges, strict=True):
        made[f"parameter/{name}"] = array
        for slot, values in slots.items():
            whole = values.shape == array.shape and not distributed.is_sharded
            made[f"state/{name}/{slot}"] = values if whole else Slice(values, start, array.shape)
    return made


def facts(distributed: Distributed) -> dict[str, Any]:
    """All else, as JSON has it."""
    _require_common(distributed)
    optimizer = distributed.optimizer
    scale = optimizer.loss_scale
    return {
        "format": FORMAT,
        "rule": optimizer.rule.name,
        "hyperparameters": optimizer.hyperparameters,
        "steps": optimizer.steps,
        "loss_scale": None if scale is None else scale.state_dict(),
    }


def restore(distributed: Distributed, found: Checkpoint | Copy, said: Mapping[str, Any]) -> None:
    """Continue from what `arrays` and `facts` gave, which are ``said``. Collective.

    Raises CollectiveError on every rank, before anything changes, for a checkpoint of another rule or other parameters,
    or one that cannot be read.
    """
    optimizer = distributed.optimizer
    with hc.all_or_none(distributed.comm):
        _require_common(distributed)
        if said["format"] != FORMAT or said["rule"] != optimizer.rule.name:
            raise ValueError(
                f"the checkpoint of step {found.step} is of {said['rule']} (format {said['format']}); the optimizer is "
                f"{optimizer.rule.name} (format {FORMAT})"
            )
        expected = arrays(distributed)
        if differing := sorted(name for name in expected.keys() ^ set(found.names) if name.startswith(PREFIXES)):
            raise ValueError(f"the checkpoint of step {found.step} and the optimizer differ in {listed(differing)}")
        read = {name: _part(found, name, given) for name, given in expected.items()}
    for name, given in expected.items():
        target = given.data if isinstance(given, Slice) else given
        fill(target, read[name].reshape(target.shape))
    optimizer.hyperparameters.update(
        {name: _as(optimizer.hyperparameters[name], value) for name, value in said["hyperparameters"].items()}
    )
    optimizer.steps = said["steps"]
    if optimizer.loss_scale is not None and said["loss_scale"] is not None:
        optimizer.loss_scale.load_state_dict(said["loss_scale"])


PREFIXES = ("parameter/", "state/")


def _part(found: Checkpoint | Copy, name: str, given: np.ndarray | Slice) -> np.ndarray:
    shape, data = (given.shape, given.data) if isinstance(given, Slice) else (given.shape, given)
    if found.shape(name) != tuple(shape) or found.dtype(name) != data.dtype:
        raise ValueError(
            f"{name!r} of the checkpoint of step {found.step} is {found.dtype(name)} of shape {found.shape(name)}; "
            f"the optimizer has {data.dtype} of shape {tuple(shape)}"
        )
    if isinstance(given, Slice):
        return found.read(name, start=given.start, stop=given.start + data.size)
    return found.read(name)


def _as(like: Any, value: Any) -> Any:
    """JSON makes lists of tuples."""
    return tuple(value) if isinstance(like, tuple) else value


def _require_common(distributed: Distributed) -> None:
    if distributed.is_local:
        raise ValueError("with sync= each rank has a state of its own, which no other number of ranks could go on from")
