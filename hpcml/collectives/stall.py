"""What a rank does while a message does not come: find out whether the other is in another call.

Calls that were bound before are not checked again before their data move (unless the channel is checked, see
`hpcml.collectives.checking`), so ranks whose calls differ wait for each other. Each call has a number, the same on all
ranks. A rank that has waited for a second tells the rank that it waits for which call it is in, and under which number;
a rank that learns of another call under a number that it has had, or is at, knows that the calls do not fit, and tells
all. It costs nothing until a rank waits for long. Ranks that wait for each other on different communicators find it out
by `hpcml.collectives.crossing`.

A rank whose program ends stays until all have ended (`farewell`), and listens: where another waits for it in a call
that it never made, it tells all, says so and ends all.

What it cannot see: one call too many that needed nobody (a small broadcast by its root), where the calls after it are
all the same, as they pair off, each with the one before, until one that is new is agreed on, or the program ends; and a
rank that waits inside the MPI library (algorithm "native", or a call of the user's own), which only the watchdog sees.
Checking sees the first; `hpcml.collectives.watchdog` the second.
"""

from __future__ import annotations

import atexit
import functools
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count
from time import monotonic, sleep
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from mpi4py import MPI

from hpcml.collectives import crossing, sites
from hpcml.collectives import table as t
from hpcml.collectives.errors import MismatchError, RankFailed
from hpcml.collectives.failures import deaths_of, look, survivable
from hpcml.collectives.waits import waiting, waits

if TYPE_CHECKING:
    from hpcml.collectives.channel import Channel

Rows = Sequence[Sequence[int]] | np.ndarray  # of a table

TAG = 0  # of alarms: bindings have tags from 1 on
PATIENCE_SECONDS = 1.0
ALARM, PROBE, VERDICT, VERDICT_ON_ALL = range(4)  # messages; on one channel, or on all
HEAD_BYTES = 24  # what kind, of which call, on which channel
TEXT_BYTES = 2032
CALL_BYTES = 496  # of a call that are compared
# Stands before the words for a call that is being agreed on: ranks that are both at that will see for themselves.
AGREEING = "?"
HEARING_SECONDS = 10.0  # at the end of a program, for the others to hear the verdict: a rank that computes may not
GRACE_SECONDS = 2.0  # and to say so


class Stall:
    """One wait that has become long. It is among `waits` until it is ``over``."""

    def __init__(self, channel: Channel, number: int, tag: int):
        self.channel, self.number, self.tag = channel, number, tag
        self.serial = next(_serials())
        self.rows: Rows = ()
        self.row, self.peer = 0, MPI.PROC_NULL  # at which it waits, and for whom
        self.since = monotonic()
        self.site = sites.here()
        self.thread = threading.get_ident()
        self._last_told = self.since
        self._told = False
        waits().add(self)

    @property
    def communicator(self) -> str:
        return self.channel.name

    def said(self) -> str:
        return self.channel.call_in_words(self.number, self.site)

    def over(self) -> None:
        waits().discard(self)

    def look_around(self, rows: Rows, row: int) -> None:
        """Called again and again while what is awaited in that row does not come.

        Raises `MismatchError` when it is known why, and `RankFailed` where a rank has died.
        """
        self.rows, self.row, self.peer = rows, row, int(rows[row][t.PEER])
        try:
            for channel in {self.channel, *open_channels()}:
                if survivable():
                    look(channel)
                channel.alarms.hear()
        except MismatchError:
            self.channel.abandon()
            raise
        if monotonic() - self._last_told < PATIENCE_SECONDS:
            return
        self._last_told = monotonic()
        call = self.channel.call_numbered(self.number)
        if call is None:
            return
        with deaths_of(self.channel):
            if not self._told:
                self._told = True
                self.channel.alarms.tell(self.peer, ALARM, self.number, f"{self.site or ''}\0{call}")
            if len(open_channels()) > 1:
                crossing.ask_around(self)


@functools.cache
def _serials() -> count[int]:
    return count()


@functools.cache
def open_channels() -> weakref.WeakSet[Channel]:
    """The channels of this process; they take their leave when it ends."""
    channels: weakref.WeakSet[Channel] = weakref.WeakSet()

    def leave() -> None:
        from hpcml.collectives.background import stop_background
        from hpcml.collectives.stepper import stop_stepper

        stop_stepper()
        stop_background()
        farewell(list(channels))
        for last in leaving_last():
            last()

    atexit.register(leave)
    return channels


@functools.cache
def leaving_last() -> list[Callable[[], None]]:
    """What is to be done when all ranks have taken their leave, and MPI is about to be finalized."""
    return []


