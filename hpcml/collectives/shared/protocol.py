"""The compiled part of "shared": one function that takes part in a collective through memory that all ranks map.

Each binding has a *room*: an area per rank with two flags, and two buffers in turn, each with an arrival flag and a
slot for data. Data are cut into chunks. Each chunk is an *epoch*, numbered on through the binding's life: a rank copies
its input to its slot, raises its arrival flag to the epoch's number, waits for the others' flags, and takes what it
needs from their slots. A slot is written again two epochs later. By then all are done with it: they have raised the
next epoch's flag, which they do when they are through with this one's data.

A rank whose input lies in a segment (see `segments`) does not copy: its first flag comes with the place, and the others
read there. It leaves when all have raised their ``DONE`` flag. In an all-reduce where everybody's input and output lie
in segments, each rank folds its share of the items from all inputs straight into all outputs.

Where data are many and the ranks reach each other's private memory (see `single_copy`), nobody copies to a slot: inputs
and outputs are worked on where they are, as those in segments. Each rank folds its share for those who get the result,
and writes its part to them, which it has in its caches; in a broadcast the root writes a share of the data to each of
the others, which meanwhile read the rest.

Folds are in rank order, so that the result has the same bits on every rank whatever the way.

Like the engine's, `run` holds no GIL and comes back where others keep it waiting; it yields the processor, as ranks may
share one.
"""

from __future__ import annotations

from numba import carray, njit

from hpcml.collectives.native_call import data_of, int64_at
from hpcml.collectives.shared.arrival import decide, enter
from hpcml.collectives.shared.flags import raise_flag, wait
from hpcml.collectives.shared.state import (
    ARRIVALS,
    BOUNDS,
    CHANGED,
    CHUNK,
    CHUNKS,
    COLUMNS,
    DECIDE,
    DIRECT,
    DONE,
    DONE_WITH,
    ENTER,
    FAILED,
    FINDS,
    FIRST,
    FOLD_SHARES,
    FREE,
    GIVES,
    HINDERED,
    IN_AT,
    IN_PLACE,
    IN_SEGMENT,
    INPUT,
    LAST,
    LEAVE,
    LOST,
    NEXT,
    OPEN,
    OUT_SEGMENT,
    OUTPUT,
    OVERWRITES,
    PEER,
    PEERS,
    PHASE,
    RANK,
    REACHES,
    REFUSED,
    SHARED,
    SHARES,
    SIZE,
    STALLED,
    STATE,
    TAKES,
    TELLS,
    TOLD,
    UNPLACED,
    WORK,
    WORKING,
)
from hpcml.collectives.shared.work import collect, work_directly, work_on


@njit("int64(int64, int64)", nogil=True, cache=True)
def run(address, patience):
    """Take part in the collective whose state is at ``address``; give up for now after ``patience`` polls of flags.

    Returns `DONE`, `STALLED` (call again; ``state[PEER]`` is waited for), or what is wrong with ``state[PEER]``:
    `LOST`, `REFUSED` or `HINDERED`.
    """
    s = carray(int64_at(address), STATE)
    peers = carray(int64_at(s[PEERS]), (s[SIZE], COLUMNS))
    while True:
        phase = s[PHASE]
        if phase == ENTER:
            if s[CHUNK] == 0:
                s[CHANGED] = 0
            enter(s, peers)
            s[PEER] = s[FIRST]
            s[PHASE] = ARRIVALS
        elif phase == ARRIVALS:
            if not wait(s, s[LAST], -1, patience):
                return STALLED
            s[PHASE] = LEAVE if s[CHANGED] else DECIDE if s[TELLS] and not s[TOLD] else WORKING
        elif phase == DECIDE:
            if not decide(s, peers):
                return LOST
            s[PHASE] = NEXT if s[CHUNK] < 0 else WORKING
        elif phase == WORKING:
            s[PHASE] = NEXT
            if s[DIRECT]:
                work_directly(s, peers)
                s[CHUNK] = s[CHUNKS]
            else:
                work_on(s, peers)
                if s[WORK] == FOLD_SHARES:
                    raise_flag(s, SHARED)
                    s[PEER] = 0
                    s[PHASE] = SHARES
            if s[FAILED]:
                s[CHUNK] = s[CHUNKS]  # to the end, where the others learn of it
        elif phase == SHARES:
            if s[TAKES]:
                if not wait(s, s[SIZE], SHARED, patience):
                    return STALLED
                collect(s)
            s[PHASE] = NEXT
        elif phase == NEXT:
            s[CHUNK] += 1
            s[PEER] = s[FIRST]
            if s[CHUNK] >= s[CHUNKS]:
                if s[OPEN]:
                    raise_flag(s, DONE_WITH)
                s[PEER] = 0 if s[REACHES] else s[FIRST]
                s[PHASE] = LEAVE
            else:
                s[PHASE] = WORKING if s[FREE] else ENTER
        else:
            lent = s[DIRECT] or s[REACHES] or (s[GIVES] and peers[s[RANK], IN_AT] != 0)
            if s[OPEN] and lent and not wait(s, s[SIZE] if s[REACHES] else s[LAST], DONE_WITH, patience):
                return STALLED
            if s[FAILED]:
                s[PEER] = s[FAILED] - 1
                return REFUSED
            if s[OPEN] and s[CHANGED]:
                s[PEER] = s[CHANGED] - 1
                return HINDERED
            s[PHASE], s[CHUNK], s[TOLD], s[FREE], s[DIRECT], s[OPEN] = ENTER, 0, 0, 0, 0, 0
            peers[:, IN_AT] = 0
            return DONE


@njit("int64(int64, int64, int64, int64)", nogil=True, cache=True)
def begin(address, source, target, patience):
    """As `run`, from the start, on NumPy arrays: ``source`` and ``target`` are where these objects are."""
    s = carray(int64_at(address), STATE)
    s[INPUT], s[OUTPUT] = data_of(source), data_of(target)
    s[IN_PLACE] = s[OVERWRITES] and s[INPUT] == s[OUTPUT]
    if s[FINDS]:
        bounds = carray(int64_at(s[BOUNDS]), 2)
        if bounds[0] <= s[INPUT] < bounds[1] or bounds[0] <= s[OUTPUT] < bounds[1]:
            return UNPLACED
        s[IN_SEGMENT] = s[OUT_SEGMENT] = 0
    return run(address, patience)
