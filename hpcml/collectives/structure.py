"""Lists, tuples and dicts of arrays, nested as one likes: taken apart, fused into few messages, put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np

from hpcml.collectives.arrays import DEVICE, as_array, check_out, describe, kind_of, new, with_an_axis
from hpcml.collectives.channel import Channel
from hpcml.collectives.checks import rows_in_words
from hpcml.collectives.errors import ArgumentError
from hpcml.collectives.manner import Manner


def is_structure(x: Any) -> bool:
    return isinstance(x, (list, tuple, dict))


def leaves(x: Any, path: str = "") -> list[tuple[str, Any]]:
    """(path, leaf) in an order that depends on names and places only: dicts are walked by sorted keys."""
    if isinstance(x, dict):
        return [leaf for key in sorted(x, key=_sort_key) for leaf in leaves(x[key], f"{path}[{key!r}]")]
    if isinstance(x, (list, tuple)):
        return [leaf for i, item in enumerate(x) for leaf in leaves(item, f"{path}[{i}]")]
    return [(path, x)]


def rebuilt(x: Any, values: list[Any]) -> Any:
    """A structure like ``x`` whose leaves are ``values``, in the order of `leaves`."""
    supply = iter(values)

    def build(node: Any) -> Any:
        if isinstance(node, dict):
            built = {key: build(node[key]) for key in sorted(node, key=_sort_key)}
            return {key: built[key] for key in node}
        if isinstance(node, (list, tuple)):
            items = [build(item) for item in node]
            return type(node)(*items) if hasattr(node, "_fields") else type(node)(items)
        return next(supply)

    return build(x)


class Fused:
    """The leaves of a structure, packed by data type into flat arrays, one ``messages`` entry each."""

    def __init__(self, x: Any):
        self._arrays = [as_array(leaf, f"the array at {path}") for path, leaf in leaves(x)]
        self._members: list[list[int]] = []
        self.messages: list[Any] = []
        for kind, dtype in sorted({_sort_of(a) for a in self._arrays}, key=str):
            members = [i for i, a in enumerate(self._arrays) if _sort_of(a) == (kind, dtype)]
            flat = _new(self._arrays[members[0]], sum(self._arrays[i].size for i in members), dtype)
            for i, piece in zip(members, self._cut(flat, members), strict=True):
                put(piece, self._arrays[i])
            self._members.append(members)
            self.messages.append(flat)

    def pieces(self, results: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What has become of each leaf, cut out of what has become of the messages."""
        pieces: list[Any] = [None] * len(self._arrays)
        for members, result in zip(self._members, results, strict=True):
            for i, piece in zip(members, self._cut(result, members), strict=True):
                pieces[i] = piece
        return pieces

    def _cut(self, flat: Any, members: list[int]) -> list[Any]:
        """In the leaves' shapes."""
        arrays = [self._arrays[i] for i in members]
        starts = [0, *accumulate(a.size for a in arrays)]
        flat = as_array(flat)
        if kind_of(flat) == DEVICE:
            cut = ((flat.part(start, a.shape), a) for start, a in zip(starts, arrays, strict=False))
            return [replace(piece, kind=a.kind) for piece, a in cut]
        return [flat[start : start + a.size].reshape(a.shape) for start, a in zip(starts, arrays, strict=False)]


def filled(x: Any, pieces: list[np.ndarray], out: Any) -> Any:
    """``out`` with the pieces written to its leaves; without ``out``, a structure like ``x`` made of them."""
    if out is None:
        return rebuilt(x, [given(piece) for piece in pieces])
    targets = leaves(out)
    for (path, leaf), piece in zip(targets, pieces, strict=True):
        check_out(leaf, piece.shape, piece.dtype, f"out{path}", kind_of(piece))
    for (_, leaf), piece in zip(targets, pieces, strict=True):
        put(leaf, piece)
    return out


def on_device(x: Any) -> bool:
    """Whether an array of the structure is in GPU memory."""
    return any(kind_of(leaf) == DEVICE for _, leaf in leaves(x))


def put(to: Any, array: Any) -> None:
    """Copy an array to one of its shape and kind."""
    if kind_of(to) == DEVICE:
        as_array(to).fill_from(as_array(array))
    else:
        to[...] = array


def given(piece: Any) -> Any:
    """What the caller gets."""
    return piece.given() if kind_of(piece) == DEVICE and hasattr(piece, "given") else piece


def _sort_of(array: Any) -> tuple[str, np.dtype]:
    """What arrays of one message have in common: where they are, and the data type."""
    return kind_of(array), array.dtype


def _new(like: Any, count: int, dtype: np.dtype) -> Any:
    if kind_of(like) == DEVICE:
        from hpcml.collectives.device.arrays import new_like

        return new_like(like, (count,), dtype)
    return new((count,), dtype)


def agree(channel: Channel, manner: Manner, call: str, x: Any, out: Any = None) -> None:
    """Check once per structure that every rank passes the same one, and that ``out`` has it too."""
    error: Exception | None = None
    said = f"{call}({type(x).__name__})"
    try:
        said = f"{call}({_signature(x)})"
        if out is not None and out is not x and _signature(out) != _signature(x):
            raise ValueError(f"out has the structure ({_signature(out)}), x ({_signature(x)})")
        if out is not None:
            for path, leaf in leaves(out):
                array = as_array(leaf, f"the array at {path}")
                check_out(leaf, array.shape, array.dtype, f"the array at {path}", kind_of(leaf))
    except (TypeError, ValueError) as caught:
        error = caught
    if not manner.agree and not channel.checked:
        if error is not None:
            raise ArgumentError(f"{call}: {error}") from error
        channel.enter(said)
        return
    if error is None and channel.find(said) is not None:
        channel.enter(said)
        return
    channel.agree(call, said, error)
    channel.keep(said, SEEN)


def agree_on_parts(channel: Channel, call: str, x: Any, counts: Sequence[int] | None = None) -> np.ndarray:
    """Check that every rank's structure is the same but for lengths along axis 0; return those, shape (p, leaves)."""
    error: Exception | None = None
    said, rows = f"{call}({type(x).__name__})", []
    try:
        if counts is not None:
            raise ValueError("counts is for one array, not for a structure: its arrays may differ in length")
        arrays = [(path, with_an_axis(as_array(leaf, f"the array at {path}"))) for path, leaf in leaves(x)]
        rows = [len(a) for _, a in arrays]
        said = f"{call}({', '.join(f'{path}: {rows_in_words(a)}' for path, a in arrays)})"
    except (TypeError, ValueError) as caught:
        error = caught
    return channel.agree(call, said, error, tell=rows)


class _Seen:
    """Stands in a channel's cache for a structure that all ranks have agreed on."""

    nbytes = 0


SEEN = _Seen()


def _signature(x: Any) -> str:
    """What must be the same on every rank: the paths, shapes and data types of the leaves."""
    return ", ".join(f"{path}: {describe(as_array(leaf, f'the array at {path}'))}" for path, leaf in leaves(x))


def _sort_key(key: Any) -> tuple[str, str]:
    return type(key).__name__, str(key)
