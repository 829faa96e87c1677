"""How a rank enters an epoch: it gives its data, or says where they lie; and what all do, when all places are told."""

from __future__ import annotations

from numba import carray, njit

from hpcml.collectives.atomics import store_release
from hpcml.collectives.native_call import call, int64_at
from hpcml.collectives.shared.flags import buffer_of, share_of
from hpcml.collectives.shared.state import (
    BYTES,
    CHUNK,
    CHUNK_BYTES,
    COPY_PART,
    COPY_PARTS,
    DIRECT,
    DIRECTORY,
    EPOCH,
    EVERYBODY,
    EXCHANGE,
    FIRST,
    FOLD_PARTS,
    FOLD_SHARES,
    FOLDS,
    FREE,
    GIVEN_AT,
    GIVEN_BYTES,
    GIVER,
    GIVES,
    HOLDS,
    IN_AT,
    IN_PLACE,
    IN_SEGMENT,
    INPUT,
    ITS_IN,
    ITS_OUT,
    LAST,
    MAPPED,
    MEMMOVE,
    NBYTES,
    OPEN,
    OTHERWISE,
    OUT_AT,
    OUTPUT,
    PEER,
    PRIVATE,
    RANK,
    REACHES,
    SEGMENTS,
    SIZE,
    SLOT,
    START,
    TAKER,
    TELLS,
    TOLD,
    WORDS,
    WORK,
)


@njit
def enter(s, peers):
    """Begin an epoch: give the chunk, and the place where the input lies."""
    s[EPOCH] += 1
    buffer = buffer_of(s, s[RANK])
    if s[TELLS] and not s[TOLD]:
        words = carray(int64_at(buffer), WORDS)
        words[1:] = s[INPUT : IN_PLACE + 1]
        gives = s[GIVES] and s[IN_SEGMENT] == 0 and not s[REACHES]
    else:
        gives = s[GIVES] and peers[s[RANK], IN_AT] == 0
    if gives and s[HOLDS]:
        slot, at, length = buffer + s[SLOT], s[CHUNK] * s[CHUNK_BYTES], s[CHUNK_BYTES]
        if s[WORK] == FOLD_PARTS or s[WORK] == COPY_PART:
            for peer in range(s[SIZE]):
                n = min(length, peers[peer, BYTES] - at)
                if n > 0:
                    call(s[MEMMOVE], (slot + peer * length, s[INPUT] + peers[peer, START] + at, n))
        elif s[WORK] == EXCHANGE:
            for peer in range(s[SIZE]):
                n = min(length, peers[peer, GIVEN_BYTES] - at)
                if n > 0 and peer != s[RANK]:
                    call(s[MEMMOVE], (slot + peer * length, s[INPUT] + peers[peer, GIVEN_AT] + at, n))
        elif s[WORK] == FOLD_SHARES:  # all but this rank's share
            n = min(length, s[NBYTES] - at)
            begin, end = share_of(s, n, s[RANK])
            call(s[MEMMOVE], (slot, s[INPUT] + at, begin))
            call(s[MEMMOVE], (slot + end, s[INPUT] + at + end, n - end))
        else:
            n = min(length, (peers[s[RANK], BYTES] if s[WORK] == COPY_PARTS else s[NBYTES]) - at)
            if n > 0:
                call(s[MEMMOVE], (slot, s[INPUT] + at, n))
    store_release(buffer, s[EPOCH] if s[HOLDS] else s[EPOCH] | OTHERWISE)


@njit
def _place(s, rank, own, segment, offset):
    """The address here of memory of another's, 0 where it is in no segment; below 0 where the segment is not known."""
    if rank == s[RANK] and (segment or s[REACHES]):
        return own
    if segment == 0:
        return 0
    rows = carray(int64_at(s[DIRECTORY]), (s[SEGMENTS], 2))
    low, high = 0, s[SEGMENTS]
    while low < high:
        middle = (low + high) // 2
        if rows[middle, 0] < segment:
            low = middle + 1
        else:
            high = middle
    if low == s[SEGMENTS] or rows[low, 0] != segment:
        return -1
    return rows[low, 1] + offset


@njit
def decide(s, peers):
    """All places are told: where to read, and which way to go. False if one is unknown."""
    inputs = outputs = givers = held_back = 0  # in segments
    for peer in range(s[FIRST], s[LAST]):
        words = carray(int64_at(buffer_of(s, peer)), WORDS)
        peers[peer, ITS_IN], peers[peer, ITS_OUT] = words[1], words[2]
        peers[peer, IN_AT] = _place(s, peer, s[INPUT], words[3], words[4])
        peers[peer, OUT_AT] = _place(s, peer, s[OUTPUT], words[5], words[6])
        if peers[peer, IN_AT] < 0 or peers[peer, OUT_AT] < 0:
            s[PEER] = peer
            return False
        if s[GIVER] == EVERYBODY or s[GIVER] == peer:
            givers += 1
            inputs += words[3] != 0
            outputs += words[5] != 0
            held_back += words[3] != 0 and words[7] != 0
    if s[FOLDS]:
        everywhere = s[TAKER] == EVERYBODY and inputs == givers and outputs == givers
        s[DIRECT] = MAPPED if everywhere else PRIVATE if s[REACHES] else 0
    if held_back and not s[DIRECT]:
        # Inputs that are overwritten while others may still read them have to go through slots after all.
        for peer in range(s[SIZE]):
            peers[peer, IN_AT] = 0
        inputs = 0
        s[CHUNK] = -1
    s[FREE] = (inputs == givers or s[REACHES]) and s[WORK] != FOLD_SHARES
    s[OPEN] = inputs > 0 or s[REACHES]
    s[TOLD] = 1
    return True
