"""The short way, for a call that is like an earlier one: what it cannot do without, and no more.

The long way (`arguments`, `arrangement`) checks, agrees and arranges, in more time than a small collective takes. What
it bound is found here by the same key. Where the short way cannot take a call, or does not know it, it says `NEW`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy import ndarray

from hpcml.collectives.arguments import Known, in_shared_memory, known_parts, last_parts
from hpcml.collectives.arrangement import NOTHING
from hpcml.collectives.arrays import DEVICE, as_array, kind_of, packed
from hpcml.collectives.channel import Channel
from hpcml.collectives.checks import plain
from hpcml.collectives.shared import NAME as SHARED
from hpcml.collectives.structure import is_structure


class _New(NamedTuple):
    pass


NEW: Final = _New()  # a call has to go the long way


def again(
    channel: Channel,
    collective: str,
    x: Any,
    op: Any,
    algorithm: Any,
    out: Any,
    root: Any = 0,
    counts: Sequence[int] | None = None,
    wanted: bool = True,
) -> Any:
    """What the call of a collective in which all ranks' arrays are alike returns; None where not ``wanted``; or `NEW`.

    ``out``: of a broadcast, ``x``.
    """
    if type(x) is not ndarray or type(algorithm) is not str or type(root) is not int:
        return NEW
    if not (op is None or type(op) is str) or not (counts is None or _simple(counts)):
        return NEW
    placed = in_shared_memory(channel, x, algorithm)
    rows = None if counts is None else tuple(counts)
    known = channel.find((collective, algorithm, op, x.dtype, x.shape, root, rows, SHARED if placed else True))
    if known is None or not x.flags.c_contiguous:
        return NEW
    if not wanted:
        result = NOTHING
    elif out is None:
        result = known.fresh()
    elif _fits(out, known, x):
        result = out
    else:
        return NEW
    channel.enter(known.binding.said)
    known.binding.run(x, result)
    return result if wanted else None


def parts_again(
    channel: Channel,
    collective: str,
    part: Any,
    algorithm: Any,
    out: Any,
    root: Any = 0,
    counts: Sequence[int] | None = None,
    wanted: bool = True,
) -> Any:
    """As `again`, for gather and allgather, in which the ranks' parts may differ in length.

    Without ``counts`` the lengths are taken to be those of the call before, and every rank sees as the data move
    whether they are. So each rank that knows of that call comes here with its part, and goes the long way with the
    others where they are not: one that went there alone would wait for ever, as its words are those of the others.
    """
    if type(root) is not int:
        root = plain(root)
        if type(root) is not int:
            return NEW
    if not isinstance(algorithm, str) or not (counts is None or _simple(counts)):
        return NEW
    if type(part) is not ndarray or part.ndim == 0:
        if is_structure(part) or kind_of(part) == DEVICE:
            return NEW
        try:
            part = np.atleast_1d(as_array(part))
        except (TypeError, ValueError):
            return NEW
    if counts is not None:
        known = channel.find(known_parts(collective, algorithm, part, tuple(counts), root))
    else:
        known = channel.find(last_parts(collective, algorithm, part, root))
    if known is None:
        return NEW
    fits = len(part) == known.rows[channel.rank] and (not wanted or out is None or _fits(out, known, part))
    if counts is not None and not fits:
        return NEW
    result = NOTHING
    if wanted:
        result = out if out is not None and fits else known.fresh()
    channel.enter(known.binding.said)
    if counts is not None:
        known.binding.run(packed(part), result)
    elif not known.binding.run_if(fits, packed(part), result):
        return NEW
    return result if wanted else None


def _simple(counts: Sequence[int]) -> bool:
    return type(counts) in (tuple, list) and all(type(n) is int for n in counts)


def _fits(out: Any, known: Known, x: np.ndarray) -> bool:
    """Whether ``out`` can take the result directly; where it cannot, the long way finds out why."""
    if type(out) is not ndarray or out.shape != known.shape or out.dtype != x.dtype:
        return False
    flags = out.flags
    if not flags.carray:
        return False
    if out is x:
        return known.binding.may_be_in_place
    return (flags.owndata and x.flags.owndata) or not np.may_share_memory(x, out)  # the last takes a while
