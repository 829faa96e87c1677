"""The engine: one compiled function that walks a table of steps and calls the MPI library directly.

It holds no GIL, allocates nothing, and serves any data type, any op and any MPI library: what differs is data in the
plan's *state*, an int64 vector. Where a message does not arrive for a while it returns, so that Python can look around
(signals, a watchdog), and it goes on where it stopped when it is called again.

`progress` is what a thread of its own runs: it goes round the plans that are under way in the background, which it
finds on a *board*.
"""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from hpcml.collectives.atomics import exchange_if_equal, load_acquire, store_release
from hpcml.collectives.giving_way import give_way
from hpcml.collectives.native_call import call, int64_at
from hpcml.collectives.table import (
    A_AT,
    B_AT,
    CODE,
    COLUMNS,
    COPY,
    COUNT,
    DST,
    DST_AT,
    FINISH,
    FOLD,
    PEER,
    RECV,
    SEND,
    SLOT,
    WAIT,
    A,
    B,
)

# The state of a plan, one int64 each.
(
    NEXT,  # the row to go on with
    ROWS,  # address of the rows
    ROW_COUNT,
    REQUESTS,  # address of the MPI requests, one a slot
    HANDLE_BYTES,  # size of an MPI handle: 4 (MPICH) or 8 (Open MPI, the MPI ABI)
    COMM,
    BYTE,  # handle of MPI_BYTE
    TAG,
    FLAG,  # address of an int for MPI_Test, and of a status
    STATUS,
    ISEND,  # addresses of functions
    IRECV,
    TEST,
    MEMMOVE,
    YIELD,
    NAP,
    SPINS,  # polls before the processor is offered to others
    POLLS_PER_NAP,  # 0: no naps
    FOLD_KERNEL,
    FINISH_KERNEL,
    RANKS,
    BUFFERS,  # addresses of INPUT, OUTPUT, SCRATCH: three entries
) = range(22)
STATE = BUFFERS + 3

DONE, STALLED = 0, -1  # what `run` returns; an MPI error code otherwise

POST_ONLY = -1  # patience with which nothing is waited for: messages are posted up to the first wait

# The board: what `progress` is told, one int64 each. Then come the places for plans.
STOP, USED, BOARD_YIELD, BOARD_SLEEP, HEADER = range(5)
# A place for a plan. Whoever holds LOCK may run the plan, or take it away.
LOCK, PLAN, RESULT, PLACE = range(4)
PLACES = 1024
BOARD = HEADER + PLACES * PLACE

STOPPED, IDLE = 1, 0  # what `progress` returns
EAGER_ROUNDS = 100  # fruitless rounds before the thread sleeps between two: the cores are for those who compute
LINGER_ROUNDS = 2000  # rounds with nothing under way before it returns
SLEEP_MICROSECONDS = 20


@njit(inline="always")
def _post(state, function, buffer, row):
    count, peer, tag = np.int32(row[COUNT]), np.int32(row[PEER]), np.int32(state[TAG])
    request = state[REQUESTS] + row[SLOT] * state[HANDLE_BYTES]
    if state[HANDLE_BYTES] == 8:
        return np.int64(call(function, (buffer, count, state[BYTE], peer, tag, state[COMM], request)))
    byte, comm = np.int32(state[BYTE]), np.int32(state[COMM])
    return np.int64(call(function, (buffer, count, byte, peer, tag, comm, request)))


@njit(inline="always")
def _wait(state, request, patience):
    if patience < 0:
        return np.int64(STALLED)
    flag = carray(int64_at(state[FLAG]), 1)
    flag[0] = 0
    polls = 0
    while True:
        error = np.int64(call(state[TEST], (request, state[FLAG], state[STATUS])))
        if error != 0:
            return error
        if flag[0] != 0:
            return np.int64(DONE)
        polls += 1
        if polls > patience:
            return np.int64(STALLED)
        if polls > state[SPINS]:
            give_way(polls, state[POLLS_PER_NAP], state[YIELD], state[NAP])


