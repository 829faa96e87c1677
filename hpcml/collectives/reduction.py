"""All-reduce, reduce, reduce-scatter and scans: arrays of all ranks folded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml.collectives import ops, request, structure
from hpcml.collectives.again import NEW, again
from hpcml.collectives.arguments import OpLike, same_everywhere
from hpcml.collectives.arrangement import arranged
from hpcml.collectives.arrays import DEVICE, HOST, as_array, kind_of
from hpcml.collectives.channel import Channel, channel_of
from hpcml.collectives.manner import BLOCKING, Manner
from hpcml.collectives.reproducible import depends_on_order
from hpcml.collectives.reproducible import reduction_steps as reproducible_steps
from hpcml.collectives.request import Steps


def allreduce(
    x: Any,
    op: OpLike = "sum",
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    reproducible: bool = False,
    axis: int | None = None,
    stream: Any = None,
) -> Any:
    """The fold of ``x`` over all ranks, on every rank; the same bits on each.

    Called by every rank of ``comm`` (None: MPI.COMM_WORLD) with an array of the same shape and dtype. Rounds and bytes
    are those of the algorithm, see `hpcml.collectives.algorithms`: at best ⌈lg p⌉ rounds, or 2(p−1)/p·n bytes per rank.

    Args:
        x: array of any shape and layout, or a list, tuple or dict of arrays (nested, too), which is fused into one
            message a data type and comes back in the same structure. Not changed, unless it is also ``out``.
        op: "sum", "prod", "min", "max", "mean", "land", "lor", "lxor", "band", "bor", "bxor", or an `MPI.Op`. The mean
            of integers is float64.
        algorithm: "auto", "native" (the MPI library's own), or a name from ``algorithms("allreduce")``.
        out: where to put the result, of the result's shape and dtype; may be ``x``: in place.
        reproducible: the same bits for any algorithm, split, number and order of ranks; for op "sum" and "mean" the
            exact sum, rounded once (see `hpcml.collectives.exact`), for "min" and "max", too. Not for "prod" of floats.
        axis: 0 folds the local array along its first axis, whose length may differ between ranks, before all else.

    Returns:
        ``out``, or a new array of x's shape (a NumPy scalar if ``x`` is one).

    Raises:
        ArgumentError: an unknown op or algorithm, an op that the dtype does not have; on every rank.
        MismatchError: shapes, dtypes or arguments differ between ranks; on every rank.

    Example::

        total = hc.allreduce(np.arange(4) * (MPI.COMM_WORLD.rank + 1))
    """
    channel = channel_of(comm)
    done = again(channel, "allreduce", x, op, algorithm, out) if axis is None and not reproducible else NEW
    if done is not NEW:
        return done
    return request.run(allreduce_steps(channel, BLOCKING.on(stream), x, op, algorithm, out, reproducible, axis))


def reduce(
    x: Any,
    op: OpLike = "sum",
    root: int = 0,
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    reproducible: bool = False,
    stream: Any = None,
) -> Any:
    """The fold of ``x`` over all ranks, on ``root``; None on the others.

    As `allreduce` in all else. Binomial: ⌈lg p⌉ rounds, every rank but the root sends n bytes. Rabenseifner: 2⌈lg p⌉
    rounds, about 2(p−1)/p·n bytes.
    """
    channel = channel_of(comm)
    if not reproducible:
        done = again(channel, "reduce", x, op, algorithm, out, root, wanted=channel.rank == root)
        if done is not NEW:
            return done
    return request.run(reduce_steps(channel, BLOCKING.on(stream), x, op, root, algorithm, out, reproducible))


def reduce_scatter(
    x: Any,
    op: OpLike = "sum",
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    counts: Sequence[int] | None = None,
    stream: Any = None,
) -> Any:
    """Rank r's part of the fold of ``x`` over all ranks: the r-th of ``numpy.array_split(fold, size)``, along axis 0.

    Called by every rank with an array of the same shape and dtype, of one axis at least. ⌈lg p⌉ rounds (circulant), or
    one (direct); (p−1)/p·n bytes sent per rank.

    Args:
        x, op, algorithm, out: as for `allreduce`; ``out`` has the part's shape.
        counts: rows of each rank's part, the same on every rank; they add up to ``len(x)``.

    Raises:
        ArgumentError, MismatchError: as `allreduce`.
    """
    channel = channel_of(comm)
    done = again(channel, "reduce_scatter", x, op, algorithm, out, counts=counts)
    if done is not NEW:
        return done
    return request.run(reduce_scatter_steps(channel, BLOCKING.on(stream), x, op, algorithm, out, counts))


def scan(
    x: Any,
    op: OpLike = "sum",
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    stream: Any = None,
) -> Any:
    """On rank r, the fold of ``x`` over ranks 0 … r, in rank order: prefix sums.

    Called by every rank with an array of the same shape and dtype. ⌈lg p⌉ rounds of n bytes. A mean is not defined.

    Raises:
        ArgumentError, MismatchError: as `allreduce`.
    """
    return request.run(scan_steps(channel_of(comm), BLOCKING.on(stream), "scan", x, op, algorithm, out))


def exscan(
    x: Any,
    op: OpLike = "sum",
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    stream: Any = None,
) -> Any:
    """On rank r, the fold of ``x`` over ranks 0 … r−1; None on rank 0, which leaves ``out`` as it is.

    As `scan` in all else, with one round more.
    """
    return request.run(scan_steps(channel_of(comm), BLOCKING.on(stream), "exscan", x, op, algorithm, out))


def allreduce_steps(
    channel: Channel,
    manner: Manner,
    x: Any,
    op: OpLike,
    algorithm: str,
    out: Any,
    reproducible: bool = False,
    axis: int | None = None,
) -> Steps:
    if structure.is_structure(x):
        if axis is not None:
            said = f"allreduce({type(x).__name__}, axis={axis})"
            channel.agree("allreduce", said, ValueError("axis is for one array, not for a structure"))
        return (yield from _structure(channel, manner, "allreduce", x, op, algorithm, out, 0, reproducible))
    if reproducible and depends_on_order(x, op):
        return (yield from _reproducible(channel, manner, "allreduce", x, op, algorithm, out, 0, axis))
    if axis is not None:
        return (yield from _along_axis(channel, manner, x, op, algorithm, out, axis))
    return (yield from _reduced(channel, manner, "allreduce", x, op, algorithm, out, 0))


def reduce_steps(
    channel: Channel,
    manner: Manner,
    x: Any,
    op: OpLike,
    root: int,
    algorithm: str,
    out: Any,
    reproducible: bool = False,
) -> Steps:
    if structure.is_structure(x):
        return (yield from _structure(channel, manner, "reduce", x, op, algorithm, out, root, reproducible))
    if reproducible and depends_on_order(x, op):
        return (yield from _reproducible(channel, manner, "reduce", x, op, algorithm, out, root))
    return (yield from _reduced(channel, manner, "reduce", x, op, algorithm, out, root))


def reduce_scatter_steps(
    channel: Channel, manner: Manner, x: Any, op: OpLike, algorithm: str, out: Any, counts: Sequence[int] | None
) -> Steps:
    x = _for_mean(x, op)
    bound = same_everywhere(channel, manner, "reduce_scatter", x, op, algorithm, out=out, counts=counts)
    (result,) = yield [arranged(bound, out)]
    return result


def scan_steps(
    channel: Channel, manner: Manner, collective: str, x: Any, op: OpLike, algorithm: str, out: Any
) -> Steps:
    if _is_mean(op):
        error = ValueError(f"{collective} has no op 'mean': a mean over ranks 0 to r is a sum, divided by r+1 there")
        channel.agree(collective, f"{collective}(op='mean')", error)
    bound = same_everywhere(channel, manner, collective, x, op, algorithm, out=out)
    (result,) = yield [arranged(bound, out)]
    if collective == "exscan" and channel.rank == 0:
        return None
    return _as_given(x, result, out)


def _reduced(
    channel: Channel, manner: Manner, collective: str, x: Any, op: OpLike, algorithm: str, out: Any, root: int
) -> Steps:
    x = _for_mean(x, op)
    bound = same_everywhere(channel, manner, collective, x, op, algorithm, root, out)
    (result,) = yield [arranged(bound, out, collective == "allreduce" or channel.rank == root)]
    return _as_given(x, result, out)


def _for_mean(x: Any, op: OpLike) -> Any:
    """Means of integers are float64, as NumPy's are."""
    if not _is_mean(op) or as_array(x).dtype.kind not in "iub":
        return x
    return np.asarray(x, np.float64) if kind_of(x) == HOST else as_array(x).as_double()


def _as_given(x: Any, result: Any, out: Any) -> Any:
    """A NumPy scalar where a number was given."""
    as_it_is = result is None or out is not None or kind_of(x) == DEVICE
    return result if as_it_is or isinstance(x, np.ndarray) else result[()]


def _structure(
    channel: Channel,
    manner: Manner,
    collective: str,
    x: Any,
    op: OpLike,
    algorithm: str,
    out: Any,
    root: int,
    reproducible: bool,
) -> Steps:
    structure.agree(channel, manner, collective, x, out)
    fused = structure.Fused(x)
    wanted = collective == "allreduce" or channel.rank == root
    if reproducible:
        delivered = []
        for flat in fused.messages:
            steps = _reproducible if depends_on_order(flat, op) else _reduced
            given = _for_mean(flat, op)
            delivered.append((yield from steps(channel, manner, collective, given, op, algorithm, given, root)))
        return structure.filled(x, fused.pieces(delivered), out) if wanted else None
    made = []
    for flat in fused.messages:
        given = _for_mean(flat, op)
        # The packed copy is ours, so it may be overwritten; not where the result has another data type.
        bound = same_everywhere(channel, manner, collective, given, op, algorithm, root)
        made.append(arranged(bound, given if given is flat else None, wanted))
    delivered = yield made
    return structure.filled(x, fused.pieces(delivered), out) if wanted else None


def _along_axis(channel: Channel, manner: Manner, x: Any, op: OpLike, algorithm: str, out: Any, axis: int) -> Steps:
    error: Exception | None = None
    local: Any = np.zeros(())
    count = np.zeros(())
    try:
        x = as_array(x, stream=manner.stream)
        found = ops.find(op)
        if axis != 0 or x.ndim == 0:
            raise ValueError(f"axis={axis} of an array of {x.ndim} axes: only axis=0 can be folded")
        if found.ufunc is None:
            raise ValueError("axis=0 needs one of hpcml's own ops, not an MPI.Op")
        ops.check_dtype(found, x.dtype)
        local = found.ufunc.reduce(x, axis=0, dtype=x.dtype) if kind_of(x) == HOST else _folded_rows(x, found)
        count = np.array(len(x))
    except (TypeError, ValueError) as caught:
        error = caught
    channel.agree("allreduce", f"allreduce(axis={axis}, op={op!r})", error)
    local = as_array(local)
    if not _is_mean(op):
        return (yield from _reduced(channel, manner, "allreduce", local, op, algorithm, out, 0))
    total = yield from _reduced(channel, manner, "allreduce", local, "sum", algorithm, out, 0)
    rows = yield from _reduced(channel, manner, "allreduce", count, "sum", "auto", None, 0)
    if kind_of(total) == DEVICE:
        return _divided(total, int(rows))
    return np.divide(total, rows, out=out, dtype=total.dtype)


def _reproducible(
    channel: Channel,
    manner: Manner,
    collective: str,
    x: Any,
    op: OpLike,
    algorithm: str,
    out: Any,
    root: int,
    axis: int | None = None,
) -> Steps:
    """Of an array in GPU memory, on a copy in the host's, where exact sums are made."""
    if kind_of(x) == HOST:
        return (yield from reproducible_steps(channel, manner, collective, x, op, algorithm, out, root, axis))
    given = as_array(x, stream=manner.stream)
    into = None if out is None else as_array(out, stream=manner.stream)
    landing = None if into is None else np.empty(into.shape, into.dtype)
    host = given.to_host()
    result = yield from reproducible_steps(channel, manner, collective, host, op, algorithm, landing, root, axis)
    if result is None:
        return None
    if into is None:
        return _on_device(given, np.asarray(result))
    into.fill_from_host(result)
    return out


def _folded_rows(x: Any, op: ops.Op) -> Any:
    from hpcml.collectives.device.rows import folded_rows

    return folded_rows(x, op)


def _divided(total: Any, rows: int) -> Any:
    from hpcml.collectives.device.rows import divide

    divide(as_array(total), rows)
    return total


def _on_device(like: Any, array: np.ndarray) -> Any:
    from hpcml.collectives.device.rows import from_host

    return from_host(like, array)


def _is_mean(op: OpLike) -> bool:
    return isinstance(op, str) and op == "mean"
