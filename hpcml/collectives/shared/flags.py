"""The flags by which ranks tell each other how far they are, and what they mark off."""

from __future__ import annotations

from numba import njit

from hpcml.collectives.atomics import load_acquire, store_release
from hpcml.collectives.giving_way import give_way
from hpcml.collectives.shared.state import (
    AREA_BYTES,
    AREAS,
    BUFFER_BYTES,
    CHANGED,
    EPOCH,
    FAILED,
    HEADER,
    NAP,
    OTHERWISE,
    PEER,
    POLLS_PER_NAP,
    RANK,
    SIZE,
    SPINS,
    UNIT,
    YIELD,
)


@njit
def buffer_of(s, rank):
    """Address of that rank's buffer of this epoch."""
    return s[AREAS] + rank * s[AREA_BYTES] + HEADER + (s[EPOCH] & 1) * s[BUFFER_BYTES]


@njit
def wait(s, last, which, patience):
    """Whether all ranks before ``last`` have raised a flag to this epoch: SHARED, DONE_WITH, or arrival (< 0)."""
    polls = 0
    while s[PEER] < last:
        peer = s[PEER]
        place = buffer_of(s, peer) if which < 0 else s[AREAS] + peer * s[AREA_BYTES] + which
        flag = load_acquire(place)
        while flag & ~OTHERWISE < s[EPOCH]:
            polls += 1
            if polls > patience:
                return False
            if polls > s[SPINS]:
                give_way(polls, s[POLLS_PER_NAP], s[YIELD], s[NAP])
            flag = load_acquire(place)
        if flag >= OTHERWISE:
            s[CHANGED] = 1 + peer
        s[PEER] = peer + 1
    return True


@njit
def raise_flag(s, flag):
    store_release(s[AREAS] + s[RANK] * s[AREA_BYTES] + flag, s[EPOCH] | OTHERWISE if s[FAILED] else s[EPOCH])


@njit
def share_of(s, nbytes, rank):
    """The share of that rank in ``nbytes``: where it begins and ends. Shares are even, and of whole cache lines."""
    width = -(-nbytes // (s[SIZE] * s[UNIT])) * s[UNIT]
    return min(rank * width, nbytes), min((rank + 1) * width, nbytes)
