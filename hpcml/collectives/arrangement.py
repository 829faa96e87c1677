"""From a call's arguments to a binding and the memory it works on.

Arguments are checked before any data move, with the same verdict on every rank. Where every rank must pass arrays of
one shape, that check is done when a combination of arguments is seen for the first time; where lengths may differ, the
lengths are exchanged in each call and the check travels with them. ``keep``: the binding goes to the channel's cache,
and may come from it; a persistent plan has one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml.collectives import algorithms, ops
from hpcml.collectives.arrays import as_array, check_out, describe, new, packed
from hpcml.collectives.binding import Binding
from hpcml.collectives.channel import Channel
from hpcml.collectives.native import reducible

OpLike = str | MPI.Op
MAX_DIMS = 8  # of a scattered array: its shape has to travel from the root


@dataclass(frozen=True)
class Arrangement:
    """A bound collective: run ``binding`` from ``source`` to ``target``; ``result`` is what the caller gets.

    fresh: the array to pack into ``source`` anew before each run, if it is not ``source`` itself. spread: whether
    ``target`` is temporary and has to be copied to ``result``.
    """

    binding: Binding
    source: np.ndarray
    target: np.ndarray
    result: Any
    fresh: np.ndarray | None = None
    spread: bool = False

    def run(self) -> Any:
        self.binding.run(self.source, self.target)
        return self.delivered()

    def refill(self) -> None:
        """Pack the caller's array again: it may have changed since the last run."""
        if self.fresh is not None:
            self.source.reshape(self.fresh.shape)[...] = self.fresh

    def delivered(self) -> Any:
        if self.spread:
            self.result[...] = self.target.reshape(self.result.shape)
        return self.result


def reduction(
    channel: Channel, collective: str, x: Any, op: OpLike, algorithm: str, out: Any, root: int = 0, keep: bool = True
) -> Arrangement:
    """For allreduce and reduce: every rank passes an array of the same shape and dtype."""
    binding, x = _same_everywhere(channel, collective, x, op, algorithm, root, out, keep)
    wanted = collective == "allreduce" or channel.rank == root
    return arranged(binding, x, out, wanted)


def arranged(binding: Binding, x: np.ndarray, out: np.ndarray | None, wanted: bool = True) -> Arrangement:
    """The memory for a reduction of ``x``. ``wanted``: whether this rank gets the result."""
    source = packed(x)
    fresh = None if source is x else x
    if not wanted:
        return _no_result(binding, source, fresh)
    if out is None:
        result = new(x.shape, x.dtype)
        return Arrangement(binding, source, result, result, fresh)
    if out is x:  # in place; on the packed copy where x is not contiguous
        return Arrangement(binding, source, source, out, fresh, spread=fresh is not None)
    if out.flags.c_contiguous and not np.may_share_memory(x, out):
        return Arrangement(binding, source, out, out, fresh)
    return Arrangement(binding, source, new(x.shape, x.dtype), out, fresh, spread=True)


def broadcast(channel: Channel, x: Any, algorithm: str, root: int, keep: bool = True) -> Arrangement:
    """In place on every rank; every rank passes an array of the same shape and dtype."""
    binding, x = _same_everywhere(channel, "broadcast", x, None, algorithm, root, x, keep)
    source = packed(x)
    fresh = None if source is x else x
    return Arrangement(binding, source, source, x, fresh, spread=fresh is not None)


