"""Broadcast, scatter, gather, allgather, all-to-all and barrier: data moved, not changed."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml.collectives import arguments, request, structure
from hpcml.collectives.again import NEW, again, parts_again
from hpcml.collectives.algorithms import named
from hpcml.collectives.arrangement import NOTHING, Arrangement, arranged, kept_in_place
from hpcml.collectives.arrays import as_array, packed
from hpcml.collectives.binding import Binding
from hpcml.collectives.channel import Channel, channel_of
from hpcml.collectives.manner import BLOCKING, Manner
from hpcml.collectives.request import Steps


def broadcast(x: Any, root: int = 0, algorithm: str = "auto", comm: MPI.Comm | None = None, stream: Any = None) -> Any:
    """The root's ``x`` on every rank, written into every rank's ``x``, which is also returned.

    Called by every rank with a writable array of the same shape and dtype, or with a list, tuple or dict of such
    arrays, which is fused into one message a data type. At best ⌈lg p⌉ rounds (binomial), or about n bytes per rank
    (chain).

    Raises:
        ArgumentError: root out of range, unknown algorithm, an array that is read-only; on every rank.
        MismatchError: shapes, dtypes or roots differ between ranks; on every rank.
    """
    channel = channel_of(comm)
    done = again(channel, "broadcast", x, None, algorithm, x, root)
    return done if done is not NEW else request.run(broadcast_steps(channel, BLOCKING.on(stream), x, root, algorithm))


def scatter(
    x: Any,
    root: int = 0,
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    counts: Sequence[int] | None = None,
    stream: Any = None,
) -> Any:
    """Rank r's part of the root's ``x``: the r-th of ``numpy.array_split(x, size)``, along axis 0.

    The others may pass None. Binomial: ⌈lg p⌉ rounds; direct: one; (p−1)/p·n bytes leave the root either way.

    Args:
        counts: rows of each rank's part, the same on every rank; they add up to ``len(x)``. For an array only.

    Raises:
        ArgumentError: root out of range, unknown algorithm, an array without axes; on every rank.
    """
    return request.run(scatter_steps(channel_of(comm), BLOCKING.on(stream), x, root, algorithm, out, counts))


def gather(
    part: Any,
    root: int = 0,
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    counts: Sequence[int] | None = None,
    stream: Any = None,
) -> Any:
    """All ranks' parts, concatenated along axis 0 in rank order, on ``root``; None on the others.

    Parts may differ in length, not in dtype or the other axes. A number counts as an array of length 1. Binomial: ⌈lg
    p⌉ rounds; direct: one; the root receives (p−1)/p·n bytes either way.

    Args:
        counts: rows of each rank's part, the same on every rank. Without it the ranks tell each other; that costs one
            small all-reduce in the first call, and again in each in which a rank's rows are not those of the call
            before. For an array only.

    Raises:
        ArgumentError, MismatchError: as for the others; on every rank.
    """
    channel = channel_of(comm)
    done = parts_again(channel, "gather", part, algorithm, out, root, counts, wanted=channel.rank == root)
    if done is not NEW:
        return done
    return request.run(parts_steps(channel, BLOCKING.on(stream), "gather", part, algorithm, out, root, counts))


def allgather(
    part: Any,
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    counts: Sequence[int] | None = None,
    stream: Any = None,
) -> Any:
    """All ranks' parts, concatenated along axis 0 in rank order, on every rank. As `gather` in all else.

    ⌈lg p⌉ rounds (Bruck, circulant), or p−1 between neighbours (ring); (p−1)/p·n bytes sent per rank.
    """
    channel = channel_of(comm)
    done = parts_again(channel, "allgather", part, algorithm, out, 0, counts)
    if done is not NEW:
        return done
    return request.run(parts_steps(channel, BLOCKING.on(stream), "allgather", part, algorithm, out, 0, counts))


def alltoall(x: Any, algorithm: str = "auto", out: Any = None, comm: MPI.Comm | None = None, stream: Any = None) -> Any:
    """Rank s's part for rank d goes to d: the d-th of ``numpy.array_split(x, size)``, along axis 0.

    Called by every rank with an array of the same shape and dtype; every rank gets what all have for it, in rank
    order. Pairwise: p−1 rounds, (p−1)/p·n bytes sent per rank; Bruck: ⌈lg p⌉ rounds, about n/2·lg p bytes.

    Raises:
        ArgumentError: an array without axes, an unknown algorithm; on every rank.
        MismatchError: shapes or dtypes differ between ranks (`alltoallv` takes such); on every rank.
    """
    channel = channel_of(comm)
    done = again(channel, "alltoall", x, None, algorithm, out)
    return done if done is not NEW else request.run(alltoall_steps(channel, BLOCKING.on(stream), x, algorithm, out))


def alltoallv(
    x: Any,
    counts: Sequence[int],
    algorithm: str = "auto",
    out: Any = None,
    comm: MPI.Comm | None = None,
    stream: Any = None,
) -> tuple[Any, np.ndarray]:
    """As `alltoall` with parts of any length: the first ``counts[0]`` rows of ``x`` go to rank 0, and so on.

    Args:
        x: rows along axis 0, sorted by destination. Dtype and the other axes are the same on every rank.
        counts: as many rows for each rank; they add up to ``len(x)``.

    Returns:
        The rows that came, in the order of their ranks, and how many came from each, int64 of shape (p,).

    Example::

        owner = keys % comm.size                             # send each row to its owner
        order = np.argsort(owner, kind="stable")
        rows, came = hc.alltoallv(rows[order], np.bincount(owner, minlength=comm.size))
    """
    return request.run(alltoallv_steps(channel_of(comm), BLOCKING.on(stream), x, counts, algorithm, out))


def barrier(algorithm: str = "auto", comm: MPI.Comm | None = None) -> None:
    """Return once every rank has called it. ⌈lg p⌉ rounds of empty messages (dissemination)."""
    request.run(barrier_steps(channel_of(comm), BLOCKING, algorithm))


def broadcast_steps(channel: Channel, manner: Manner, x: Any, root: int, algorithm: str) -> Steps:
    if not structure.is_structure(x):
        bound = arguments.same_everywhere(channel, manner, "broadcast", x, None, algorithm, root, x)
        yield [kept_in_place(bound)]
        return x
    structure.agree(channel, manner, "broadcast", x, x)
    fused = structure.Fused(x)
    bounds = [
        arguments.same_everywhere(channel, manner, "broadcast", m, None, algorithm, root, m) for m in fused.messages
    ]
    delivered = yield [kept_in_place(bound) for bound in bounds]
    return structure.filled(x, fused.pieces(delivered), x)


def scatter_steps(
    channel: Channel, manner: Manner, x: Any, root: int, algorithm: str, out: Any, counts: Sequence[int] | None
) -> Steps:
    bound = arguments.scatter(channel, manner, x, algorithm, root, out, counts)
    if bound is None:
        return (yield from _scatter_structure(channel, manner, x, int(root), algorithm, out, counts))
    (result,) = yield [arranged(bound, out)]
    return result


def parts_steps(
    channel: Channel,
    manner: Manner,
    collective: str,
    part: Any,
    algorithm: str,
    out: Any,
    root: int,
    counts: Sequence[int] | None = None,
) -> Steps:
    wanted = collective == "allgather" or channel.rank == root
    if not structure.is_structure(part):
        bound = arguments.parts(channel, manner, collective, part, algorithm, root, out, counts)
        (result,) = yield [arranged(bound, out, wanted)]
        return result
    rows = structure.agree_on_parts(channel, collective, part, counts)
    if structure.on_device(part):  # leaf by leaf: bytes of the device are not put together with those of the host
        pieces = []
        for _, leaf in structure.leaves(part):
            pieces.append((yield from parts_steps(channel, manner, collective, leaf, algorithm, None, root)))
        return structure.filled(part, pieces, out) if wanted else None
    arrays = [np.atleast_1d(leaf) for _, leaf in structure.leaves(part)]
    message = np.concatenate([np.empty(0, np.uint8), *(_as_bytes(a) for a in arrays)])
    bound = arguments.parts(channel, manner, collective, message, algorithm, root)
    (received,) = yield [arranged(bound, None, wanted)]
    if received is None:
        return None
    row_bytes = np.array([a.dtype.itemsize * prod(a.shape[1:]) for a in arrays], np.int64)
    cut = _cut(received, (rows * row_bytes).reshape(-1).tolist())  # by rank, then by leaf
    pieces = [
        np.concatenate(cut[i :: len(arrays)]).view(a.dtype).reshape(int(rows[:, i].sum()), *a.shape[1:])
        for i, a in enumerate(arrays)
    ]
    return structure.filled(part, pieces, out)


def alltoall_steps(channel: Channel, manner: Manner, x: Any, algorithm: str, out: Any) -> Steps:
    bound = arguments.same_everywhere(channel, manner, "alltoall", x, None, algorithm, out=out)
    (result,) = yield [arranged(bound, out)]
    return result


def alltoallv_steps(channel: Channel, manner: Manner, x: Any, counts: Sequence[int], algorithm: str, out: Any) -> Steps:
    bound, received = arguments.exchange(channel, manner, x, counts, algorithm, out)
    (result,) = yield [arranged(bound, out)]
    return result, received


def barrier_steps(channel: Channel, manner: Manner, algorithm: str) -> Steps:
    binding = arguments.barrier(channel, manner, algorithm).binding
    yield [Arrangement(binding, NOTHING, NOTHING, None)]


def _scatter_structure(
    channel: Channel, manner: Manner, x: Any, root: int, algorithm: str, out: Any, counts: Sequence[int] | None
) -> Steps:
    """The root sends what the structure looks like, then all leaves' parts for a rank in one run of bytes."""
    error: Exception | None = None
    plan: bytes | None = None
    message = np.empty(0, np.uint8)
    try:
        if counts is not None:
            raise ValueError("counts is for one array, not for a structure: its arrays may differ in length")
        if algorithm not in ("auto", "native"):
            named("scatter", algorithm)
        if channel.rank == root:
            plan, message = _dealt(x, channel.size)
    except Exception as caught:  # told to the others, who would wait for this rank
        error = caught
    channel.agree("scatter", f"scatter(root={root}, algorithm={algorithm!r})", error)
    skeleton, shapes = pickle.loads(channel.comm.bcast(plan, root))
    if shapes is None:
        given = structure.leaves(x if channel.rank == root else skeleton)
        parts = []
        for _, leaf in given:
            parts.append((yield from scatter_steps(channel, manner, leaf, root, algorithm, None, None)))
        return structure.filled(skeleton, parts, out)
    sizes = tuple(sum(prod(s[r][0]) * s[r][1].itemsize for s in shapes) for r in range(channel.size))
    mine = np.empty(sizes[channel.rank], np.uint8)
    binding = Binding(channel, "scatter", algorithm, None, mine.dtype, sizes, root, native=manner.native)
    yield [Arrangement(binding, message, mine, mine)]
    here = [s[channel.rank] for s in shapes]
    cut = _cut(mine, [prod(shape) * dtype.itemsize for shape, dtype in here])
    pieces = [piece.copy().view(dtype).reshape(shape) for piece, (shape, dtype) in zip(cut, here, strict=True)]
    return structure.filled(skeleton, pieces, out)


def _dealt(x: Any, size: int) -> tuple[bytes, np.ndarray]:
    """What the others have to know of the structure, and the bytes of all leaves, rank by rank."""
    arrays = [as_array(leaf, f"the array at {path}") for path, leaf in structure.leaves(x)]
    if any(a.ndim == 0 for a in arrays):
        raise ValueError("scatter splits along axis 0, and an array in the root's structure has no axes")
    if structure.on_device(x):  # leaf by leaf
        return pickle.dumps((structure.rebuilt(x, list(range(len(arrays)))), None)), np.empty(0, np.uint8)
    parts = [np.array_split(a, size) for a in arrays]
    shapes = [[(part.shape, part.dtype) for part in split] for split in parts]
    plan = pickle.dumps((structure.rebuilt(x, list(range(len(arrays)))), shapes))
    dealt = (_as_bytes(split[r]) for r in range(size) for split in parts)
    return plan, np.concatenate([np.empty(0, np.uint8), *dealt])


def _cut(x: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    return [x[end - length : end] for length, end in zip(lengths, accumulate(lengths), strict=True)]


def _as_bytes(a: np.ndarray) -> np.ndarray:
    return packed(a).reshape(-1).view(np.uint8)
