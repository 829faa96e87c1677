"""The watchdog: a wait that never ends becomes a report, and the end of the job.

A thread a rank looks twenty times a second at what its rank waits for, and listens on a communicator of its own. Where
a wait is longer than the limit it asks all ranks where they stand, prints what they answered and aborts the job. It
notices waits of hpcml's collectives, those inside the MPI library's own (algorithm "native") and those at the end of
the program included; the others may be stuck anywhere. A rank that is slow and comes before the limit is left alone.

Where the MPI library does not allow calls from several threads a rank can ask nobody: it reports on itself alone.
"""

from __future__ import annotations

import functools
import os
import pickle
import sys
import threading
from time import monotonic, sleep
from typing import Any

from mpi4py import MPI

from hpcml.collectives.failures import suppressed_deaths, survivable
from hpcml.collectives.naming import start_recording
from hpcml.collectives.stall import leaving_last, open_channels
from hpcml.collectives.standing import Standing, Waiting, report, standing
from hpcml.collectives.waits import OWN_THREADS, waiting, waits

VARIABLE = "HPCML_TIMEOUT"
POLL_SECONDS = 0.05
ANSWER_SECONDS = 5.0  # for which answers are waited for
ASK, ANSWER = 1, 2


def watchdog(seconds: float | None) -> None:
    """Turn any wait in a collective that is longer than ``seconds`` into a report and the end of the job.

    Called by every rank, and waits for all when it is called first; None turns it off, as it is by default.
    ``HPCML_TIMEOUT=seconds`` in the environment does the same where `hpcml.collectives` is imported. The report goes to
    stderr and says who arrived, who did not and where each rank stands: its last collectives with the lines that called
    them, its Python stacks. Choose a limit beyond anything that a rank may legitimately let the others wait for, such
    as writing a checkpoint, or coming up on a slow file system.

    Raises:
        ValueError: the limit is no positive number.

    Example::

        hc.watchdog(600)
    """
    limit = None if seconds is None else _checked(seconds, "watchdog(seconds)")
    if limit is None and not _dog.cache_info().currsize:
        return
    if MPI.COMM_WORLD.size > 1:
        dog = _dog()
        dog.limit = limit
        dog.join()


def from_environment() -> None:
    """Start as ``HPCML_TIMEOUT`` says."""
    text = os.environ.get(VARIABLE, "")
    if text not in ("", "0"):
        watchdog(_checked(text, VARIABLE))


def _checked(seconds: Any, name: str) -> float:
    try:
        limit = float(seconds)
    except (TypeError, ValueError):
        limit = -1.0
    if not 0 < limit < float("inf"):
        raise ValueError(f"{name}: expected a positive number of seconds, got {seconds!r}")
    return limit


@functools.cache
def _dog() -> Watchdog:
    return Watchdog()


