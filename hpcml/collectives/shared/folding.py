"""All ranks' inputs folded, in rank order, block by block, so that what is read again is in the caches."""

from __future__ import annotations

import numpy as np
from numba import njit

from hpcml.collectives.native_call import call
from hpcml.collectives.shared.reach import operand
from hpcml.collectives.shared.state import (
    BLOCK,
    DIRECT,
    FETCHED,
    FINISH_KERNEL,
    FOLD_KERNEL,
    IN_PLACE,
    ITEM,
    MAPPED,
    MEMMOVE,
    NEAR,
    REACHES,
    SCRATCH,
    SIZE,
    STREAMS,
    UNIT,
)
from hpcml.collectives.shared.streaming import stream


@njit
def block_bytes(s):
    """How many bytes are folded at a time."""
    return (s[BLOCK] if s[REACHES] and s[DIRECT] != MAPPED else NEAR) // s[UNIT] * s[UNIT]


@njit
def fold(s, peers, dst, at, within, nbytes):
    """All ranks' inputs from byte ``at`` on, folded into ``dst``."""
    block = block_bytes(s)
    for begin in range(0, nbytes, block):
        n = min(block, nbytes - begin)
        fold_block(s, peers, dst + begin, at + begin, within + begin, n)


@njit
def fold_out(s, peers, dst, at, within, nbytes):
    """As `fold`, into this rank's output."""
    if not s[STREAMS] or s[IN_PLACE]:  # in place, its lines were read just now
        fold(s, peers, dst, at, within, nbytes)
        return
    block = block_bytes(s)
    for begin in range(0, nbytes, block):
        n = min(block, nbytes - begin)
        fold_block(s, peers, s[SCRATCH], at + begin, within + begin, n)
        stream(dst + begin, s[SCRATCH], n, s[MEMMOVE])


@njit
def fold_block(s, peers, dst, at, within, nbytes):
    items = nbytes // s[ITEM]
    a = operand(s, peers, 0, at, within, nbytes, dst)
    if s[SIZE] == 1:
        call(s[MEMMOVE], (dst, a, nbytes))
    else:
        b = operand(s, peers, 1, at, within, nbytes, s[FETCHED])
        call(s[FOLD_KERNEL], (dst, a, b, items, np.int64(dst == a)))
    for peer in range(2, s[SIZE]):
        b = operand(s, peers, peer, at, within, nbytes, s[FETCHED])
        call(s[FOLD_KERNEL], (dst, dst, b, items, np.int64(1)))
    if s[FINISH_KERNEL]:
        call(s[FINISH_KERNEL], (dst, dst, items, s[SIZE]))
