"""The kernels of ``kernels.cu``, launched: how their arguments are put together from pointers, shapes and ops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpcml.collectives.ops import Op

if TYPE_CHECKING:
    from hpcml.collectives.device.arrays import DeviceArray
    from hpcml.collectives.device.runtime import Runtime

SOURCE, ITEMS = (Path(__file__).with_name(name) for name in ("kernels.cu", "items.cuh"))
MOST = 8  # arrays that one pass reads, and that it writes
AXES = 8
_NAMES = {"?": "b1", "b": "i1", "h": "i2", "i": "i4", "l": "i8", "B": "u1", "H": "u2", "I": "u4", "L": "u8", "e": "f2",
          "f": "f4", "d": "f8", "F": "c8", "D": "c16"}  # fmt: skip
_ITEMS = {np.dtype(code): name for code, name in _NAMES.items()}
_WORDS = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "w16"}


@cache
def item(dtype: np.dtype) -> str | None:
    """The kernels' name for that type; None where they do not know it."""
    if dtype.name == "bfloat16":
        return "bf2"
    return next((name for known, name in _ITEMS.items() if known == dtype), None)


def code(source: Path) -> str:
    """What the compiler gets of a file of kernels."""
    return ITEMS.read_text() + source.read_text()


def folds(op: Op, dtype: np.dtype) -> bool:
    """Whether there is a kernel for that op of that type."""
    return op.ufunc is not None and item(dtype) is not None


def fold(
    runtime: Runtime,
    op: Op,
    dtype: np.dtype,
    targets: Sequence[int],
    sources: Sequence[int],
    count: int,
    stream: int,
    divisor: int = 0,
    scratch: int = 0,
) -> None:
    """The fold of ``sources`` in their order, over ``divisor`` unless that is 0, into each of ``targets``.

    One pass over memory where there are at most `MOST` of both; ``scratch``: memory for ``count`` items, needed where
    there are more sources.
    """
    if not count:
        return
    options = f"-DITEM={item(dtype)}", f"-DOP={'sum' if op.name == 'mean' else op.name}"
    waiting = list(sources)
    while len(waiting) > MOST:
        _fold(runtime, options, [scratch], waiting[:MOST], count, 0, stream)
        waiting = [scratch, *waiting[MOST:]]
    _fold(runtime, options, targets[:MOST], waiting, count, divisor, stream)
    for first in range(MOST, len(targets), MOST):
        _fold(runtime, options, targets[first : first + MOST], targets[:1], count, 0, stream)


def _fold(
    runtime: Runtime,
    options: tuple[str, ...],
    targets: Sequence[int],
    sources: Sequence[int],
    count: int,
    divisor: int,
    stream: int,
) -> None:
    to, read = ([*places, *[0] * (MOST - len(places))] for places in (targets, sources))
    arguments = (*to, len(targets), *read, len(sources), count, float(divisor))
    runtime.launch(SOURCE, options, "fold", count, arguments, stream)


def assign(runtime: Runtime, to: DeviceArray, source: DeviceArray, stream: int) -> None:
    """Copy items between two arrays of one shape and dtype, of any layouts; at most one of them is not straight."""
    straight_to, straight_from = to.flags.c_contiguous, source.flags.c_contiguous
    if not to.size:
        return
    if straight_to and straight_from:
        runtime.copy(to.pointer, source.pointer, to.nbytes, stream)
    elif straight_to:
        _spread(runtime, "pack", to.pointer, source, stream)
    elif straight_from:
        _spread(runtime, "unpack", source.pointer, to, stream)
    else:
        middle = runtime.empty(to.nbytes, stream)
        _spread(runtime, "pack", middle.pointer, source, stream)
        _spread(runtime, "unpack", middle.pointer, to, stream)


def _spread(runtime: Runtime, kernel: str, packed: int, strided: DeviceArray, stream: int) -> None:
    lengths, strides = merged(strided.shape, strided.strides)
    if len(lengths) > AXES:
        raise ValueError(f"an array of {len(lengths)} axes that cannot be merged: kernels take {AXES}; pass a copy")
    if strided.dtype.itemsize not in _WORDS:
        raise TypeError(f"items of {strided.dtype.itemsize} bytes, not side by side: pass a copy that is contiguous")
    missing = AXES - len(lengths)
    options = (f"-DITEM={_WORDS[strided.dtype.itemsize]}",)
    arguments = packed, strided.pointer, strided.size, *lengths, *[1] * missing, *strides, *[0] * missing
    runtime.launch(SOURCE, options, kernel, strided.size, arguments, stream)


def widen(runtime: Runtime, dtype: np.dtype, to: int, source: int, count: int, stream: int) -> None:
    """``count`` integers as float64."""
    if count:
        runtime.launch(SOURCE, (f"-DITEM={item(dtype)}", "-DINTEGER"), "widen", count, (to, source, count), stream)


def merged(shape: Sequence[int], strides: Sequence[int]) -> tuple[list[int], list[int]]:
    """Lengths and strides, the last axis first, with axes made one where the items of both are evenly spaced."""
    lengths: list[int] = []
    steps: list[int] = []
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n == 1:
            continue
        if lengths and stride == steps[-1] * lengths[-1]:
            lengths[-1] *= n
        else:
            lengths.append(n)
            steps.append(stride)
    assert prod(lengths) == prod(shape)
    return lengths, steps
