"""Small jobs of reductions on one device: rows folded together, a total divided, a host's result brought back."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from hpcml.collectives.device import kernels
from hpcml.collectives.device.arrays import DeviceArray, new_like
from hpcml.collectives.ops import Op


def folded_rows(x: DeviceArray, op: Op) -> DeviceArray:
    """The fold of ``x`` along axis 0, by halves: ⌈lg rows⌉ kernels, about twice its bytes read."""
    if not kernels.folds(op, x.dtype):
        raise TypeError(f"axis=0: there is no kernel for {op.name} of {x.dtype} in GPU memory; pass a host copy")
    rows, shape, stream = len(x), x.shape[1:], x.callers_stream()
    width = prod(shape)
    if rows == 0:
        assert op.ufunc is not None
        empty = np.asarray(op.ufunc.reduce(np.empty(x.shape, x.dtype), axis=0, dtype=x.dtype))
        result = new_like(x, shape, x.dtype)
        result.fill_from_host(empty)
        return result
    halves = new_like(x, x.shape, x.dtype)
    halves.fill_from(x)
    while rows > 1:
        kept = -(-rows // 2)
        lower = halves.pointer + kept * width * x.dtype.itemsize
        pair = [halves.pointer, lower]
        kernels.fold(x.runtime, op, x.dtype, [halves.pointer], pair, (rows - kept) * width, stream)
        rows = kept
    return halves.part(0, shape)


def divide(total: DeviceArray, divisor: int) -> None:
    """In place, on the caller's stream."""
    from hpcml.collectives.ops import OPS

    straight = total.packed()
    pointer = straight.pointer
    stream = total.callers_stream()
    kernels.fold(total.runtime, OPS["mean"], total.dtype, [pointer], [pointer], total.size, stream, divisor)
    if straight is not total:
        total.fill_from(straight)


def from_host(like: DeviceArray, array: np.ndarray) -> Any:
    """A host's array as one of the kind and on the device of ``like``."""
    made = new_like(like, array.shape, array.dtype)
    made.fill_from_host(array)
    return made.given()
