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

from hpcml.collectives.atomics import add, exchange_if_equal, load_acquire, store_release
from hpcml.collectives.giving_way import LONGEST_NAP, LOOK_MICROSECONDS, give_way, nap_for
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
    NAP_PER_MEBIBYTE,  # of the message that is waited for, microseconds, and what limits it
    NAP_LONGEST,
    FOLD_KERNEL,
    FINISH_KERNEL,
    RANKS,
    QUEUE,  # address of how many plans of a `queue` have let the next begin; 0: it is in none
    TURN,  # it begins once these are so many
    LETS,  # after so many rows it lets the next begin
    BUFFERS,  # addresses of INPUT, OUTPUT, SCRATCH: three entries
) = range(27)
STATE = BUFFERS + 3

DONE, STALLED = 0, -1  # what `run` returns; an MPI error code otherwise

POST_ONLY = -1  # patience with which nothing is waited for: messages are posted up to the first wait

# The board: what `progress` is told, one int64 each. Then come the places for plans.
# DRIVEN: 0, or microseconds that the thread may sleep at a time, as one that waits goes round the plans itself.
STOP, USED, BOARD_YIELD, BOARD_SLEEP, DRIVEN, HEADER = range(6)
# A place for a plan. Whoever holds LOCK may run the plan, or take it away.
LOCK, PLAN, RESULT, PLACE = range(4)
PLACES = 1024
BOARD = HEADER + PLACES * PLACE

STOPPED, IDLE = 1, 0  # what `progress` returns
EAGER_ROUNDS = 100  # fruitless rounds before the thread sleeps between two: the cores are for those who compute
LINGER_ROUNDS = 1000  # rounds with nothing under way before it returns
SLEEP_MICROSECONDS = 20
DRIVEN_SLEEP = 100  # while another goes round, where no longer naps are called for
NOTHING, MOVED = -1, -2  # of a visit


@njit(inline="always")
def _post(state, function, buffer, row):
    count, peer, tag = np.int32(row[COUNT]), np.int32(row[PEER]), np.int32(state[TAG])
    request = state[REQUESTS] + row[SLOT] * state[HANDLE_BYTES]
    if state[HANDLE_BYTES] == 8:
        return np.int64(call(function, (buffer, count, state[BYTE], peer, tag, state[COMM], request)))
    byte, comm = np.int32(state[BYTE]), np.int32(state[COMM])
    return np.int64(call(function, (buffer, count, byte, peer, tag, comm, request)))


@njit(inline="always")
def _wait(state, request, nbytes, patience):
    if patience < 0:
        return np.int64(STALLED)
    flag = carray(int64_at(state[FLAG]), 1)
    flag[0] = 0
    polls = slept = 0
    while True:
        error = np.int64(call(state[TEST], (request, state[FLAG], state[STATUS])))
        if error != 0:
            return error
        if flag[0] != 0:
            return np.int64(DONE)
        polls += 1
        if polls + slept > patience:
            return np.int64(STALLED)
        nap = nap_for(nbytes, slept + LOOK_MICROSECONDS * polls, state[NAP_PER_MEBIBYTE], state[NAP_LONGEST])
        if nap > 0:
            call(state[NAP], (np.uint32(nap),))
            slept += nap
        elif polls > state[SPINS]:
            give_way(polls, state[POLLS_PER_NAP], state[YIELD], state[NAP])


@njit(inline="always")
def _waits_its_turn(state):
    return state[NEXT] == 0 and state[QUEUE] != 0 and load_acquire(state[QUEUE]) < state[TURN]


@njit("int64(int64, int64)", nogil=True, cache=True)
def run(address, patience):
    """Walk the plan whose state is at ``address``; give up for now after ``patience`` polls without a message.

    A microsecond of a nap counts as a poll.

    Returns `DONE`, `STALLED` (call again), or the code of the MPI call that failed, at row ``state[NEXT]``.
    """
    state = carray(int64_at(address), STATE)
    if _waits_its_turn(state):
        return STALLED
    rows = carray(int64_at(state[ROWS]), (state[ROW_COUNT], COLUMNS))
    buffers = state[BUFFERS:]
    handle = state[HANDLE_BYTES]
    at = state[NEXT]
    while at < rows.shape[0]:
        row = rows[at]
        code = row[CODE]
        if code == WAIT:
            error = _wait(state, state[REQUESTS] + row[SLOT] * handle, row[COUNT], patience)
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
        if at == state[LETS]:
            add(state[QUEUE], 1)
    state[NEXT] = 0
    return DONE


