"""The update of parameters in GPU memory: one kernel a step for all of one data type and one set of hyperparameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.collectives.arrays import as_array
from hpcml.collectives.device import kernels
from hpcml.collectives.device.arrays import DeviceArray, new_like
from hpcml.collectives.device.runtime import Event
from hpcml.optim.precision import is_short, working

SOURCE = Path(__file__).with_name("updates.cu")
KERNELS = {"SGD": "plain", "SGD with momentum": "momentum", "Adam": "adam", "AdamW": "adam"}  # by the rule's name
CHUNK = 8192  # items that one block does, as in updates.cu
THREADS = 256  # of a block
WORDS = 6


class Updates:
    """The parameters of one optimizer. state: by slot, arrays of each parameter, which are updated with it.

    Raises TypeError for a rule that has no kernel, and for parameters that are not contiguous.
    """

    def __init__(self, rule: str, pairs: Sequence[tuple[Any, Any]], master: str) -> None:
        if rule not in KERNELS:
            raise TypeError(f"{rule} has no kernel for parameters in GPU memory; {', '.join(KERNELS)} have")
        self._kernel, self._master = KERNELS[rule], master
        self._thetas = [as_array(array) for _, array in pairs]
        for (name, _), theta in zip(pairs, self._thetas, strict=True):
            if not theta.flags.c_contiguous:
                raise TypeError(f"parameter {name!r} is in GPU memory and not contiguous: pass a copy that is")
        self._states: list[dict[str, DeviceArray]] = [{} for _ in pairs]
        self._tables: dict[tuple, _Table] = {}

    def fresh(self, i: int, slots: Mapping[str, float]) -> dict[str, Any]:
        """The state of parameter ``i``: arrays that start at these values; the caller's kind of array."""
        theta = self._thetas[i]
        dtype = working(theta.dtype)
        made = {slot: self._filled(theta, np.full(theta.shape, start, dtype)) for slot, start in slots.items()}
        if dtype != theta.dtype:
            made[self._master] = self._filled(theta, theta.to_host().astype(dtype))
        self._states[i] = made
        return {slot: array.given() for slot, array in made.items()}

    @staticmethod
    def _filled(theta: DeviceArray, values: np.ndarray) -> DeviceArray:
        array = new_like(theta, theta.shape, values.dtype)
        array.fill_from_host(values)
        return array

    def apply(self, steps: Sequence[tuple[int, DeviceArray, float, tuple[float, ...]]]) -> None:
        """Update parameters, each from its gradient times a factor, with the rule's scalars."""
        together = defaultdict(list)
        for i, gradient, factor, scalars in steps:
            together[self._thetas[i].dtype, gradient.dtype, factor, scalars].append((i, gradient))
        for (theta, grad, factor, scalars), members in together.items():
            self._apply(theta, grad, members, (factor, *scalars))

    def _apply(
        self, theta: np.dtype, grad: np.dtype, members: list[tuple[int, DeviceArray]], scalars: tuple[float, ...]
    ) -> None:
        places = tuple(i for i, _ in members)
        first = self._thetas[places[0]]
        table = self._tables.get((places, grad))
        rows = np.zeros((len(members), WORDS), np.int64)
        for row, (i, gradient) in zip(rows, members, strict=True):
            row[:] = self._row(i, gradient.pointer)
        if table is None:
            table = self._tables[places, grad] = _Table(first, rows)
        table.set(rows)
        real = working(theta)
        options = [f"-DREAL={kernels.item(real)}", f"-DGRAD={kernels.item(grad)}"]
        options += [f"-DSHORT={kernels.item(theta)}"] if is_short(theta) else []
        arguments = table.rows.pointer, table.chunks.pointer, table.count, *map(float, scalars)
        first.runtime.launch(
            SOURCE, tuple(options), self._kernel, table.count * THREADS, arguments, first.callers_stream()
        )

    def _row(self, i: int, gradient: int) -> list[int]:
        theta, state = self._thetas[i], dict(self._states[i])
        master = state.pop(self._master, None)
        real, short = (theta, 0) if master is None else (master, theta.pointer)
        slots = [array.pointer for array in state.values()]
        return [real.pointer, short, gradient, *slots, *[0] * (2 - len(slots)), theta.size]


class _Table:
    """What the kernel of some parameters reads: their rows, and the chunks that they are cut into."""

    def __init__(self, like: DeviceArray, rows: np.ndarray) -> None:
        chunks = [(row, first) for row, n in enumerate(rows[:, -1].tolist()) for first in range(0, n, CHUNK)]
        self.count = len(chunks)
        self.chunks = new_like(like, (max(len(chunks), 1), 2), np.dtype(np.int64))
        self.chunks.fill_from_host(np.array(chunks or [(0, 0)], np.int64))
        self.rows = new_like(like, rows.shape, rows.dtype)
        self._pinned = like.runtime.pinned(rows.nbytes)
        self._sent: Event | None = None
        self._known: np.ndarray | None = None

    def set(self, rows: np.ndarray) -> None:
        """Sent again only where it is not what is there: gradients mostly stay in their places."""
        if self._known is not None and np.array_equal(self._known, rows):
            return
        runtime, stream = self.rows.runtime, self.rows.callers_stream()
        if self._sent is not None:
            self._sent.synchronize()
        self._pinned[:] = rows.reshape(-1).view(np.uint8)
        runtime.copy(self.rows.pointer, self._pinned.ctypes.data, rows.nbytes, stream)
        self._sent, self._known = runtime.record(stream), rows
