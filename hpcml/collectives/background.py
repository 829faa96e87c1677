"""The thread that drives collectives while the caller computes.

One thread a process, started when it is first needed, goes round all plans that are under way in the engine, without
the GIL. It sleeps between fruitless rounds, and for good while there is nothing to do. Where the MPI library does not
allow calls from several threads there is no thread, and what is under way gets on when it is tested or waited for.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import numpy as np
from mpi4py import MPI

from hpcml.collectives import engine as e
from hpcml.collectives.native_call import libc_address, undispatched

FULL = -1


class Background:
    """The thread, and the board on which it finds its work."""

    def __init__(self) -> None:
        self._board = np.zeros(e.BOARD, np.int64)
        self._board[e.BOARD_YIELD], self._board[e.BOARD_SLEEP] = libc_address("sched_yield"), libc_address("usleep")
        self._address = self._board.ctypes.data
        self._drive: Callable[[int, int, int], bool] = undispatched(e.drive)
        self._free = list(range(e.PLACES - 1, -1, -1))
        self._parked = False
        self._stopped = False
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="hpcml", daemon=True)
        self._thread.start()

    def hand_over(self, state: int) -> int:
        """Let the thread drive the plan whose state is at that address; return its place, `FULL` if there is none."""
        if self._stopped or not self._free:
            return FULL
        with self._lock:  # the stepper hands over plans, too
            place = self._free.pop()
            e.hand_over(self._place(place), state)
            self._board[e.USED] = max(self._board[e.USED], place + 1)
        if self._parked:
            self._wake.set()
        return place

    def is_complete(self, place: int) -> bool:
        """Whether the plan at that place is done, or has failed."""
        return bool(self._board[e.HEADER + place * e.PLACE + e.RESULT] != e.STALLED)

    def drive(self, place: int, patience: int) -> bool:
        """Do the thread's work until the plan at that place is done, or for so many fruitless rounds; whether it is."""
        return self._drive(self._address, self._place(place), patience)

    def take_back(self, place: int) -> int:
        """How far the plan is, as `engine.run` says it; from now on the caller drives it."""
        result = e.take_back(self._address, self._place(place))
        self._free.append(place)
        return result

    def stop(self) -> None:
        """End the thread. What is still under way gets on when it is waited for."""
        self._stopped = True
        self._board[e.STOP] = 1
        self._wake.set()
        self._thread.join()

    def _place(self, place: int) -> int:
        return self._address + 8 * (e.HEADER + place * e.PLACE)

    def _run(self) -> None:
        while e.progress(self._address) != e.STOPPED:
            self._parked = True
            # Whoever handed over a plan before the line above did not wake this thread.
            if not self._board[e.HEADER + e.PLAN :: e.PLACE].any():
                self._wake.wait()
            self._wake.clear()
            self._parked = False


@functools.cache
def background() -> Background | None:
    """The process's own, started at the first call; None where MPI may not be called from two threads at once."""
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        return None
    return Background()


def stop_background() -> None:
    """End the thread, if there is one: MPI is about to be finalized."""
    if background.cache_info().currsize and (thread := background()) is not None:
        thread.stop()
