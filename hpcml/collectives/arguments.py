"""From a call's arguments to a binding that all ranks have agreed on.

Arguments are checked before any data move, with the same verdict on every rank. Where every rank must pass arrays of
one shape, that is done when a combination of arguments is seen for the first time; where lengths may differ, the
lengths are exchanged in each call, unless the caller says them, and the check travels with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np
from mpi4py import MPI

from hpcml.collectives import algorithms, ops, shared
from hpcml.collectives.arrays import as_array, check_out, describe
from hpcml.collectives.binding import Binding
from hpcml.collectives.channel import Channel
from hpcml.collectives.errors import ArgumentError
from hpcml.collectives.exact import ordering
from hpcml.collectives.exact.terms import Terms, real, working
from hpcml.collectives.manner import BLOCKING, Manner
from hpcml.collectives.native import reducible
from hpcml.collectives.shared.segments import segments
from hpcml.collectives.structure import is_structure

OpLike = str | MPI.Op
MAX_DIMS = 8  # of a scattered array: its shape has to travel from the root
_STRUCTURE = 0  # in the place of a data type


class Known(NamedTuple):
    """What a channel keeps of a call: its binding, the shape of this rank's result, and the rows of all ranks' parts."""

    binding: Binding
    shape: tuple[int, ...]
    rows: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        return self.binding.nbytes


class Bound(NamedTuple):
    """A binding, the caller's array (None on a rank that gives none), and the shape and dtype of the result here."""

    binding: Binding
    x: np.ndarray | None
    shape: tuple[int, ...]
    dtype: np.dtype


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
    root = _plain(root)
    found: ops.Op | None = None
    key: tuple = ()
    keep = manner.keep
    shape: tuple[int, ...] = ()
    rows: tuple[int, ...] | None = None
    known: Known | None = None
    name: str | None = None
    placed = False
    try:
        x = as_array(x)
        found = None if op is None else ops.find(op)
        name = None if found is None else found.name
        keep = keep and name != ops.USERS_OWN  # which may be freed, and its handle given to another
        rows = None if counts is None else _checked_counts(channel, counts)
        placed = manner.native and in_shared_memory(channel, x, algorithm)
        key = (collective, algorithm, name, x.dtype, x.shape, root, rows, shared.NAME if placed else manner.agree)
        shape = _result_shape(channel, collective, x, rows)
        if out is not None:
            check_out(out, shape, x.dtype)
        known = channel.find(key) if keep else None
        if known is None:
            _check_root(root, channel)
            _check_algorithm(collective, algorithm, manner)
        if known is None and found is not None:
            ops.check_dtype(found, x.dtype)
            if name == ops.USERS_OWN and reducible(x.dtype) is None:
                raise TypeError(f"MPI has no data type for {x.dtype}, so it cannot apply an op of the user's own to it")
    except (TypeError, ValueError) as caught:
        error = caught
    if known is not None:  # with it, there is no error
        channel.enter(known.binding.said)
        return Bound(known.binding, x, shape, x.dtype)
    said = ""
    if error is None:
        said = f"{collective}({describe(x)}, {_options(op=name, algorithm=algorithm, root=root, counts=rows)})"
        said += " in shared memory" * placed
    _agree(channel, manner, collective, said, error)
    items = _items(channel, collective, x, rows)
    if placed and name != ops.USERS_OWN and collective in shared.COLLECTIVES:
        algorithm = shared.NAME
    binding = Binding(channel, collective, algorithm, found, x.dtype, items, root, said, manner.native)
    if keep:
        channel.keep(key, Known(binding, shape))
    return Bound(binding, x, shape, x.dtype)


