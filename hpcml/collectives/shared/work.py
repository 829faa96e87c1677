"""What a rank does with a chunk once all data are there."""

from __future__ import annotations

from numba import njit

from hpcml.collectives.shared.flags import buffer_of, share_of
from hpcml.collectives.shared.folding import block_bytes, fold, fold_block, fold_out
from hpcml.collectives.shared.reach import deliver, hand_over, take
from hpcml.collectives.shared.state import (
    BLOCK,
    BYTES,
    CHUNK,
    CHUNK_BYTES,
    COPY_ALL,
    COPY_PART,
    COPY_PARTS,
    DIRECT,
    EVERYBODY,
    EXCHANGE,
    FOLD_ALL,
    FOLD_PARTS,
    FOLD_SHARES,
    FROM,
    GIVEN_AT,
    GIVEN_BYTES,
    GIVER,
    IN_PLACE,
    INPUT,
    LINE,
    MAPPED,
    NBYTES,
    OUT_AT,
    OUTPUT,
    RANK,
    REACHES,
    SCRATCH,
    SHARE,
    SIZE,
    START,
    STREAMS,
    TAKER,
    TAKES,
    TO,
    WORK,
)


@njit
def work_directly(s, peers):
    """Fold one's share of the items from all inputs into all outputs, block by block."""
    begin, end = share_of(s, s[NBYTES], s[RANK])
    block = block_bytes(s)
    first = -1  # whose output the folded items are in, before they are handed to the others
    if s[DIRECT] == MAPPED:
        first = 0
    elif s[TAKES] and not s[IN_PLACE] and not s[STREAMS]:
        first = s[RANK]
    for at in range(begin, end, block):
        n = min(block, end - at)
        dst = s[SCRATCH] if first < 0 else s[OUTPUT] + at if first == s[RANK] else peers[first, OUT_AT] + at
        fold_block(s, peers, dst, at, 0, n)
        for peer in range(s[SIZE]):
            if peer != first and (s[TAKER] == EVERYBODY or s[TAKER] == peer):
                hand_over(s, peers, peer, at, dst, n)


@njit
def work_on(s, peers):
    """Take from a chunk what this rank is to have of it."""
    work, length = s[WORK], s[CHUNK_BYTES]
    at = s[CHUNK] * length
    if work == FOLD_ALL:
        if s[TAKES]:
            fold_out(s, peers, s[OUTPUT] + at, at, 0, min(length, s[NBYTES] - at))
    elif work == FOLD_SHARES:
        begin, end = share_of(s, min(length, s[NBYTES] - at), s[RANK])
        fold(s, peers, buffer_of(s, s[RANK]) + s[SHARE], at + begin, begin, end - begin)
    elif work == FOLD_PARTS:
        part = s[RANK]
        n = min(length, peers[part, BYTES] - at)
        fold_out(s, peers, s[OUTPUT] + at, peers[part, START] + at, part * length, n)
    elif work == COPY_ALL:
        n = min(length, s[NBYTES] - at)
        read = n * (s[SIZE] - 1) // s[SIZE] // LINE * LINE if s[REACHES] else n  # the rest is written by the root
        if s[RANK] != s[GIVER]:
            take(s, peers, s[GIVER], at, 0, at, read)
        elif s[REACHES]:
            for turn in range(1, s[SIZE]):
                peer = (s[RANK] + turn) % s[SIZE]
                hand_over(s, peers, peer, at + read, s[INPUT] + at + read, n - read)
    elif work == COPY_PARTS:
        if s[REACHES]:
            n = min(length, peers[s[RANK], BYTES] - at)
            for begin in range(at, at + n, s[BLOCK]):  # the caches have it from the second copy on
                for turn in range(s[SIZE]):
                    peer = (s[RANK] + turn) % s[SIZE]
                    if s[TAKER] == EVERYBODY or s[TAKER] == peer:
                        to = peers[s[RANK], START] + begin
                        hand_over(s, peers, peer, to, s[INPUT] + begin, min(s[BLOCK], at + n - begin))
        elif s[TAKES]:
            for turn in range(s[SIZE]):
                peer = (s[RANK] + turn) % s[SIZE]  # everybody begins with another
                n = min(length, peers[peer, BYTES] - at)
                take(s, peers, peer, at, 0, peers[peer, START] + at, n)
    elif work == COPY_PART:
        part = s[RANK]
        n = min(length, peers[part, BYTES] - at)
        take(s, peers, s[GIVER], peers[part, START] + at, part * length, at, n)
    elif work == EXCHANGE:
        for turn in range(s[SIZE]):
            peer = (s[RANK] + turn) % s[SIZE]
            n = min(length, peers[peer, BYTES] - at)
            if s[REACHES]:
                n = min(length, peers[peer, GIVEN_BYTES] - at)
                hand_over(s, peers, peer, peers[peer, TO] + at, s[INPUT] + peers[peer, GIVEN_AT] + at, n)
            elif peer != s[RANK]:
                take(s, peers, peer, peers[peer, FROM] + at, s[RANK] * length, peers[peer, START] + at, n)
            elif n > 0:
                deliver(s, s[OUTPUT] + peers[peer, START] + at, s[INPUT] + peers[peer, GIVEN_AT] + at, n)


@njit
def collect(s):
    """Copy the folded shares of all."""
    at = s[CHUNK] * s[CHUNK_BYTES]
    nbytes = min(s[CHUNK_BYTES], s[NBYTES] - at)
    for peer in range(s[SIZE]):
        begin, end = share_of(s, nbytes, peer)
        if end > begin:
            deliver(s, s[OUTPUT] + at + begin, buffer_of(s, peer) + s[SHARE], end - begin)