@njit(inline="always")
def _visit(place, waited):
    """Run the plan at that place of the board a little. `MOVED`, `NOTHING` to run, or microseconds to leave it alone.

    waited: microseconds since any plan got on.
    """
    if load_acquire(place + 8 * PLAN) == 0:
        return NOTHING
    if not exchange_if_equal(place + 8 * LOCK, 0, 1):
        return 0
    outcome = NOTHING
    words = carray(int64_at(place), PLACE)
    if words[PLAN] != 0 and words[RESULT] == STALLED:
        state = carray(int64_at(words[PLAN]), STATE)
        before, turn = state[NEXT], not _waits_its_turn(state)
        words[RESULT] = run(words[PLAN], 0)
        if words[RESULT] != STALLED or state[NEXT] != before:
            outcome = MOVED
        elif not turn:
            outcome = 0
        else:
            row = carray(int64_at(state[ROWS] + 8 * COLUMNS * before), COLUMNS)
            outcome = nap_for(row[COUNT], waited, state[NAP_PER_MEBIBYTE], state[NAP_LONGEST])
    store_release(place + 8 * LOCK, 0)
    return outcome


@njit(inline="always")
def _round(address, waited):
    """Visit all plans on the board; what `_visit` says of them together: they share the links, so naps add up."""
    nap, found, moved = 0, False, False
    for number in range(load_acquire(address + 8 * USED)):
        outcome = _visit(address + 8 * (HEADER + number * PLACE), waited)
        found |= outcome != NOTHING
        moved |= outcome == MOVED
        nap += max(outcome, 0)
    return MOVED if moved else min(nap, LONGEST_NAP) if found else NOTHING


@njit("int64(int64)", nogil=True, cache=True)
def progress(address):
    """Go round the plans on the board at ``address``; return `IDLE` when there are none for a while, or `STOPPED`."""
    board = carray(int64_at(address), BOARD)
    fruitless = empty = slept = 0
    while load_acquire(address + 8 * STOP) == 0:
        driven = load_acquire(address + 8 * DRIVEN)
        if driven > 0:
            call(board[BOARD_SLEEP], (np.uint32(driven),))
            continue
        outcome = _round(address, slept + LOOK_MICROSECONDS * fruitless)
        empty = empty + 1 if outcome == NOTHING else 0
        if outcome == MOVED:
            fruitless = slept = 0
            continue
        fruitless += 1
        if empty > LINGER_ROUNDS:
            return IDLE
        if outcome > 0:
            call(board[BOARD_SLEEP], (np.uint32(outcome),))
            slept += outcome
        elif fruitless > EAGER_ROUNDS:
            call(board[BOARD_SLEEP], (np.uint32(SLEEP_MICROSECONDS + empty // 4),))
        else:
            call(board[BOARD_YIELD], ())
    return STOPPED


@njit("boolean(int64, int64, int64)", nogil=True, cache=True)
def drive(address, place, patience):
    """Go round the plans on the board, as `progress`, which rests meanwhile, until the one at ``place`` is complete.

    Gives up for now after ``patience`` fruitless rounds, where a microsecond of a nap counts as a round. Returns
    whether it is complete, or has failed.
    """
    board, words = carray(int64_at(address), BOARD), carray(int64_at(place), PLACE)
    state = carray(int64_at(words[PLAN]), STATE)
    store_release(address + 8 * DRIVEN, max(DRIVEN_SLEEP, min(LONGEST_NAP, 4 * state[NAP_LONGEST])))
    rounds = slept = 0  # since a plan got on
    patience = np.int64(patience)
    while load_acquire(place + 8 * RESULT) == STALLED and patience > 0:
        outcome = _round(address, slept + LOOK_MICROSECONDS * rounds)
        if outcome == MOVED:
            rounds = slept = 0
            continue
        rounds += 1
        patience -= 1
        if outcome > 0:
            call(board[BOARD_SLEEP], (np.uint32(outcome),))
            slept += outcome
            patience -= outcome
        elif rounds > state[SPINS]:
            give_way(rounds, state[POLLS_PER_NAP], state[YIELD], state[NAP])
    store_release(address + 8 * DRIVEN, 0)
    return load_acquire(place + 8 * RESULT) != STALLED


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
