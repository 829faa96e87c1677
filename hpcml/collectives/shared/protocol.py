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

import numpy as np
from numba import carray, njit

from hpcml.collectives.atomics import load_acquire, store_release
from hpcml.collectives.giving_way import give_way
from hpcml.collectives.native_call import call, data_of, int64_at
from hpcml.collectives.shared.single_copy import transfer
from hpcml.collectives.shared.streaming import stream

# The state of a program, one int64 each.
(
    PHASE,  # where to go on
    EPOCH,  # number of the last epoch begun
    CHUNK,
    PEER,  # the rank whose flag is waited for
    TOLD,  # whether the places of all are known
    FREE,  # whether every giver's input is read where it is: then chunks need no epochs
    DIRECT,  # whether all fold straight into the others' memory: MAPPED, or PRIVATE (then blocks are handed over)
    OPEN,  # whether some rank's memory is in use by others, who say when they are done
    HOLDS,  # whether this rank's part is as long as the others take it to be
    CHANGED,  # 1 + a rank whose part was not (then nothing was moved), or that could not do its part; or 0
    FAILED,  # 1 + the rank whose memory could not be reached, or 0
    WORK,  # what to do with a chunk: see below
    RANK,
    SIZE,
    GIVER,  # the only rank with an input, or EVERYBODY
    GIVES,  # whether this rank has an input
    TAKER,  # the only rank that gets a result, or EVERYBODY
    TAKES,  # whether this rank does
    FIRST,  # the ranks whose arrival it waits for: FIRST … LAST - 1
    LAST,
    NBYTES,  # of the array, where all have one of the same size
    CHUNK_BYTES,  # of the array, or of one rank's part
    CHUNKS,
    STREAMS,  # whether results are too large for the caches
    REACHES,  # whether ranks work on each other's private memory
    BLOCK,  # bytes folded at a time, where the system fetches them
    SCRATCH,  # address of so many bytes
    FETCHED,  # and of as many, for what comes from another's memory
    UNIT,  # shares of a chunk are multiples of so many bytes
    ITEM,  # bytes of an item
    TELLS,  # whether places are told: not where data are so few that they go with the flag
    FINDS,  # whether they have to be found for that
    BOUNDS,  # address of two words: own segments lie between these
    FOLDS,  # whether whole arrays are folded, so that each rank could do a share for all
    INPUT,  # addresses
    OUTPUT,
    IN_SEGMENT,  # number of the segment that the input lies in (0: none), and where
    IN_OFFSET,
    OUT_SEGMENT,
    OUT_OFFSET,
    IN_PLACE,
    OVERWRITES,  # whether the output may be the input
    AREAS,  # address of the room
    AREA_BYTES,
    BUFFER_BYTES,
    SLOT,  # where in a buffer the data are
    SHARE,  # and where the folded share
    PEERS,  # address of the table of ranks
    DIRECTORY,  # address and rows of the table of segments: number, address
    SEGMENTS,
    SPINS,  # polls before the processor is offered to others
    POLLS_PER_NAP,  # 0: no naps
    MEMMOVE,
    YIELD,
    NAP,
    FOLD_KERNEL,
    FINISH_KERNEL,
    READ,  # process_vm_readv
    WRITE,
    VECTORS,  # address of four words, which they take
) = range(60)
STATE = VECTORS + 1

# The table of ranks: its part in the whole array (what comes from it, in the output of an exchange); its memory, as
# this rank sees it; of an exchange, what this rank gives to it, where in its input lies what this one gets, and where
# in its output goes what this one gives; its process, and its memory, as it sees it.
START, BYTES, IN_AT, OUT_AT, GIVEN_AT, GIVEN_BYTES, FROM, TO, PROCESS, ITS_IN, ITS_OUT = range(11)
COLUMNS = 11

# What is done with a chunk.
(
    NOTHING,
    FOLD_ALL,  # everybody who takes folds all of it
    FOLD_SHARES,  # everybody folds a share of it, and those who take collect the shares
    FOLD_PARTS,  # everybody folds its part
    COPY_ALL,  # the giver's
    COPY_PARTS,  # everybody's part
    COPY_PART,  # one's part from the giver
    EXCHANGE,  # from everybody what it has for this rank
) = range(8)

ENTER, ARRIVALS, DECIDE, WORKING, SHARES, NEXT, LEAVE = range(7)  # phases