def in_shared_memory(channel: Channel, x: np.ndarray, algorithm: str) -> bool:
    """Whether the choice of an algorithm depends on where ``x`` lies, and it lies in memory that the node shares.

    Then it is part of what all ranks agree on.
    """
    return algorithm == "auto" and x.nbytes >= shared.WORTHWHILE and segments().hold(x, channel.members)


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
    root = _plain(root)
    mine = 0
    key: tuple = ()
    lengths: tuple[int, ...] = ()
    known: Known | None = None
    wanted = collective == "allgather" or channel.rank == root
    try:
        part = np.atleast_1d(as_array(part))
        mine = len(part)
        if counts is not None:
            lengths = _checked_counts(channel, counts)
            if mine != lengths[channel.rank]:
                raise ValueError(f"counts={list(lengths)} has {lengths[channel.rank]} rows here, the part has {mine}")
            if out is not None and wanted:
                check_out(out, (sum(lengths), *part.shape[1:]), part.dtype)
            key = known_parts(collective, algorithm, part, lengths, root, manner.agree)
            known = channel.find(key) if manner.keep else None
        if known is None:
            _check_root(root, channel)
            _check_algorithm(collective, algorithm, manner)
    except (TypeError, ValueError) as caught:
        error = caught
    if known is not None:  # with it, there is no error
        channel.enter(known.binding.said)
        return Bound(known.binding, part, known.shape, part.dtype)
    said = ""
    if error is None:
        said = f"{collective}({_rows(part)}, {_options(algorithm=algorithm, root=root, counts=lengths or None)})"
    if counts is None:
        told = channel.agree(collective, said, error, tell=[mine, int(out is not None)])
        lengths = tuple(told[:, 0].tolist())
        if told[:, 1].any():
            agree_on_out(channel, said, out if wanted else None, (sum(lengths), *part.shape[1:]), part.dtype)
        key = (collective, algorithm, part.dtype, part.shape[1:], lengths, root, manner, "told")
    else:
        _agree(channel, manner, collective, said, error)
    items = tuple(n * prod(part.shape[1:]) for n in lengths)
    shape = (sum(lengths), *part.shape[1:])
    known = channel.find(key) if manner.keep else None
    if known is None:
        binding = Binding(channel, collective, algorithm, None, part.dtype, items, root, said, manner.native)
        known = Known(binding, shape, lengths)
        if manner.keep:
            channel.keep(key, known)
    if counts is None and manner == BLOCKING:
        channel.keep(last_parts(collective, algorithm, part, root), known)
    return Bound(known.binding, part, shape, part.dtype)


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
    root = _plain(root)
    shape: tuple[int, ...] = ()
    type_code = _STRUCTURE
    try:
        _check_root(root, channel)
        _check_algorithm("scatter", algorithm, manner)
        counts = None if counts is None else _checked_counts(channel, counts)
        if channel.rank == root and not is_structure(x):
            x = as_array(x)
            if x.ndim == 0:
                raise ValueError("scatter splits along axis 0, and the root's array has no axes")
            if x.ndim > MAX_DIMS:
                raise ValueError(f"scatter takes arrays of up to {MAX_DIMS} axes, not {x.ndim}")
            if counts is not None and sum(counts) != len(x):
                raise ValueError(f"counts={list(counts)} add up to {sum(counts)} rows, the array has {len(x)}")
            shape, type_code = x.shape, _encoded(x.dtype)
    except (TypeError, ValueError) as caught:
        error = caught
    numbers = [type_code, len(shape), *shape, *[0] * (MAX_DIMS - len(shape))]
    said = f"scatter({_options(algorithm=algorithm, root=root, counts=counts)})"
    told = channel.agree("scatter", said, error, tell=[int(out is not None), *numbers])
    type_code, ndim, *dims = told[root, 1:].tolist()
    if type_code == _STRUCTURE:
        return None
    dtype, trailing = _decoded(type_code), tuple(dims[1:ndim])
    rows = counts if counts is not None else split_rows(dims[0], channel.size)
    shape = rows[channel.rank], *trailing
    if told[:, 0].any():
        agree_on_out(channel, said, out, shape, dtype)
    items = tuple(n * prod(trailing) for n in rows)
    key = ("scatter", algorithm, dtype, items, root, manner)
    binding = _kept(channel, manner, key, "scatter", algorithm, dtype, items, root, said)
    return Bound(binding, x if channel.rank == root else None, shape, dtype)


def exchange(
    channel: Channel, manner: Manner, x: Any, counts: Sequence[int], algorithm: str, out: Any = None
) -> tuple[Bound, np.ndarray]:
    """For alltoallv: rows for each rank, as many as ``counts`` says; also returns the rows that come from each."""
    error: Exception | None = None
    said, mine = f"alltoallv({type(x).__name__})", [0] * channel.size
    try:
        x = np.atleast_1d(as_array(x))
        said = f"alltoallv({_rows(x)}, {_options(algorithm=algorithm)})"
        if counts is None:
            raise TypeError("counts is missing: expected how many rows go to each rank")
        mine = list(_checked_counts(channel, counts))
        if sum(mine) != len(x):
            raise ValueError(f"counts={mine} add up to {sum(mine)} rows, the array has {len(x)}")
        _check_algorithm("alltoall", algorithm, manner)
    except (TypeError, ValueError) as caught:
        error = caught
    told = channel.agree("alltoallv", said, error, tell=[int(out is not None), *mine])
    rows = told[:, 1:]
    received = rows[:, channel.rank]
    shape = (int(received.sum()), *x.shape[1:])
    if told[:, 0].any():
        agree_on_out(channel, said, out, shape, x.dtype)
    items = tuple((rows.reshape(-1) * prod(x.shape[1:])).tolist())
    key = ("alltoall", algorithm, x.dtype, items, manner)
    binding = _kept(channel, manner, key, "alltoall", algorithm, x.dtype, items, 0, said)
    return Bound(binding, x, shape, x.dtype), received


