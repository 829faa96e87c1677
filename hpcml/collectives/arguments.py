"""From a call's arguments to a binding that all ranks have agreed on.

Arguments are checked before any data move, with the same verdict on every rank. Where every rank must pass arrays of
one shape, that is done when a combination of arguments is seen for the first time; where lengths may differ, the
lengths are exchanged in each call, unless the caller says them, and the check travels with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from hpcml.collectives import ops, shared
from hpcml.collectives.arrays import DEVICE, HOST, as_array, check_out, describe, kind_of, maker, with_an_axis
from hpcml.collectives.binding import Binding
from hpcml.collectives.channel import Channel
from hpcml.collectives.checks import (
    agree,
    check_algorithm,
    check_root,
    checked_counts,
    options_in_words,
    plain,
    rows_in_words,
)
from hpcml.collectives.device.wanted import wanted as way
from hpcml.collectives.manner import BLOCKING, Manner
from hpcml.collectives.native import reducible
from hpcml.collectives.shared.segments import segments
from hpcml.collectives.structure import is_structure

OpLike = str | MPI.Op
MAX_DIMS = 8  # of a scattered array: its shape has to travel from the root
_STRUCTURE = 0  # in the place of a data type


class Known(NamedTuple):
    """What a channel keeps of a call: its binding, this rank's result, and the rows of all ranks' parts.

    fresh: makes memory for a result, of that ``shape``.
    """

    binding: Binding
    shape: tuple[int, ...]
    fresh: Callable[[], np.ndarray]
    rows: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        return self.binding.nbytes


class Bound(NamedTuple):
    """A binding, the caller's array (None on a rank that gives none), and the shape and dtype of the result here.

    device: the runtime of the GPU in whose memory they are, or None. stream: that the caller asked for.
    """

    binding: Binding
    x: Any
    shape: tuple[int, ...]
    dtype: np.dtype
    channel: Channel
    device: Any = None
    stream: int | None = None


def same_everywhere(
    channel: Channel,
    manner: Manner,
    collective: str,
    x: Any,
    op: OpLike | None,
    algorithm: str,
    root: int = 0,
    out: Any = None,
    counts: Sequence[int] | None = None,
) -> Bound:
    """For the collectives to which every rank passes an array of the same shape and dtype.

    counts: rows of each rank's part, for reduce_scatter and alltoall; None: as `numpy.array_split` has it.
    """
    error: Exception | None = None
    root = plain(root)
    found: ops.Op | None = None
    key: tuple = ()
    keep = manner.keep
    shape: tuple[int, ...] = ()
    rows: tuple[int, ...] | None = None
    known: Known | None = None
    name: str | None = None
    placed = False
    device: Any = None
    try:
        x = as_array(x, stream=manner.stream)
        device = device_of(channel, x)
        found = None if op is None else ops.find(op)
        name = None if found is None else found.name
        keep = keep and name != ops.USERS_OWN  # which may be freed, and its handle given to another
        rows = None if counts is None else checked_counts(channel, counts)
        placed = device is None and manner.native and in_shared_memory(channel, x, algorithm)
        key = (collective, algorithm, name, x.dtype, x.shape, root, rows, shared.NAME if placed else manner.agree)
        key += () if device is None else (DEVICE, way())
        shape = _result_shape(channel, collective, x, rows)
        if out is not None:
            check_out(out, shape, x.dtype, kind=kind_of(x))
        known = channel.find(key) if keep else None
        if known is None:
            check_root(root, channel)
            check_algorithm(collective, algorithm, manner)
        if known is None and found is not None:
            ops.check_dtype(found, x.dtype)
            if name == ops.USERS_OWN and reducible(x.dtype) is None:
                raise TypeError(f"MPI has no data type for {x.dtype}, so it cannot apply an op of the user's own to it")
    except (TypeError, ValueError) as caught:
        error = caught
    if known is not None:  # with it, there is no error
        channel.enter(known.binding.said)
        return Bound(known.binding, x, shape, x.dtype, channel, device, manner.stream)
    said = ""
    if error is None:
        said = f"{collective}({describe(x)}, {options_in_words(op=name, algorithm=algorithm, root=root, counts=rows)})"
        said += " in shared memory" * placed
    agree(channel, manner, collective, said, error)
    items = _items(channel, collective, x, rows)
    if placed and name != ops.USERS_OWN and collective in shared.COLLECTIVES:
        algorithm = shared.NAME
    binding = Binding(channel, collective, algorithm, found, x.dtype, items, root, said, manner.native, device)
    if keep:
        channel.keep(key, Known(binding, shape, maker(shape, x.dtype)))
    return Bound(binding, x, shape, x.dtype, channel, device, manner.stream)


def device_of(channel: Channel, x: Any) -> Any:
    """The runtime of the GPU in whose memory ``x`` is; None for one of the host."""
    if kind_of(x) != DEVICE:
        return None
    if channel.links is not None:
        channel.links.check(x)
    return x.runtime


def in_shared_memory(channel: Channel, x: np.ndarray, algorithm: str) -> bool:
    """Whether the choice of an algorithm depends on where ``x`` lies, and it lies in memory that the node shares.

    Then it is part of what all ranks agree on.
    """
    wanted = channel.machine.places_matter and algorithm == "auto" and x.nbytes >= shared.WORTHWHILE
    return wanted and segments().hold(x, channel.members)


def parts(
    channel: Channel,
    manner: Manner,
    collective: str,
    part: Any,
    algorithm: str,
    root: int = 0,
    out: Any = None,
    counts: Sequence[int] | None = None,
) -> Bound:
    """For gather and allgather: every rank passes rows of its own; their number may differ.

    counts: how many each rank passes; None: they tell each other.
    """
    error: Exception | None = None
    root = plain(root)
    mine = 0
    key: tuple = ()
    lengths: tuple[int, ...] = ()
    known: Known | None = None
    wanted = collective == "allgather" or channel.rank == root
    device: Any = None
    on: tuple = ()
    try:
        part = with_an_axis(as_array(part, stream=manner.stream))
        device = device_of(channel, part)
        on = () if device is None else (DEVICE, way())
        mine = len(part)
        if counts is not None:
            lengths = checked_counts(channel, counts)
            if mine != lengths[channel.rank]:
                raise ValueError(f"counts={list(lengths)} has {lengths[channel.rank]} rows here, the part has {mine}")
            if out is not None and wanted:
                check_out(out, (sum(lengths), *part.shape[1:]), part.dtype, kind=kind_of(part))
            key = known_parts(collective, algorithm, part, lengths, root, manner.agree) + on
            known = channel.find(key) if manner.keep else None
        if known is None:
            check_root(root, channel)
            check_algorithm(collective, algorithm, manner)
    except (TypeError, ValueError) as caught:
        error = caught
    if known is not None:  # with it, there is no error
        channel.enter(known.binding.said)
        return Bound(known.binding, part, known.shape, part.dtype, channel, device, manner.stream)
    said = ""
    if error is None:
        options = options_in_words(algorithm=algorithm, root=root, counts=lengths or None)
        said = f"{collective}({rows_in_words(part)}, {options})"
    if counts is None:
        told = channel.agree(collective, said, error, tell=[mine, int(out is not None)])
        lengths = tuple(told[:, 0].tolist())
        if told[:, 1].any():
            shape = (sum(lengths), *part.shape[1:])
            agree_on_out(channel, said, out if wanted else None, shape, part.dtype, kind_of(part))
        key = (collective, algorithm, part.dtype, part.shape[1:], lengths, root, manner, "told", *on)
    else:
        agree(channel, manner, collective, said, error)
    items = tuple(n * prod(part.shape[1:]) for n in lengths)
    shape = (sum(lengths), *part.shape[1:])
    known = channel.find(key) if manner.keep else None
    if known is None:
        binding = Binding(channel, collective, algorithm, None, part.dtype, items, root, said, manner.native, device)
        known = Known(binding, shape, maker(shape, part.dtype), lengths)
        if manner.keep:
            channel.keep(key, known)
    if counts is None and manner == BLOCKING and device is None:
        channel.keep(last_parts(collective, algorithm, part, root), known)
    return Bound(known.binding, part, shape, part.dtype, channel, device, manner.stream)


def known_parts(
    collective: str, algorithm: str, part: np.ndarray, counts: tuple[int, ...], root: int, agree: bool = True
) -> tuple:
    """Under what a channel keeps a gather or an allgather of parts of that many rows."""
    return (collective, algorithm, part.dtype, part.shape[1:], counts, root, agree)


def last_parts(collective: str, algorithm: str, part: np.ndarray, root: int) -> tuple:
    """Under what it keeps the last one whose ranks told each other their rows."""
    return (collective, algorithm, part.dtype, part.shape[1:], root)


def scatter(
    channel: Channel,
    manner: Manner,
    x: Any,
    algorithm: str,
    root: int,
    out: Any = None,
    counts: Sequence[int] | None = None,
) -> Bound | None:
    """The root's rows, cut as ``counts`` has it (None: as `numpy.array_split` does).

    What others pass as ``x`` is not looked at. None where the root passes a structure of arrays.
    """
    error: Exception | None = None
    root = plain(root)
    shape: tuple[int, ...] = ()
    type_code = _STRUCTURE
    device: Any = None
    try:
        check_root(root, channel)
        check_algorithm("scatter", algorithm, manner)
        counts = None if counts is None else checked_counts(channel, counts)
        if channel.rank == root and not is_structure(x):
            x = as_array(x, stream=manner.stream)
            device = device_of(channel, x)
            if x.ndim == 0:
                raise ValueError("scatter splits along axis 0, and the root's array has no axes")
            if x.ndim > MAX_DIMS:
                raise ValueError(f"scatter takes arrays of up to {MAX_DIMS} axes, not {x.ndim}")
            if counts is not None and sum(counts) != len(x):
                raise ValueError(f"counts={list(counts)} add up to {sum(counts)} rows, the array has {len(x)}")
            shape, type_code = x.shape, _encoded(x.dtype)
    except (TypeError, ValueError) as caught:
        error = caught
    numbers = [type_code, len(shape), *shape, *[0] * (MAX_DIMS - len(shape)), int(device is not None)]
    said = f"scatter({options_in_words(algorithm=algorithm, root=root, counts=counts)})"
    told = channel.agree("scatter", said, error, tell=[int(out is not None), *numbers])
    type_code, ndim, *dims, on_device = told[root, 1:].tolist()
    if on_device and device is None:
        device = _own_device()
    if type_code == _STRUCTURE:
        return None
    dtype, trailing = _decoded(type_code), tuple(dims[1:ndim])
    rows = counts if counts is not None else split_rows(dims[0], channel.size)
    shape = rows[channel.rank], *trailing
    if told[:, 0].any():
        agree_on_out(channel, said, out, shape, dtype, DEVICE if on_device else HOST)
    items = tuple(n * prod(trailing) for n in rows)
    key = ("scatter", algorithm, dtype, items, root, manner)
    binding = _kept(channel, manner, key, "scatter", algorithm, dtype, items, root, said, device)
    return Bound(binding, x if channel.rank == root else None, shape, dtype, channel, device, manner.stream)


def _own_device() -> Any:
    """The runtime of the GPU that this rank uses, where it passes no array."""
    from hpcml.collectives.device.runtime import runtime_of

    return runtime_of(0)


def exchange(
    channel: Channel, manner: Manner, x: Any, counts: Sequence[int], algorithm: str, out: Any = None
) -> tuple[Bound, np.ndarray]:
    """For alltoallv: rows for each rank, as many as ``counts`` says; also returns the rows that come from each."""
    error: Exception | None = None
    said, mine = f"alltoallv({type(x).__name__})", [0] * channel.size
    device: Any = None
    try:
        x = with_an_axis(as_array(x, stream=manner.stream))
        device = device_of(channel, x)
        said = f"alltoallv({rows_in_words(x)}, {options_in_words(algorithm=algorithm)})"
        if counts is None:
            raise TypeError("counts is missing: expected how many rows go to each rank")
        mine = list(checked_counts(channel, counts))
        if sum(mine) != len(x):
            raise ValueError(f"counts={mine} add up to {sum(mine)} rows, the array has {len(x)}")
        check_algorithm("alltoall", algorithm, manner)
    except (TypeError, ValueError) as caught:
        error = caught
    told = channel.agree("alltoallv", said, error, tell=[int(out is not None), *mine])
    rows = told[:, 1:]
    received = rows[:, channel.rank]
    shape = (int(received.sum()), *x.shape[1:])
    if told[:, 0].any():
        agree_on_out(channel, said, out, shape, x.dtype, kind_of(x))
    items = tuple((rows.reshape(-1) * prod(x.shape[1:])).tolist())
    key = ("alltoall", algorithm, x.dtype, items, manner)
    binding = _kept(channel, manner, key, "alltoall", algorithm, x.dtype, items, 0, said, device)
    return Bound(binding, x, shape, x.dtype, channel, device, manner.stream), received


def barrier(channel: Channel, manner: Manner, algorithm: str) -> Bound:
    error: Exception | None = None
    key = ("barrier", algorithm, manner.agree)
    said = f"barrier({options_in_words(algorithm=algorithm)})"
    binding = channel.find(key) if manner.keep else None
    if binding is not None:
        channel.enter(said)
    else:
        try:
            check_algorithm("barrier", algorithm, manner)
        except ValueError as caught:
            error = caught
        agree(channel, manner, "barrier", said, error)
        nothing = (0,) * channel.size
        binding = Binding(channel, "barrier", algorithm, None, np.dtype(np.uint8), nothing, 0, said, manner.native)
        if manner.keep:
            channel.keep(key, binding)
    return Bound(binding, None, (0,), np.dtype(np.uint8), channel)


def split_rows(rows: int, size: int) -> tuple[int, ...]:
    """How many rows each rank gets, as `numpy.array_split` cuts them."""
    short, longer = divmod(rows, size)
    return tuple(short + (rank < longer) for rank in range(size))


def agree_on_out(
    channel: Channel, said: str, out: Any, shape: tuple[int, ...], dtype: np.dtype, kind: str = HOST
) -> None:
    """For results whose shape is known late: raise on every rank where ``out`` does not fit on some."""
    error: Exception | None = None
    try:
        if out is not None:
            check_out(out, shape, dtype, kind=kind)
    except (TypeError, ValueError) as caught:
        error = caught
    channel.agree(said, said, error)


def _kept(
    channel: Channel,
    manner: Manner,
    key: tuple,
    collective: str,
    algorithm: str,
    dtype: np.dtype,
    counts: tuple[int, ...],
    root: int,
    said: str,
    device: Any,
) -> Binding:
    key += () if device is None else (DEVICE, way())
    binding = channel.find(key) if manner.keep else None
    if binding is None:
        binding = Binding(channel, collective, algorithm, None, dtype, counts, root, said, manner.native, device)
        if manner.keep:
            channel.keep(key, binding)
    return binding


def _result_shape(channel: Channel, collective: str, x: np.ndarray, counts: tuple[int, ...] | None) -> tuple[int, ...]:
    if collective not in ("reduce_scatter", "alltoall"):
        return x.shape
    if x.ndim == 0:
        raise ValueError(f"{collective} splits along axis 0, and the array has no axes")
    rows = split_rows(len(x), channel.size) if counts is None else counts
    if sum(rows) != len(x):
        raise ValueError(f"counts={list(rows)} add up to {sum(rows)} rows, the array has {len(x)}")
    mine = rows[channel.rank] * (channel.size if collective == "alltoall" else 1)
    return (mine, *x.shape[1:])


def _items(channel: Channel, collective: str, x: np.ndarray, counts: tuple[int, ...] | None) -> tuple[int, ...]:
    """As a binding wants them."""
    if collective not in ("reduce_scatter", "alltoall"):
        return (x.size,)
    rows = counts if counts is not None else split_rows(len(x), channel.size)
    items = tuple(n * prod(x.shape[1:]) for n in rows)
    return items * channel.size if collective == "alltoall" else items


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
