"""The thread that takes requests of several steps from one step to the next while the caller computes.

What runs within a step is the background's; between two steps there is Python to be run, and other ranks may wait for
it. One thread a process, started when it is first needed; it sleeps while there is no such request.
"""

from __future__ import annotations

import functools
import threading
from time import sleep
from typing import Protocol

from mpi4py import MPI

LOOK_SECONDS = 2e-4  # between two looks at what is under way


class Steppable(Protocol):
    def step(self) -> bool:
        """Go on where that is possible without waiting; whether all is done."""


class Stepper:
    """The thread, and the requests that it looks after."""

    def __init__(self) -> None:
        self._requests: list[Steppable] = []
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="hpcml steps", daemon=True)
        self._thread.start()

    def add(self, request: Steppable) -> None:
        self._requests.append(request)
        self._wake.set()

    def stop(self) -> None:
        """End the thread; what is still under way goes on where it is waited for."""
        self._stopped = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped:
            if not self._requests:
                self._wake.wait()
                self._wake.clear()
            for request in list(self._requests):
                if request.step():
                    self._requests.remove(request)
            sleep(LOOK_SECONDS)


@functools.cache
def stepper() -> Stepper | None:
    """The process's own, started at the first call; None where MPI may not be called from two threads at once."""
    return None if MPI.Query_thread() < MPI.THREAD_MULTIPLE else Stepper()


def stop_stepper() -> None:
    """End the thread, if there is one: MPI is about to be finalized."""
    if stepper.cache_info().currsize and (thread := stepper()) is not None:
        thread.stop()