def _same_everywhere(
    channel: Channel, collective: str, x: Any, op: OpLike | None, algorithm: str, root: int, out: Any, keep: bool
) -> tuple[Binding, np.ndarray]:
    error: Exception | None = None
    root = _plain(root)
    found: ops.Op | None = None
    key: tuple = ()
    said = f"{collective}({type(x).__name__})"
    try:
        x = as_array(x)
        found = None if op is None else ops.find(op)
        name = None if found is None else found.name
        keep = keep and name != ops.USERS_OWN  # which may be freed, and its handle given to another
        said = f"{collective}({describe(x)}, {_options(op=name, algorithm=algorithm, root=root)})"
        key = (collective, algorithm, name, x.dtype, x.shape, root)
        binding = channel.find(key) if keep else None
        if out is not None:
            check_out(out, x.shape, x.dtype)
        if binding is not None:
            channel.enter(binding.said)
            return binding, x
        _check_root(root, channel)
        _check_algorithm(collective, algorithm)
        if found is not None:
            ops.check_dtype(found, x.dtype)
            if name == ops.USERS_OWN and reducible(x.dtype) is None:
                raise TypeError(f"MPI has no data type for {x.dtype}, so it cannot apply an op of the user's own to it")
    except (TypeError, ValueError) as caught:
        error = caught
    channel.agree(collective, said, error)
    binding = Binding(channel, collective, algorithm, found, x.dtype, (x.size,), root, said)
    if keep:
        channel.keep(key, binding)
    return binding, x


def parts(
    channel: Channel, collective: str, part: Any, algorithm: str, out: Any, root: int = 0, keep: bool = True
) -> Arrangement:
    """For gather and allgather: every rank passes rows of its own; their number may differ."""
    error: Exception | None = None
    root = _plain(root)
    said, rows = f"{collective}({type(part).__name__})", 0
    try:
        part = np.atleast_1d(as_array(part))
        rows = len(part)
        trailing = f"{part.dtype}[rows{''.join(f', {n}' for n in part.shape[1:])}]"
        said = f"{collective}({trailing}, {_options(algorithm=algorithm, root=root)})"
        _check_root(root, channel)
        _check_algorithm(collective, algorithm)
    except (TypeError, ValueError) as caught:
        error = caught
    channel.agree(collective, said, error)
    told = channel.numbers([rows, out is not None])
    lengths = told[:, 0].tolist()
    per_row = int(np.prod(part.shape[1:], dtype=np.int64))
    counts = tuple(n * per_row for n in lengths)
    binding = _kept(channel, keep, collective, algorithm, part.dtype, counts, root, said)
    shape, wanted = (sum(lengths), *part.shape[1:]), collective == "allgather" or channel.rank == root
    if told[:, 1].any():
        _agree_on_out(channel, said, out if wanted else None, shape, part.dtype)
    source = packed(part)
    fresh = None if source is part else part
    return _into(binding, source, fresh, out, shape, part.dtype) if wanted else _no_result(binding, source, fresh)


def scatter(channel: Channel, x: Any, algorithm: str, out: Any, root: int, keep: bool = True) -> Arrangement:
    """The root's rows, split as `numpy.array_split` does; what others pass as ``x`` is not looked at."""
    error: Exception | None = None
    root = _plain(root)
    shape: tuple[int, ...] = ()
    type_code = 0
    try:
        _check_root(root, channel)
        _check_algorithm("scatter", algorithm)
        if channel.rank == root:
            x = as_array(x)
            if x.ndim == 0:
                raise ValueError("scatter splits along axis 0, and the root's array has no axes")
            if x.ndim > MAX_DIMS:
                raise ValueError(f"scatter takes arrays of up to {MAX_DIMS} axes, not {x.ndim}")
            shape, type_code = x.shape, _encoded(x.dtype)
    except (TypeError, ValueError) as caught:
        error = caught
    numbers = [type_code, len(shape), *shape, *[0] * (MAX_DIMS - len(shape))]
    said = f"scatter({_options(algorithm=algorithm, root=root)})"
    channel.agree("scatter", said, error)
    told = channel.numbers([out is not None, *numbers])
    type_code, ndim, *dims = told[root, 1:].tolist()
    dtype, trailing = _decoded(type_code), tuple(dims[1:ndim])
    per_row = int(np.prod(trailing, dtype=np.int64))
    rows = [len(split) for split in np.array_split(np.empty(dims[0], np.bool_), channel.size)]
    counts = tuple(n * per_row for n in rows)
    binding = _kept(channel, keep, "scatter", algorithm, dtype, counts, root, said)
    shape = rows[channel.rank], *trailing
    if told[:, 0].any():
        _agree_on_out(channel, said, out, shape, dtype)
    source = packed(x) if channel.rank == root else _NOTHING
    fresh = None if channel.rank != root or source is x else x
    return _into(binding, source, fresh, out, shape, dtype)


