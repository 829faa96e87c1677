"""From the arguments of a reproducible sum, minimum or maximum to what does it, on which all ranks have agreed."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, TypeVar

import numpy as np

from hpcml.collectives import ops
from hpcml.collectives.arguments import Bound, OpLike, same_everywhere
from hpcml.collectives.arrays import check_out, describe, host_array
from hpcml.collectives.channel import Channel
from hpcml.collectives.checks import agree, check_algorithm, check_root, options_in_words, plain, rows_in_words
from hpcml.collectives.errors import ArgumentError
from hpcml.collectives.exact import ordering
from hpcml.collectives.exact.terms import Terms, real, working
from hpcml.collectives.manner import Manner

Made = TypeVar("Made")


def summation(
    channel: Channel,
    manner: Manner,
    collective: str,
    x: Any,
    op: OpLike,
    algorithm: str,
    root: int,
    out: Any,
    axis: int | None,
    make: Callable[[Terms, str, int, str, bool], Made],
) -> tuple[Made, np.ndarray, tuple[int, ...], np.dtype]:
    """For a reproducible sum or mean of floats: arrays of the same shape and dtype; with axis=0, of any length.

    make: what makes the sum from its terms, the algorithm, the number of reals, the call in words, and whether the
    ranks may ask each other. Returns it, the array in the machine's byte order, and the shape and dtype of the result.
    """
    error: Exception | None = None
    root = plain(root)
    found = ops.OPS["sum"]
    said = f"{collective}({type(x).__name__}, reproducible=True)"
    key: tuple = ()
    kept: Made | None = None
    shape: tuple[int, ...] = ()
    dtype: np.dtype = np.dtype(np.float64)
    try:
        x = host_array(x)
        found = ops.find(op)
        if x.dtype.kind in "iub" and found.finishes:
            x = x.astype(np.float64)
        shape, dtype = x.shape, x.dtype
        if axis is not None:
            _check_axis(x, axis)
            shape = shape[1:]
        options = options_in_words(op=found.name, algorithm=algorithm, root=root, axis=axis)
        said = f"{collective}({describe(x) if axis is None else rows_in_words(x)}, {options}, reproducible=True)"
        key = ("reproducible", collective, algorithm, found.name, dtype, shape, root, axis)
        key += () if manner.agree else ("unseen",)
        if out is not None:
            check_out(out, shape, dtype)
        x = x.astype(dtype.newbyteorder("="), copy=False)
        kept = channel.find(key) if manner.keep else None
        if kept is None:
            check_root(root, channel)
            check_algorithm(collective, algorithm, manner)
        if found.name not in ("sum", "mean"):
            raise ValueError(
                f"reproducible=True has no op {found.name!r} of {dtype}, whose rounding depends on the order: expected "
                "sum, mean, min or max, or integers"
            )
        ops.check_dtype(found, dtype)
        if working(x.dtype) is None:
            raise TypeError(
                f"reproducible=True has no sum of {dtype}: expected float16, bfloat16, float32, float64 or complex "
                "numbers of two float32 or float64"
            )
    except (TypeError, ValueError) as caught:
        error = caught
    if kept is not None:  # with it, there is no error
        channel.enter(said)
        return kept, x, shape, dtype
    agree(channel, manner, collective, said, error)
    terms = Terms(channel, collective, found, x.dtype, root, axis is not None)
    made = make(terms, algorithm, prod(shape) * (x.dtype.itemsize // real(x.dtype).itemsize), said, manner.agree)
    if manner.keep:
        channel.keep(key, made)
    return made, x, shape, dtype


def extreme(
    channel: Channel,
    manner: Manner,
    collective: str,
    x: Any,
    op: OpLike,
    algorithm: str,
    root: int,
    out: Any,
    axis: int | None,
) -> tuple[Bound, np.dtype]:
    """For a reproducible minimum or maximum of floats: the binding for their `ordering.keys`, and their dtype."""
    error: Exception | None = None
    said = f"{collective}({type(x).__name__}, reproducible=True)"
    rows = 0
    dtype: np.dtype = np.dtype(np.float64)
    found = ops.find(op)
    keys = np.empty(0, np.int64)
    try:
        x = host_array(x)
        ops.check_dtype(found, x.dtype)
        dtype = x.dtype
        given = describe(x) if axis is None else rows_in_words(x)
        said = f"{collective}({given}, op={found.name!r}, reproducible=True)"
        if working(dtype.newbyteorder("=")) is None:
            raise TypeError(
                f"reproducible=True has no op {found.name!r} of {dtype}: expected float16, bfloat16, float32 or float64"
            )
        keys = ordering.keys(np.ascontiguousarray(x, dtype.newbyteorder("=")).reshape(x.shape), found.name)
        if axis is not None:
            _check_axis(x, axis)
            rows, keys = len(x), ordering.folded(keys, found.name)
        if out is not None:
            check_out(out, keys.shape, dtype)
    except (TypeError, ValueError) as caught:
        error = caught
    if axis is not None:
        told = channel.agree(collective, said, error, tell=[rows])
        if not told.any():
            raise ArgumentError(f"{said}: no rank has any rows, and there is no {found.name} of none")
    elif error is not None:
        agree(channel, manner, collective, said, error)
    return same_everywhere(channel, manner, collective, keys, found.name, algorithm, root, keys), dtype


def _check_axis(x: np.ndarray, axis: int) -> None:
    if axis != 0 or x.ndim == 0:
        raise ValueError(f"axis={axis} of an array of {x.ndim} axes: only axis=0 can be folded")
