"""The words of which the compiled part of "shared" (see `protocol`) keeps its state, and how a room is laid out."""

from __future__ import annotations

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