def barrier(channel: Channel, algorithm: str) -> Arrangement:
    key = ("barrier", algorithm)
    said = f"barrier({_options(algorithm=algorithm)})"
    binding = channel.find(key)
    if binding is not None:
        channel.enter(said)
    else:
        error: Exception | None = None
        try:
            _check_algorithm("barrier", algorithm)
        except ValueError as caught:
            error = caught
        channel.agree("barrier", said, error)
        blocks = (0,) * channel.size
        binding = Binding(channel, "barrier", algorithm, None, np.dtype(np.uint8), blocks)
        channel.keep(key, binding)
    return Arrangement(binding, _NOTHING, _NOTHING, None)


_NOTHING = np.empty(0, np.uint8)


def _kept(
    channel: Channel, keep: bool, collective: str, algorithm: str, dtype: np.dtype, counts: tuple, root: int, said: str
) -> Binding:
    key = (collective, algorithm, dtype, counts, root)
    binding = channel.find(key) if keep else None
    if binding is None:
        binding = Binding(channel, collective, algorithm, None, dtype, counts, root, said)
        if keep:
            channel.keep(key, binding)
    return binding


def _agree_on_out(channel: Channel, said: str, out: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """For results whose shape is known late: raise on every rank where ``out`` does not fit on some."""
    error: Exception | None = None
    try:
        if out is not None:
            check_out(out, shape, dtype)
    except (TypeError, ValueError) as caught:
        error = caught
    channel.agree(said, said, error)


def _into(binding: Binding, source, fresh, out: Any, shape: tuple[int, ...], dtype: np.dtype) -> Arrangement:
    """The memory for a result of that shape; ``out`` fits."""
    if out is None:
        target = new(shape, dtype)
        return Arrangement(binding, source, target, target, fresh)
    if out.flags.c_contiguous and not np.may_share_memory(source, out):
        return Arrangement(binding, source, out, out, fresh)
    return Arrangement(binding, source, new(shape, dtype), out, fresh, spread=True)


def _no_result(binding: Binding, source: np.ndarray, fresh: np.ndarray | None) -> Arrangement:
    return Arrangement(binding, source, _NOTHING, None, fresh)


def _options(**options: Any) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)


def _plain(root: Any) -> Any:
    """NumPy's integers as Python's: what the ranks say to each other must read the same."""
    return int(root) if isinstance(root, np.integer) else root


def _check_root(root: int, channel: Channel) -> None:
    if isinstance(root, bool) or not isinstance(root, (int, np.integer)):
        raise TypeError(f"root must be a rank (an integer), not {root!r}")
    if not 0 <= root < channel.size:
        raise ValueError(f"root={root} is out of range: the communicator has ranks 0-{channel.size - 1}")


def _check_algorithm(collective: str, algorithm: str) -> None:
    if algorithm not in ("auto", "native"):
        algorithms.named(collective, algorithm)


def _encoded(dtype: np.dtype) -> int:
    """A data type as a number that can travel: its array-interface string, or its name where that says nothing."""
    text = (dtype.name if dtype.kind == "V" else dtype.str).encode()
    if dtype.type is np.void or len(text) > 8:
        raise TypeError(f"scatter cannot tell the other ranks of dtype {dtype}: pass a view as numbers")
    return int.from_bytes(text.ljust(8), "little")


def _decoded(code: int) -> np.dtype:
    text = code.to_bytes(8, "little").decode().strip()
    if text[0] not in "<>|=":
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, text))
    return np.dtype(text)