class Watchdog:
    """The thread. ``limit``: seconds that a wait may take; None: for ever."""

    def __init__(self) -> None:
        self.limit: float | None = None
        self._rank, self._size = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
        self._comm: MPI.Comm | None = None  # to ask the other ranks on
        self._native: dict[str, tuple[int, float]] = {}  # calls inside the MPI library, and since when
        self._asked: tuple[int, float] | None = None  # by which rank, and when
        self._answers: dict[int, Standing] = {}
        self._sent: list[MPI.Request] = []
        self._end = threading.Event()
        start_recording()
        for channel in sorted(open_channels(), key=lambda channel: channel.serial):
            channel.record()
        leaving_last().append(self.stop)
        self._thread = threading.Thread(target=self._run, name=f"{OWN_THREADS} watchdog", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Make the communicator on which ranks ask each other, once. Collective; a rank that is missing ends the job.

        Here and not in the thread: Open MPI 5.0 gives two communicators that are made at once by a rank, one of them
        by Idup, the same identity.
        """
        if self._comm is not None or MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            return
        with waiting("the start of the watchdog, which every rank has to come to"):
            comm, joining = MPI.COMM_WORLD.Idup()
            while not joining.Test():
                sleep(1e-3)
        self._comm = comm

    def stop(self) -> None:
        """End the thread: MPI is about to be finalized."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(POLL_SECONDS) and not MPI.Is_finalized():
            self._listen()
            wait = self._overdue()
            if wait is not None and self._may_lead():
                self._ask_and_end(wait)
        if self._comm is not None and not MPI.Is_finalized():
            self._comm.Free()

    def _listen(self) -> None:
        """Answer who asks, and take in answers."""
        if self._comm is None:
            return
        status = MPI.Status()
        if survivable():
            self._comm.Ack_failed()  # else a dead rank would be an error of each probe
        while (message := self._comm.Improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, status)) is not None:
            data = bytearray(status.Get_count(MPI.BYTE))
            message.Recv([data, MPI.BYTE])
            source = status.Get_source()
            if status.Get_tag() == ANSWER:
                self._answers[source] = pickle.loads(data)
            else:
                if self._asked is None or source < self._asked[0]:
                    self._asked = source, monotonic()
                self._send(pickle.dumps(self._standing()), source, ANSWER)

    def _send(self, data: bytes, to: int, tag: int) -> None:
        assert self._comm is not None
        with suppressed_deaths():
            self._sent = [request for request in self._sent if not request.Test()]
        with suppressed_deaths():
            self._sent.append(self._comm.Isend([data, MPI.BYTE], to, tag))

    def _standing(self) -> Standing:
        return standing({name: since for name, (_, since) in self._native.items()})

    def _overdue(self) -> Waiting | None:
        """The longest wait of this rank, if it is beyond the limit."""
        now = monotonic()
        for channel in list(open_channels()):
            number = channel.in_native
            if not number:
                self._native.pop(channel.name, None)
            elif self._native.get(channel.name, (0, 0.0))[0] != number:
                self._native[channel.name] = number, now
        limit = self.limit
        if limit is None:
            return None
        starts = [wait.since for wait in list(waits())] + [since for _, since in self._native.values()]
        if not starts or now - min(starts) <= limit:
            return None
        return max(self._standing().waiting, key=lambda wait: wait.seconds, default=None)

    def _may_lead(self) -> bool:
        """Whether no other rank is at it: of those that ask at the same time the lowest goes on."""
        if self._asked is None or self._asked[0] > self._rank:
            return True
        return monotonic() - self._asked[1] > 3 * ANSWER_SECONDS  # it has not ended the job: it may be stopped itself

    def _ask_and_end(self, wait: Waiting) -> None:
        """Collect where the ranks stand, print it and abort; nothing, if the wait ends, or another rank is at it."""
        began = monotonic()
        self._answers = {}
        others = [rank for rank in range(self._size) if rank != self._rank]
        alone = self._comm is None
        if not alone:
            for rank in others:
                self._send(b"", rank, ASK)
        while not alone and len(self._answers) < len(others) and monotonic() - began < ANSWER_SECONDS:
            sleep(POLL_SECONDS)
            self._listen()
            if not self._may_lead():
                return
        still = self._overdue()
        if still is None or (still.communicator, still.number, still.call) != (
            wait.communicator,
            wait.number,
            wait.call,
        ):
            return
        answered = [self._answers[rank] for rank in others if rank in self._answers]
        silent = [rank for rank in others if rank not in self._answers]
        text = report(self._standing(), still, answered, [] if alone else silent, self.limit or 0.0)
        if alone:
            text += "\n\nThe other ranks could not be asked" + (
                ": not all of them have started their watchdog."
                if MPI.Query_thread() == MPI.THREAD_MULTIPLE
                else ": the MPI library was started without MPI_THREAD_MULTIPLE."
            )
        print("\n".join(f"hpcml watchdog: {line}".rstrip() for line in text.split("\n")), file=sys.stderr, flush=True)
        sleep(0.5)  # a launcher may drop what it has not passed on when it is told to abort
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            os._exit(1)
        MPI.COMM_WORLD.Abort(1)
