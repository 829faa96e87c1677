"""Broadcast, scatter, gather, allgather and barrier: data moved, not changed."""

from __future__ import annotations

import pickle
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml.collectives import arrangement, structure
from hpcml.collectives.algorithms import named
from hpcml.collectives.arrays import as_array, packed
from hpcml.collectives.binding import Binding
from hpcml.collectives.channel import Channel, channel_of


def broadcast(x: Any, root: int = 0, algorithm: str = "auto", comm: MPI.Comm | None = None) -> Any:
    """The root's ``x`` on every rank, written into every rank's ``x``, which is also returned.

    Called by every rank with a writable array of the same shape and dtype, or with a list, tuple or dict of such
    arrays, which is fused into one message a data type. At best ⌈lg p⌉ rounds (binomial), or about n bytes per rank
    (chain).

    Raises:
        ArgumentError: root out of range, unknown algorithm, an array that is read-only; on every rank.
        MismatchError: shapes, dtypes or roots differ between ranks; on every rank.
    """
    channel = channel_of(comm)
    if not structure.is_structure(x):
        return arrangement.broadcast(channel, x, algorithm, root).run()
    structure.agree(channel, "broadcast", x, x)
    pieces = structure.fused(x, lambda flat: arrangement.broadcast(channel, flat, algorithm, root).run())
    return x if pieces is None else structure.filled(x, pieces, x)


def scatter(x: Any, root: int = 0, algorithm: str = "auto", out: Any = None, comm: MPI.Comm | None = None) -> Any:
    """Rank r's part of the root's ``x``: the r-th of ``numpy.array_split(x, size)``, along axis 0.

    The others may pass None. Binomial: ⌈lg p⌉ rounds; direct: one; (p−1)/p·n bytes leave the root either way.

    Raises:
        ArgumentError: root out of range, unknown algorithm, an array without axes; on every rank.
    """
    channel = channel_of(comm)
    if _root_has_structure(channel, x, root):
        return _scatter_structure(channel, x, root, algorithm, out)
    return arrangement.scatter(channel, x, algorithm, out, root).run()


def gather(part: Any, root: int = 0, algorithm: str = "auto", out: Any = None, comm: MPI.Comm | None = None) -> Any:
    """All ranks' parts, concatenated along axis 0 in rank order, on ``root``; None on the others.

    Parts may differ in length, not in dtype or the other axes. A number counts as an array of length 1. Binomial: ⌈lg
    p⌉ rounds; direct: one; the root receives (p−1)/p·n bytes either way.

    Raises:
        ArgumentError, MismatchError: as for the others; on every rank.
    """
    return _parts(channel_of(comm), "gather", part, algorithm, out, root)


def allgather(part: Any, algorithm: str = "auto", out: Any = None, comm: MPI.Comm | None = None) -> Any:
    """All ranks' parts, concatenated along axis 0 in rank order, on every rank. As `gather` in all else.

    Ring: p−1 rounds, (p−1)/p·n bytes sent per rank.
    """
    return _parts(channel_of(comm), "allgather", part, algorithm, out, 0)


def barrier(algorithm: str = "auto", comm: MPI.Comm | None = None) -> None:
    """Return once every rank has called it. ⌈lg p⌉ rounds of empty messages (dissemination)."""
    arrangement.barrier(channel_of(comm), algorithm).run()


def _parts(channel: Channel, collective: str, part: Any, algorithm: str, out: Any, root: int) -> Any:
    if not structure.is_structure(part):
        return arrangement.parts(channel, collective, part, algorithm, out, root).run()
    rows = structure.agree_on_parts(channel, collective, part)
    arrays = [np.atleast_1d(leaf) for _, leaf in structure.leaves(part)]
    message = np.concatenate([np.empty(0, np.uint8), *(_as_bytes(a) for a in arrays)])
    received = arrangement.parts(channel, collective, message, algorithm, None, root).run()
    if received is None:
        return None
    row_bytes = np.array([a.dtype.itemsize * prod(a.shape[1:]) for a in arrays], np.int64)
    cut = _cut(received, (rows * row_bytes).reshape(-1).tolist())  # by rank, then by leaf
    pieces = [
        np.concatenate(cut[i :: len(arrays)]).view(a.dtype).reshape(int(rows[:, i].sum()), *a.shape[1:])
        for i, a in enumerate(arrays)
    ]
    return structure.filled(part, pieces, out)


def _root_has_structure(channel: Channel, x: Any, root: int) -> bool:
    """Known to the root alone. Where ranks name different roots the check that follows says so."""
    return channel.any("scatter", channel.rank == root and structure.is_structure(x))


def _scatter_structure(channel: Channel, x: Any, root: int, algorithm: str, out: Any) -> Any:
    """The root sends what the structure looks like, then all leaves' parts for a rank in one run of bytes."""
    error: Exception | None = None
    plan: bytes | None = None
    message = np.empty(0, np.uint8)
    try:
        if algorithm not in ("auto", "native"):
            named("scatter", algorithm)
        if channel.rank == root:
            plan, message = _dealt(x, channel.size)
    except Exception as caught:  # told to the others, who would wait for this rank
        error = caught
    channel.agree("scatter", f"scatter(root={int(root)}, algorithm={algorithm!r})", error)
    skeleton, shapes = pickle.loads(channel.comm.bcast(plan, root))
    counts = tuple(sum(prod(s[r][0]) * s[r][1].itemsize for s in shapes) for r in range(channel.size))
    mine = np.empty(counts[channel.rank], np.uint8)
    Binding(channel, "scatter", algorithm, None, mine.dtype, counts, root).run(message, mine)
    here = [s[channel.rank] for s in shapes]
    cut = _cut(mine, [prod(shape) * dtype.itemsize for shape, dtype in here])
    pieces = [piece.copy().view(dtype).reshape(shape) for piece, (shape, dtype) in zip(cut, here, strict=True)]
    return structure.filled(skeleton, pieces, out)


def _dealt(x: Any, size: int) -> tuple[bytes, np.ndarray]:
    """What the others have to know of the structure, and the bytes of all leaves, rank by rank."""
    arrays = [as_array(leaf, f"the array at {path}") for path, leaf in structure.leaves(x)]
    if any(a.ndim == 0 for a in arrays):
        raise ValueError("scatter splits along axis 0, and an array in the root's structure has no axes")
    parts = [np.array_split(a, size) for a in arrays]
    shapes = [[(part.shape, part.dtype) for part in split] for split in parts]
    plan = pickle.dumps((structure.rebuilt(x, list(range(len(arrays)))), shapes))
    dealt = (_as_bytes(split[r]) for r in range(size) for split in parts)
    return plan, np.concatenate([np.empty(0, np.uint8), *dealt])


def _cut(x: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    return [x[end - length : end] for length, end in zip(lengths, accumulate(lengths), strict=True)]


def _as_bytes(a: np.ndarray) -> np.ndarray:
    return packed(a).reshape(-1).view(np.uint8)