@njit("int64(int64, int64)", nogil=True, cache=True)
def run(address, patience):
    """Walk the plan whose state is at ``address``; give up for now after ``patience`` polls without a message.

    Returns `DONE`, `STALLED` (call again), or the code of the MPI call that failed, at row ``state[NEXT]``.
    """
    state = carray(int64_at(address), STATE)
    rows = carray(int64_at(state[ROWS]), (state[ROW_COUNT], COLUMNS))
    buffers = state[BUFFERS:]
    handle = state[HANDLE_BYTES]
    at = state[NEXT]
    while at < rows.shape[0]:
        row = rows[at]
        code = row[CODE]
        if code == WAIT:
            error = _wait(state, state[REQUESTS] + row[SLOT] * handle, patience)
        elif code == SEND:
            error = _post(state, state[ISEND], buffers[row[A]] + row[A_AT], row)
        elif code == RECV:
            error = _post(state, state[IRECV], buffers[row[DST]] + row[DST_AT], row)
        else:
            dst, a = buffers[row[DST]] + row[DST_AT], buffers[row[A]] + row[A_AT]
            if code == FOLD:
                b = buffers[row[B]] + row[B_AT]
                in_place = np.int64(dst == a) + 2 * np.int64(dst == b)  # as the kernels number their operands
                call(state[FOLD_KERNEL], (dst, a, b, row[COUNT], in_place))
            elif code == FINISH:
                call(state[FINISH_KERNEL], (dst, a, row[COUNT], state[RANKS]))
            elif code == COPY:
                call(state[MEMMOVE], (dst, a, row[COUNT]))
            error = 0
        if error != 0:
            state[NEXT] = at
            return error
        at += 1
    state[NEXT] = 0
    return DONE


@njit(inline="always")
def _visit(place):
    """Run the plan at that place of the board a little. 2: it got on; 1: it did not; 0: there is nothing to run."""
    if load_acquire(place + 8 * PLAN) == 0:
        return 0
    if not exchange_if_equal(place + 8 * LOCK, 0, 1):
        return 1
    outcome = 0
    words = carray(int64_at(place), PLACE)
    if words[PLAN] != 0 and words[RESULT] == STALLED:
        state = carray(int64_at(words[PLAN]), STATE)
        before = state[NEXT]
        words[RESULT] = run(words[PLAN], 0)
        outcome = 2 if words[RESULT] != STALLED or state[NEXT] != before else 1
    store_release(place + 8 * LOCK, 0)
    return outcome


@njit("int64(int64)", nogil=True, cache=True)
def progress(address):
    """Go round the plans on the board at ``address``; return `IDLE` when there are none for a while, or `STOPPED`."""
    board = carray(int64_at(address), BOARD)
    fruitless = empty = 0
    while load_acquire(address + 8 * STOP) == 0:
        found = moved = False
        for number in range(load_acquire(address + 8 * USED)):
            outcome = _visit(address + 8 * (HEADER + number * PLACE))
            found |= outcome > 0
            moved |= outcome > 1
        empty = 0 if found else empty + 1
        fruitless = 0 if moved else fruitless + 1
        if empty > LINGER_ROUNDS:
            return IDLE
        if fruitless > EAGER_ROUNDS:
            call(board[BOARD_SLEEP], (np.uint32(SLEEP_MICROSECONDS),))
        elif not moved:
            call(board[BOARD_YIELD], ())
    return STOPPED


@njit("void(int64, int64)", nogil=True, cache=True)
def hand_over(place, plan):
    """Put a plan, which is not done, on a place of the board that is free."""
    carray(int64_at(place), PLACE)[RESULT] = STALLED
    store_release(place + 8 * PLAN, plan)


@njit("int64(int64, int64)", nogil=True, cache=True)
def take_back(board, place):
    """Take the plan off its place, once nobody runs it; return how far it is, as `run` does."""
    while not exchange_if_equal(place + 8 * LOCK, 0, 1):
        call(carray(int64_at(board), BOARD)[BOARD_YIELD], ())
    words = carray(int64_at(place), PLACE)
    words[PLAN] = 0
    result = words[RESULT]
    store_release(place + 8 * LOCK, 0)
    return result
