"""All-reduce and reduce with ``reproducible=True``: the same bits for any order, split and number of ranks.

Sums and means of floats are exact sums, rounded once (`hpcml.collectives.exact`); minima and maxima of floats are those
of integers in their place. Integers need none of this.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcml.collectives import ops
from hpcml.collectives.arguments import OpLike, same_everywhere
from hpcml.collectives.arrangement import NOTHING, arranged
from hpcml.collectives.arrays import as_array, new, packed
from hpcml.collectives.channel import Channel
from hpcml.collectives.exact import arguments, ordering
from hpcml.collectives.exact.terms import real, working
from hpcml.collectives.manner import Manner
from hpcml.collectives.request import Steps

PAIR = 2  # ranks up to which a plain sum is one addition, which gives the exact sum, rounded once


def depends_on_order(x: Any, op: OpLike) -> bool:
    """Whether the bits of a fold of arrays like ``x`` depend on its order. Means of integers are means of float64."""
    return as_array(x).dtype.kind not in "iub" or (isinstance(op, str) and op == "mean")


def reduction_steps(
    channel: Channel,
    manner: Manner,
    collective: str,
    x: Any,
    op: OpLike,
    algorithm: str,
    out: Any,
    root: int = 0,
    axis: int | None = None,
) -> Steps:
    """The fold of ``x`` by an op of which it `depends_on_order`, over all ranks and, with axis=0, along that axis."""
    fold = _extreme if _is_one_of(op, "min", "max") else _sum
    result = yield from fold(channel, manner, collective, x, op, algorithm, out, root, axis)
    scalar = result is not None and out is None and not isinstance(x, np.ndarray)
    return result[()] if scalar else result


def _is_one_of(op: OpLike, *names: str) -> bool:
    return any(op in (known.name, known.mpi) for known in map(ops.OPS.__getitem__, names))


def _adds_exactly(x: Any, op: OpLike) -> bool:
    """Whether one addition of such arrays, and a division where it is a mean, is what is wanted; NaNs aside."""
    dtype = np.asarray(x).dtype
    return working(dtype) == real(dtype) and _is_one_of(op, "sum", "mean")


def _sum(
    channel: Channel,
    manner: Manner,
    collective: str,
    x: Any,
    op: OpLike,
    algorithm: str,
    out: Any,
    root: int,
    axis: int | None,
) -> Steps:
    # What is compiled is imported late, because it imports Numba.
    from hpcml.collectives.exact.kernels import settle_nans
    from hpcml.collectives.exact.summation import Summation

    if axis is None and channel.size <= PAIR and algorithm != "native" and _adds_exactly(x, op):
        bound = same_everywhere(channel, manner, collective, x, op, algorithm, root, out)
        (result,) = yield [arranged(bound, out, collective == "allreduce" or channel.rank == root)]
        if result is not None:
            settle_nans(result)
        return result
    summation, x, shape, dtype = arguments.summation(
        channel, manner, collective, x, op, algorithm, root, out, axis, Summation
    )
    given = packed(x)
    one = real(given.dtype)
    rows = given.reshape(-1).view(one).reshape(len(given) if axis == 0 else 1, summation.count)
    if not summation.wanted:
        yield from summation.steps(rows, NOTHING)
        return None
    result = new(shape, dtype) if out is None else out
    apart = out is None or (axis is None and out is given) or not np.may_share_memory(out, given)
    fits = apart and result.flags.carray and result.dtype == given.dtype
    landing = result if fits else new(shape, given.dtype)
    yield from summation.steps(rows, landing.reshape(-1).view(one))
    if landing is not result:
        result[...] = landing
    return result


def _extreme(
    channel: Channel,
    manner: Manner,
    collective: str,
    x: Any,
    op: OpLike,
    algorithm: str,
    out: Any,
    root: int,
    axis: int | None,
) -> Steps:
    bound, dtype = arguments.extreme(channel, manner, collective, x, op, algorithm, root, out, axis)
    (found,) = yield [arranged(bound, bound.x, collective == "allreduce" or channel.rank == root)]
    if found is None:
        return None
    result = ordering.floats(found, dtype)
    if out is None:
        return result
    out[...] = result
    return out
