"""Memory for large results: on huge pages, and used again once a result is forgotten.

NumPy gives the memory of a large array back to the system as soon as it is freed, and the next one is made of fresh
pages, each of which the system has to clear first: that may take as long as the collective. And NumPy's memory starts
anywhere, so that half of its huge pages may be lost, on which the transports of MPI depend.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict

import numpy as np

HUGE_PAGE = 2 << 20
IDLE_BYTES = 128 << 20  # that are kept for later at most


class Lease:
    """Memory lent to an array, and to all views of it; it comes back when the last of them is gone."""

    def __init__(self, nbytes: int):
        self._pool = _pool()  # kept at hand for the end of the program, when modules are taken apart
        self._memory = self._pool.take(nbytes)
        self._address = self._memory.ctypes.data
        start = -self._address % HUGE_PAGE
        self.__array_interface__ = {
            "version": 3,
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (self._address + start, False),
        }

    def __del__(self) -> None:
        if hasattr(self, "_memory"):
            self._pool.give_back(self._memory, self._address)


class Pool:
    """Memory that is not in use; of that the one unused for longest goes first."""

    def __init__(self) -> None:
        self._idle: OrderedDict[int, np.ndarray] = OrderedDict()  # by address
        self._idle_bytes = 0
        self._lock = threading.RLock()  # an array may die, in this very thread, anywhere

    def take(self, nbytes: int) -> np.ndarray:
        """Bytes for ``nbytes`` from a boundary of huge pages on."""
        wanted = -(-nbytes // HUGE_PAGE) * HUGE_PAGE + HUGE_PAGE
        with self._lock:
            for address, memory in reversed(self._idle.items()):  # what was used last is in the caches
                if memory.nbytes == wanted:
                    del self._idle[address]
                    self._idle_bytes -= wanted
                    return memory
        return np.empty(wanted, np.uint8)

    def give_back(self, memory: np.ndarray, address: int) -> None:
        """``address``: of ``memory``. NumPy would import something to tell it, too late at the end of the program."""
        with self._lock:
            self._idle[address] = memory
            self._idle_bytes += memory.nbytes
            while self._idle_bytes > IDLE_BYTES:
                self._idle_bytes -= self._idle.popitem(last=False)[1].nbytes


@functools.cache
def _pool() -> Pool:
    """This process's."""
    return Pool()


def pin(owner: object) -> None:
    """Keep ``owner`` and its memory for ever: MPI may work on it, and nobody will say when it is done."""
    _pinned().append(owner)


@functools.cache
def _pinned() -> list[object]:
    return []
