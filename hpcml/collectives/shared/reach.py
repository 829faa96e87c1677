"""Reading another rank's input, and writing to its output: in slots, in segments, or by the system."""

from __future__ import annotations

from numba import njit

from hpcml.collectives.native_call import call
from hpcml.collectives.shared.flags import buffer_of
from hpcml.collectives.shared.single_copy import transfer
from hpcml.collectives.shared.state import (
    DIRECT,
    FAILED,
    FOLD_SHARES,
    IN_AT,
    INPUT,
    ITS_IN,
    ITS_OUT,
    MAPPED,
    MEMMOVE,
    OUT_AT,
    OUTPUT,
    PROCESS,
    RANK,
    REACHES,
    READ,
    SLOT,
    STREAMS,
    VECTORS,
    WORK,
    WRITE,
)
from hpcml.collectives.shared.streaming import stream


@njit
def source(s, peers, rank, at, within):
    """Where to read that rank's input from byte ``at`` on, which is at ``within`` in the slot of this epoch."""
    if peers[rank, IN_AT]:
        return peers[rank, IN_AT] + at
    if rank == s[RANK] and s[WORK] == FOLD_SHARES:
        return s[INPUT] + at
    return buffer_of(s, rank) + s[SLOT] + within


@njit
def _far(s, peers, rank):
    """Whether that rank's input can only be read by the system."""
    return s[REACHES] and peers[rank, IN_AT] == 0


@njit
def _read(s, peers, rank, at, dst, nbytes):
    """Copy from that rank's input, which is far."""
    if nbytes > 0 and not transfer(s[READ], s[VECTORS], peers[rank, PROCESS], dst, peers[rank, ITS_IN] + at, nbytes):
        s[FAILED] = 1 + rank


@njit
def hand_over(s, peers, rank, at, src, nbytes):
    """Copy to that rank's output from byte ``at`` on."""
    if nbytes <= 0:
        return
    if rank == s[RANK] and s[DIRECT] != MAPPED:  # there its lines were read just now
        deliver(s, s[OUTPUT] + at, src, nbytes)
    elif peers[rank, OUT_AT]:
        call(s[MEMMOVE], (peers[rank, OUT_AT] + at, src, nbytes))
    elif not transfer(s[WRITE], s[VECTORS], peers[rank, PROCESS], src, peers[rank, ITS_OUT] + at, nbytes):
        s[FAILED] = 1 + rank


@njit
def take(s, peers, rank, at, within, to, nbytes):
    """Copy from that rank's input, from byte ``at`` on, to this rank's output from byte ``to`` on."""
    if nbytes <= 0:
        return
    if _far(s, peers, rank):
        _read(s, peers, rank, at, s[OUTPUT] + to, nbytes)
    else:
        deliver(s, s[OUTPUT] + to, source(s, peers, rank, at, within), nbytes)


@njit
def operand(s, peers, rank, at, within, nbytes, scratch):
    """As `source`, in this rank's own memory: at ``scratch`` if need be."""
    if not _far(s, peers, rank):
        return source(s, peers, rank, at, within)
    _read(s, peers, rank, at, scratch, nbytes)
    return scratch


@njit
def deliver(s, dst, src, nbytes):
    """Copy to this rank's output."""
    if s[STREAMS]:
        stream(dst, src, nbytes, s[MEMMOVE])
    else:
        call(s[MEMMOVE], (dst, src, nbytes))
