"""All-reduce and reduce: arrays of all ranks folded into one."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml.collectives import arrangement, ops, structure
from hpcml.collectives.arrangement import OpLike
from hpcml.collectives.arrays import new
from hpcml.collectives.channel import Channel, channel_of


def allreduce(
    x: Any,
    op: OpLike = "sum",
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    reproducible: bool = False,
    axis: int | None = None,
) -> Any:
    """The fold of ``x`` over all ranks, on every rank; the same bits on each.

    Called by every rank of ``comm`` (None: MPI.COMM_WORLD) with an array of the same shape and dtype. Rounds and bytes
    are those of the algorithm, see `hpcml.collectives.algorithms`: at best ⌈lg p⌉ rounds, or 2(p−1)/p·n bytes per rank.

    Args:
        x: array of any shape and layout, or a list, tuple or dict of arrays (nested, too), which is fused into one
            message a data type and comes back in the same structure. Not changed, unless it is also ``out``.
        op: "sum", "prod", "min", "max", "mean", "land", "lor", "lxor", "band", "bor", "bxor", or an `MPI.Op`. The mean
        of
            integers is float64.
        algorithm: "auto", "native" (the MPI library's own), or a name from ``algorithms("allreduce")``.
        out: where to put the result, of the result's shape and dtype; may be ``x``: in place.
        reproducible: the same bits for any number and order of ranks. Integers and order-free ops only, so far.
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
    plain = axis is None and not reproducible
    if plain and type(x) is np.ndarray and type(op) is str and type(algorithm) is str:
        binding = channel.find(("allreduce", algorithm, op, x.dtype, x.shape, 0))
        if binding is not None and x.flags.c_contiguous:  # the short way for what is called again
            result = new(x.shape, x.dtype) if out is None else out
            if out is None or _plainly_fits(x, out):
                channel.enter(binding.said)
                binding.run(x, result)
                return result
    if structure.is_structure(x):
        if not plain:
            said = f"allreduce({type(x).__name__}, axis={axis}, reproducible={reproducible})"
            channel.agree("allreduce", said, ValueError("axis and reproducible are for one array, not for a structure"))
        return _structure(channel, "allreduce", x, op, algorithm, out, 0)
    if reproducible:
        _check_reproducible(channel, x, op)
    if axis is not None:
        return _along_axis(channel, x, op, algorithm, out, axis)
    return _reduced(channel, "allreduce", x, op, algorithm, out, 0)


def reduce(
    x: Any,
    op: OpLike = "sum",
    root: int = 0,
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
) -> Any:
    """The fold of ``x`` over all ranks, on ``root``; None on the others.

    As `allreduce` in all else. By binomial tree: ⌈lg p⌉ rounds; every rank but the root sends n bytes.
    """
    channel = channel_of(comm)
    if structure.is_structure(x):
        return _structure(channel, "reduce", x, op, algorithm, out, root)
    return _reduced(channel, "reduce", x, op, algorithm, out, root)


def _plainly_fits(x: np.ndarray, out: Any) -> bool:
    """Whether ``out`` can take the fold of ``x`` directly; where it cannot, the long way finds out why."""
    if type(out) is not np.ndarray or out.shape != x.shape or out.dtype != x.dtype or not out.flags.carray:
        return False
    return out is x or not np.may_share_memory(x, out)


def _reduced(channel: Channel, collective: str, x: Any, op: OpLike, algorithm: str, out: Any, root: int) -> Any:
    if _is_mean(op) and np.asarray(x).dtype.kind in "iub":
        x = np.asarray(x, np.float64)
    result = arrangement.reduction(channel, collective, x, op, algorithm, out, root).run()
    return result if isinstance(x, np.ndarray) or result is None or out is not None else result[()]


def _structure(channel: Channel, collective: str, x, op, algorithm, out, root) -> Any:
    structure.agree(channel, collective, x, out)
    pieces = structure.fused(
        x, lambda flat: _reduced(channel, collective, flat, op, algorithm, _in_place(flat, op), root)
    )
    if pieces is None or (collective == "reduce" and channel.rank != root):
        return None
    return structure.filled(x, pieces, out)


def _in_place(flat: np.ndarray, op: OpLike) -> np.ndarray | None:
    """The packed copy is ours, so it may be overwritten; not where the result has another data type."""
    return None if _is_mean(op) and flat.dtype.kind in "iub" else flat


def _along_axis(channel: Channel, x: Any, op: OpLike, algorithm: str, out: Any, axis: int) -> Any:
    error: Exception | None = None
    local = count = np.zeros(())
    try:
        x = np.asarray(x)
        found = ops.find(op)
        if axis != 0 or x.ndim == 0:
            raise ValueError(f"axis={axis} of an array of {x.ndim} axes: only axis=0 can be folded")
        if found.ufunc is None:
            raise ValueError("axis=0 needs one of hpcml's own ops, not an MPI.Op")
        ops.check_dtype(found, x.dtype)
        local, count = found.ufunc.reduce(x, axis=0, dtype=x.dtype), np.array(len(x))
    except (TypeError, ValueError) as caught:
        error = caught
    channel.agree("allreduce", f"allreduce(axis={axis}, op={op!r})", error)
    if not _is_mean(op):
        return _reduced(channel, "allreduce", np.asarray(local), op, algorithm, out, 0)
    total = _reduced(channel, "allreduce", np.asarray(local), "sum", algorithm, out, 0)
    return np.divide(total, _reduced(channel, "allreduce", count, "sum", "auto", None, 0), out=out, dtype=total.dtype)


def _check_reproducible(channel: Channel, x: Any, op: OpLike) -> None:
    dtype = np.asarray(x).dtype
    error: Exception | None = None
    if not (dtype.kind in "iub" and not _is_mean(op)) and op not in ("min", "max"):
        error = ValueError(
            f"reproducible=True is not available yet for op {op!r} on {dtype}: integers, min and max are exact"
        )
    channel.agree("allreduce", "allreduce(reproducible=True)", error)


def _is_mean(op: OpLike) -> bool:
    return isinstance(op, str) and op == "mean"