EVERYBODY = -1
MAPPED, PRIVATE = 1, 2
# What `run` returns. LOST: a peer named a segment that is not known here; REFUSED: its memory cannot be reached;
# HINDERED: it could not reach another's.
DONE, STALLED, LOST, REFUSED, HINDERED = 0, -1, -2, -3, -4
UNPLACED = -5  # what `begin` returns where an array may lie in a segment, which is to be found; then call `run`

# An area: flags SHARED and DONE_WITH in a line of their own, then the buffers. A buffer: the arrival flag and, in the
# same cache line, the place of the input, or data that fit; then slot and share.
SHARED, DONE_WITH = 0, 8
HEADER = 128  # bytes; caches fetch lines by twos
LINE = 64
NEAR = 16 << 10  # bytes folded at a time, so that they stay in the nearest cache
WORDS = 8  # in that line: the flag, and the place
OTHERWISE = 1 << 62  # in a flag, beside the number of the epoch. Arrival: the rank's part is of another length; done
# with: it could not reach all the memory that it was to
BESIDE_FLAG = 8  # where few data are: in the flag's cache line


@njit
def _buffer(s, rank):
    """Address of that rank's buffer of this epoch."""
    return s[AREAS] + rank * s[AREA_BYTES] + HEADER + (s[EPOCH] & 1) * s[BUFFER_BYTES]


@njit
def _wait(s, last, which, patience):
    """Whether all ranks before ``last`` have raised a flag to this epoch: SHARED, DONE_WITH, or arrival (< 0)."""
    polls = 0
    while s[PEER] < last:
        peer = s[PEER]
        place = _buffer(s, peer) if which < 0 else s[AREAS] + peer * s[AREA_BYTES] + which
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
def _raise(s, flag):
    store_release(s[AREAS] + s[RANK] * s[AREA_BYTES] + flag, s[EPOCH] | OTHERWISE if s[FAILED] else s[EPOCH])