class Alarms:
    """The alarms of a channel that came, and those that are on their way out."""

    def __init__(self, channel: Channel):
        self._channel = channel
        self._early: list[tuple[int, int, str, bytes]] = []  # of calls that this rank has not come to yet
        self._out: list[tuple[MPI.Request, np.ndarray]] = []

    def tell(self, peer: int, kind: int, number: int, text: str, until_heard: bool = False) -> None:
        """until_heard: it is on its way out until the other has taken it in."""
        message = np.zeros(HEAD_BYTES + TEXT_BYTES, np.uint8)
        message[:HEAD_BYTES].view(np.int64)[:] = kind, number, self._channel.token
        encoded = text.encode()[:TEXT_BYTES]
        message[HEAD_BYTES : HEAD_BYTES + len(encoded)] = np.frombuffer(encoded, np.uint8)
        self._out = [(request, kept) for request, kept in self._out if not request.Test()]
        send = self._channel.comm.Issend if until_heard else self._channel.comm.Isend
        self._out.append((send(message, peer, TAG), message))

    def are_out(self) -> bool:
        """Whether all that was told has left."""
        return all(request.Test() for request, _ in self._out)

    def hear(self) -> None:
        """Take in what has come; raise where it shows that calls do not fit."""
        if not self._channel.token:  # it is being made
            return
        with deaths_of(self._channel):
            self._hear()

    def _hear(self) -> None:
        status, message = MPI.Status(), np.empty(HEAD_BYTES + TEXT_BYTES, np.uint8)
        # A matched probe: another thread may be listening, too.
        while (found := self._channel.comm.Improbe(MPI.ANY_SOURCE, TAG, status)) is not None:
            found.Recv(message)
            kind, number, token = message[:HEAD_BYTES].view(np.int64).tolist()
            text = message[HEAD_BYTES:].tobytes().rstrip(b"\0").decode(errors="ignore")
            if token != self._channel.token:
                continue  # it was never heard on a communicator, freed since, whose context MPI has given to this one
            if kind in (VERDICT, VERDICT_ON_ALL):
                self._fail(kind, text)
            elif kind == PROBE:
                listing = crossing.heard(self._channel, status.Get_source(), number, text)
                if listing is not None:
                    for channel in list(open_channels()):
                        channel.alarms.announce(VERDICT_ON_ALL, listing)
                    self._fail(VERDICT_ON_ALL, listing)
            else:
                site, _, call = text.partition("\0")
                self._early.append((status.Get_source(), number, f" at {site}" if site else "", _encoded(call)))
        heard, self._early = self._early, []
        for rank, number, site, theirs in heard:
            mine = self._channel.call_numbered(number)
            if number > self._channel.number:
                self._early.append((rank, number, site, theirs))
            elif mine is not None and _differ(_encoded(mine), theirs):
                calls = sorted([(rank, _decoded(theirs) + site), (self._channel.rank, self._mine(number, mine))])
                listing = "; ".join(f"rank {r}: {call}" for r, call in calls)
                self.announce(VERDICT, listing)
                self._fail(VERDICT, listing)

    def _mine(self, number: int, call: str) -> str:
        """A call of this rank in words, with its line where that is known: it is, of the one that it is in."""
        return _decoded(_encoded(call)) + (sites.at(sites.here()) if number == self._channel.number else "")

    def awaited(self) -> tuple[int, str] | None:
        """A rank that waits in a call beyond those that this rank made, and that call."""
        return next(
            (
                (rank, _decoded(call) + site)
                for rank, number, site, call in self._early
                if number > self._channel.number
            ),
            None,
        )

    def announce(self, kind: int, listing: str, until_heard: bool = False) -> None:
        """Tell every other rank what is wrong."""
        for peer in range(self._channel.size):
            if peer != self._channel.rank:
                self.tell(peer, kind, self._channel.number, listing, until_heard)

    def _fail(self, kind: int, listing: str) -> NoReturn:
        for channel in list(open_channels()) if kind == VERDICT_ON_ALL else [self._channel]:
            channel.abandon()
        raise MismatchError(
            f"the ranks' calls do not fit together. {listing}. Every rank must make the same calls in the same order.",
            in_flight=True,
        )


def _encoded(text: str) -> bytes:
    return text.encode()[:CALL_BYTES]


def _decoded(text: bytes) -> str:
    return text.decode(errors="ignore").removeprefix(AGREEING)


def _differ(mine: bytes, theirs: bytes) -> bool:
    mark = AGREEING.encode()
    both_agreeing = mine.startswith(mark) and theirs.startswith(mark)
    # A mark takes a byte of those that fit.
    shorter = CALL_BYTES - len(mark)
    return not both_agreeing and mine.removeprefix(mark)[:shorter] != theirs.removeprefix(mark)[:shorter]


def farewell(channels: Iterable[Channel]) -> None:
    """Called where this rank's program ends: wait until every rank has come here, on each of the channels.

    A rank that waits in a call which this one never made would do so for ever. Aborts all with a message then.
    """
    if not MPI.Is_initialized() or MPI.Is_finalized():
        return
    leaving = []
    for channel in channels:
        with suppress(RankFailed), deaths_of(channel):
            if channel.size > 1:
                leaving.append((channel, channel.comm.Ibarrier()))
    with waiting("the end of its program"):
        _await(leaving)


def _is_over(channel: Channel, leaving: MPI.Request) -> bool:
    """Whether every rank is there, or one never will be."""
    try:
        with deaths_of(channel):
            return leaving.Test()
    except RankFailed:
        return True


def _await(leaving: list[tuple[Channel, MPI.Request]]) -> None:
    polls = 0
    while leaving := [(channel, request) for channel, request in leaving if not _is_over(channel, request)]:
        polls += 1
        sleep(0 if polls < 1000 else 1e-3)
        for channel, _ in leaving:
            said = ""
            try:
                channel.alarms.hear()
                found = channel.alarms.awaited()
                if found:
                    rank, call = found
                    calls = sorted([(rank, call), (channel.rank, "the end of its program")])
                    listing = "; ".join(f"rank {r}: {call}" for r, call in calls)
                    channel.alarms.announce(VERDICT, listing, until_heard=True)
                    said = f"rank {rank} waits in {call}, which rank {channel.rank} never called (MismatchError)"
            except RankFailed:
                continue
            except MismatchError as error:
                said = f"MismatchError: {error}"
            if said:
                print(f"hpcml: the program of rank {channel.rank} has ended, but {said}", file=sys.stderr, flush=True)
                began = monotonic()
                while not channel.alarms.are_out() and monotonic() - began < HEARING_SECONDS:
                    sleep(1e-2)
                sleep(GRACE_SECONDS)
                channel.comm.Abort(1)