def barrier(channel: Channel, manner: Manner, algorithm: str) -> Bound:
    error: Exception | None = None
    key = ("barrier", algorithm, manner.agree)
    said = f"barrier({_options(algorithm=algorithm)})"
    binding = channel.find(key) if manner.keep else None
    if binding is not None:
        channel.enter(said)
    else:
        try:
            _check_algorithm("barrier", algorithm, manner)
        except ValueError as caught:
            error = caught
        _agree(channel, manner, "barrier", said, error)
        nothing = (0,) * channel.size
        binding = Binding(channel, "barrier", algorithm, None, np.dtype(np.uint8), nothing, 0, said, manner.native)
        if manner.keep:
            channel.keep(key, binding)
    return Bound(binding, None, (0,), np.dtype(np.uint8))


def split_rows(rows: int, size: int) -> tuple[int, ...]:
    """How many rows each rank gets, as `numpy.array_split` cuts them."""
    short, longer = divmod(rows, size)
    return tuple(short + (rank < longer) for rank in range(size))


def agree_on_out(channel: Channel, said: str, out: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """For results whose shape is known late: raise on every rank where ``out`` does not fit on some."""
    error: Exception | None = None
    try:
        if out is not None:
            check_out(out, shape, dtype)
    except (TypeError, ValueError) as caught:
        error = caught
    channel.agree(said, said, error)


def _agree(channel: Channel, manner: Manner, collective: str, said: str, error: Exception | None) -> None:
    if manner.agree or channel.checked:
        channel.agree(collective, said, error)
    elif error is not None:
        raise ArgumentError(f"{collective}: {error}") from error
    else:
        channel.enter(said)


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
) -> Binding:
    binding = channel.find(key) if manner.keep else None
    if binding is None:
        binding = Binding(channel, collective, algorithm, None, dtype, counts, root, said, manner.native)
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


def _checked_counts(channel: Channel, counts: Sequence[int]) -> tuple[int, ...]:
    checked = tuple(map(int, counts))
    if len(checked) != channel.size:
        raise ValueError(f"counts has {len(checked)} entries, the communicator {channel.size} ranks: expected one each")
    if min(checked) < 0:
        raise ValueError(f"counts={list(checked)}: expected numbers of rows, none below 0")
    return checked


def _rows(x: np.ndarray) -> str:
    return f"{x.dtype}[rows{''.join(f', {n}' for n in x.shape[1:])}]"


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


def _check_algorithm(collective: str, algorithm: str, manner: Manner) -> None:
    if algorithm == "auto":
        return
    if algorithm not in algorithms.names(collective):
        algorithms.named(collective, algorithm)
    if algorithm == shared.NAME and not manner.native:
        raise ValueError(f"algorithm {algorithm!r} does not get on in the background: use another, or 'auto'")


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
    root = _plain(root)
    found = ops.OPS["sum"]
    said = f"{collective}({type(x).__name__}, reproducible=True)"
    key: tuple = ()
    shape: tuple[int, ...] = ()
    dtype: np.dtype = np.dtype(np.float64)
    try:
        x = as_array(x)
        found = ops.find(op)
        if x.dtype.kind in "iub" and found.finishes:
            x = x.astype(np.float64)
        shape, dtype = x.shape, x.dtype
        if axis is not None:
            _check_axis(x, axis)
            shape = shape[1:]
        options = _options(op=found.name, algorithm=algorithm, root=root, axis=axis)
        said = f"{collective}({describe(x) if axis is None else _rows(x)}, {options}, reproducible=True)"
        key = ("reproducible", collective, algorithm, found.name, dtype, shape, root, axis)
        key += () if manner.agree else ("unseen",)
        if out is not None:
            check_out(out, shape, dtype)
        x = x.astype(dtype.newbyteorder("="), copy=False)
        kept = channel.find(key) if manner.keep else None
        if kept is not None:
            channel.enter(said)
            return kept, x, shape, dtype
        _check_root(root, channel)
        _check_algorithm(collective, algorithm, manner)
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
    _agree(channel, manner, collective, said, error)
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
        x = as_array(x)
        ops.check_dtype(found, x.dtype)
        dtype = x.dtype
        said = f"{collective}({describe(x) if axis is None else _rows(x)}, op={found.name!r}, reproducible=True)"
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
        _agree(channel, manner, collective, said, error)
    return same_everywhere(channel, manner, collective, keys, found.name, algorithm, root, keys), dtype


def _check_axis(x: np.ndarray, axis: int) -> None:
    if axis != 0 or x.ndim == 0:
        raise ValueError(f"axis={axis} of an array of {x.ndim} axes: only axis=0 can be folded")