@njit
def _share(s, nbytes, rank):
    """The share of that rank in ``nbytes``: where it begins and ends. Shares are even, and of whole cache lines."""
    width = -(-nbytes // (s[SIZE] * s[UNIT])) * s[UNIT]
    return min(rank * width, nbytes), min((rank + 1) * width, nbytes)


@njit
def _enter(s, peers):
    """Begin an epoch: give the chunk, and the place where the input lies."""
    s[EPOCH] += 1
    buffer = _buffer(s, s[RANK])
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
            begin, end = _share(s, n, s[RANK])
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
def _decide(s, peers):
    """All places are told: where to read, and which way to go. False if one is unknown."""
    inputs = outputs = givers = held_back = 0  # in segments
    for peer in range(s[FIRST], s[LAST]):
        words = carray(int64_at(_buffer(s, peer)), WORDS)
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


@njit
def _source(s, peers, rank, at, within):
    """Where to read that rank's input from byte ``at`` on, which is at ``within`` in the slot of this epoch."""
    if peers[rank, IN_AT]:
        return peers[rank, IN_AT] + at
    if rank == s[RANK] and s[WORK] == FOLD_SHARES:
        return s[INPUT] + at
    return _buffer(s, rank) + s[SLOT] + within


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
def _hand_over(s, peers, rank, at, src, nbytes):
    """Copy to that rank's output from byte ``at`` on."""
    if nbytes <= 0:
        return
    if rank == s[RANK] and s[DIRECT] != MAPPED:  # there its lines were read just now
        _deliver(s, s[OUTPUT] + at, src, nbytes)
    elif peers[rank, OUT_AT]:
        call(s[MEMMOVE], (peers[rank, OUT_AT] + at, src, nbytes))
    elif not transfer(s[WRITE], s[VECTORS], peers[rank, PROCESS], src, peers[rank, ITS_OUT] + at, nbytes):
        s[FAILED] = 1 + rank


@njit
def _take(s, peers, rank, at, within, to, nbytes):
    """Copy from that rank's input, from byte ``at`` on, to this rank's output from byte ``to`` on."""
    if nbytes <= 0:
        return
    if _far(s, peers, rank):
        _read(s, peers, rank, at, s[OUTPUT] + to, nbytes)
    else:
        _deliver(s, s[OUTPUT] + to, _source(s, peers, rank, at, within), nbytes)


@njit
def _operand(s, peers, rank, at, within, nbytes, scratch):
    """As `_source`, in this rank's own memory: at ``scratch`` if need be."""
    if not _far(s, peers, rank):
        return _source(s, peers, rank, at, within)
    _read(s, peers, rank, at, scratch, nbytes)
    return scratch


@njit
def _block(s):
    """How many bytes are folded at a time."""
    return (s[BLOCK] if s[REACHES] and s[DIRECT] != MAPPED else NEAR) // s[UNIT] * s[UNIT]


@njit
def _fold(s, peers, dst, at, within, nbytes):
    """All ranks' inputs from byte ``at`` on, folded into ``dst``."""
    block = _block(s)
    for begin in range(0, nbytes, block):
        n = min(block, nbytes - begin)
        _fold_block(s, peers, dst + begin, at + begin, within + begin, n)


@njit
def _fold_out(s, peers, dst, at, within, nbytes):
    """As `_fold`, into this rank's output."""
    if not s[STREAMS] or s[IN_PLACE]:  # in place, its lines were read just now
        _fold(s, peers, dst, at, within, nbytes)
        return
    block = _block(s)
    for begin in range(0, nbytes, block):
        n = min(block, nbytes - begin)
        _fold_block(s, peers, s[SCRATCH], at + begin, within + begin, n)
        stream(dst + begin, s[SCRATCH], n, s[MEMMOVE])


@njit
def _fold_block(s, peers, dst, at, within, nbytes):
    items = nbytes // s[ITEM]
    a = _operand(s, peers, 0, at, within, nbytes, dst)
    if s[SIZE] == 1:
        call(s[MEMMOVE], (dst, a, nbytes))
    else:
        b = _operand(s, peers, 1, at, within, nbytes, s[FETCHED])
        call(s[FOLD_KERNEL], (dst, a, b, items, np.int64(dst == a)))
    for peer in range(2, s[SIZE]):
        b = _operand(s, peers, peer, at, within, nbytes, s[FETCHED])
        call(s[FOLD_KERNEL], (dst, dst, b, items, np.int64(1)))
    if s[FINISH_KERNEL]:
        call(s[FINISH_KERNEL], (dst, dst, items, s[SIZE]))


@njit
def _work_directly(s, peers):
    """Fold one's share of the items from all inputs into all outputs, block by block."""
    begin, end = _share(s, s[NBYTES], s[RANK])
    block = _block(s)
    first = -1  # whose output the folded items are in, before they are handed to the others
    if s[DIRECT] == MAPPED:
        first = 0
    elif s[TAKES] and not s[IN_PLACE] and not s[STREAMS]:
        first = s[RANK]
    for at in range(begin, end, block):
        n = min(block, end - at)
        dst = s[SCRATCH] if first < 0 else s[OUTPUT] + at if first == s[RANK] else peers[first, OUT_AT] + at
        _fold_block(s, peers, dst, at, 0, n)
        for peer in range(s[SIZE]):
            if peer != first and (s[TAKER] == EVERYBODY or s[TAKER] == peer):
                _hand_over(s, peers, peer, at, dst, n)


@njit
def _deliver(s, dst, src, nbytes):
    """Copy to this rank's output."""
    if s[STREAMS]:
        stream(dst, src, nbytes, s[MEMMOVE])
    else:
        call(s[MEMMOVE], (dst, src, nbytes))


@njit
def _work(s, peers):
    """Take from a chunk what this rank is to have of it."""
    work, length = s[WORK], s[CHUNK_BYTES]
    at = s[CHUNK] * length
    if work == FOLD_ALL:
        if s[TAKES]:
            _fold_out(s, peers, s[OUTPUT] + at, at, 0, min(length, s[NBYTES] - at))
    elif work == FOLD_SHARES:
        begin, end = _share(s, min(length, s[NBYTES] - at), s[RANK])
        _fold(s, peers, _buffer(s, s[RANK]) + s[SHARE], at + begin, begin, end - begin)
    elif work == FOLD_PARTS:
        part = s[RANK]
        n = min(length, peers[part, BYTES] - at)
        _fold_out(s, peers, s[OUTPUT] + at, peers[part, START] + at, part * length, n)
    elif work == COPY_ALL:
        n = min(length, s[NBYTES] - at)
        read = n * (s[SIZE] - 1) // s[SIZE] // LINE * LINE if s[REACHES] else n  # the rest is written by the root
        if s[RANK] != s[GIVER]:
            _take(s, peers, s[GIVER], at, 0, at, read)
        elif s[REACHES]:
            for turn in range(1, s[SIZE]):
                peer = (s[RANK] + turn) % s[SIZE]
                _hand_over(s, peers, peer, at + read, s[INPUT] + at + read, n - read)
    elif work == COPY_PARTS:
        if s[REACHES]:
            n = min(length, peers[s[RANK], BYTES] - at)
            for begin in range(at, at + n, s[BLOCK]):  # the caches have it from the second copy on
                for turn in range(s[SIZE]):
                    peer = (s[RANK] + turn) % s[SIZE]
                    if s[TAKER] == EVERYBODY or s[TAKER] == peer:
                        to = peers[s[RANK], START] + begin
                        _hand_over(s, peers, peer, to, s[INPUT] + begin, min(s[BLOCK], at + n - begin))
        elif s[TAKES]:
            for turn in range(s[SIZE]):
                peer = (s[RANK] + turn) % s[SIZE]  # everybody begins with another
                n = min(length, peers[peer, BYTES] - at)
                _take(s, peers, peer, at, 0, peers[peer, START] + at, n)
    elif work == COPY_PART:
        part = s[RANK]
        n = min(length, peers[part, BYTES] - at)
        _take(s, peers, s[GIVER], peers[part, START] + at, part * length, at, n)
    elif work == EXCHANGE:
        for turn in range(s[SIZE]):
            peer = (s[RANK] + turn) % s[SIZE]
            n = min(length, peers[peer, BYTES] - at)
            if s[REACHES]:
                n = min(length, peers[peer, GIVEN_BYTES] - at)
                _hand_over(s, peers, peer, peers[peer, TO] + at, s[INPUT] + peers[peer, GIVEN_AT] + at, n)
            elif peer != s[RANK]:
                _take(s, peers, peer, peers[peer, FROM] + at, s[RANK] * length, peers[peer, START] + at, n)
            elif n > 0:
                _deliver(s, s[OUTPUT] + peers[peer, START] + at, s[INPUT] + peers[peer, GIVEN_AT] + at, n)


@njit
def _collect(s):
    """Copy the folded shares of all."""
    at = s[CHUNK] * s[CHUNK_BYTES]
    nbytes = min(s[CHUNK_BYTES], s[NBYTES] - at)
    for peer in range(s[SIZE]):
        begin, end = _share(s, nbytes, peer)
        if end > begin:
            _deliver(s, s[OUTPUT] + at + begin, _buffer(s, peer) + s[SHARE], end - begin)


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
            _enter(s, peers)
            s[PEER] = s[FIRST]
            s[PHASE] = ARRIVALS
        elif phase == ARRIVALS:
            if not _wait(s, s[LAST], -1, patience):
                return STALLED
            s[PHASE] = LEAVE if s[CHANGED] else DECIDE if s[TELLS] and not s[TOLD] else WORKING
        elif phase == DECIDE:
            if not _decide(s, peers):
                return LOST
            s[PHASE] = NEXT if s[CHUNK] < 0 else WORKING
        elif phase == WORKING:
            s[PHASE] = NEXT
            if s[DIRECT]:
                _work_directly(s, peers)
                s[CHUNK] = s[CHUNKS]
            else:
                _work(s, peers)
                if s[WORK] == FOLD_SHARES:
                    _raise(s, SHARED)
                    s[PEER] = 0
                    s[PHASE] = SHARES
            if s[FAILED]:
                s[CHUNK] = s[CHUNKS]  # to the end, where the others learn of it
        elif phase == SHARES:
            if s[TAKES]:
                if not _wait(s, s[SIZE], SHARED, patience):
                    return STALLED
                _collect(s)
            s[PHASE] = NEXT
        elif phase == NEXT:
            s[CHUNK] += 1
            s[PEER] = s[FIRST]
            if s[CHUNK] >= s[CHUNKS]:
                if s[OPEN]:
                    _raise(s, DONE_WITH)
                s[PEER] = 0 if s[REACHES] else s[FIRST]
                s[PHASE] = LEAVE
            else:
                s[PHASE] = WORKING if s[FREE] else ENTER
        else:
            lent = s[DIRECT] or s[REACHES] or (s[GIVES] and peers[s[RANK], IN_AT] != 0)
            if s[OPEN] and lent and not _wait(s, s[SIZE] if s[REACHES] else s[LAST], DONE_WITH, patience):
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
