"""Parameters of which each rank updates a part: the parts, and how they come together again.

Rajbhandari et al. 2020, "ZeRO", stage 1: the state of the optimizer exists once over all ranks, not once on each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.optim.buckets import Bucket
from hpcml.optim.optimizer import Optimizer


def ranges(found: Sequence[Bucket], parts: Sequence[tuple[int, int]], arrays: int) -> list[tuple[int, int]]:
    """Which elements of each flattened array are in a rank's parts of the buckets."""
    made = [(0, 0)] * arrays
    for bucket, (first, last) in zip(found, parts, strict=True):
        for member, start, stop in bucket.spans():
            begin, end = max(first, start), min(last, stop)
            if begin < end:
                made[member] = begin - start, end - start
    return made


class Gathered:
    """Brings the parameters of a bucket together, of which each rank has updated its part: one all-gather.

    ``start`` takes them from the arrays, ``wait`` puts them there.
    """

    def __init__(
        self, bucket: Bucket, arrays: Sequence[np.ndarray], comm: MPI.Intracomm, algorithm: str, background: bool
    ) -> None:
        cuts = bucket.cuts(comm.size)
        self._bucket, self._arrays = bucket, arrays
        self._part = cuts[comm.rank], cuts[comm.rank + 1]
        dtype = arrays[bucket.members[0]].dtype
        self._mine = np.empty(self._part[1] - self._part[0], dtype)
        self._all = np.empty(bucket.size, dtype)
        self._plan = hc.plan(
            "allgather",
            self._mine,
            algorithm=algorithm,
            out=self._all,
            comm=comm,
            counts=np.diff(cuts).tolist(),
            background=background,
        )

    def start(self) -> None:
        first, last = self._part
        for member, start, stop in self._bucket.spans():
            begin, end = max(first, start), min(last, stop)
            if begin < end:
                self._mine[begin - first : end - first] = self._arrays[member].flat[begin - start : end - start]
        self._plan.start()

    def wait(self) -> None:
        self._plan.wait()
        for member, start, stop in self._bucket.spans():
            array = self._arrays[member]
            array[...] = self._all[start:stop].reshape(array.shape)


def gathered_state(state: dict[str, Any], optimizer: Optimizer, comm: MPI.Intracomm) -> dict[str, Any]:
    """What ``optimizer.state_dict()`` would be if this rank had the whole state. Collective."""
    for name, array in optimizer.pairs:
        slots = state["state"][name]
        for slot, part in slots.items():
            slots[slot] = hc.allgather(part, comm=comm).reshape(array.shape)
    return state


def own_state(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """The part of such a state that is this rank's."""
    own = {}
    for (name, _), (start, stop) in zip(optimizer.pairs, optimizer.ranges, strict=True):
        slots = state["state"].get(name, {})
        own[name] = {slot: array.reshape(-1)[start:stop] for slot, array in slots.items()}
    return {**state, "state": own}
