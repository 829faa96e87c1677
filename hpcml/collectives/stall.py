"""What a rank does while a message does not come: find out whether the other is in another call.

Calls that were bound before are not checked again before their data move, so ranks whose calls differ wait for each
other. Each call has a number, the same on all ranks. A rank that has waited for a second tells the rank that it waits
for which call it is in, and under which number; a rank that learns of another call under a number that it has had, or
is at, knows that the calls do not fit, and tells all. It costs nothing until a rank waits for long.

A rank whose program ends stays until all have ended (`farewell`), and listens: where another waits for it in a call
that it never made, it says so and ends all.

What it cannot see is one call too many that needed nobody (a small broadcast by its root), where the calls after it are
all the same: they pair off, each with the one before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from time import monotonic, sleep
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from mpi4py import MPI

from hpcml.collectives.errors import MismatchError

if TYPE_CHECKING:
    from hpcml.collectives.channel import Channel

TAG = 0  # of alarms: bindings have tags from 1 on
PATIENCE_SECONDS = 1.0
ALARM, VERDICT = 0, 1
TEXT_BYTES = 496
# Stands before the words for a call that is being agreed on: ranks that are both at that will see for themselves.
AGREEING = "?"


class Stall:
    """One wait that has become long."""

    def __init__(self, channel: Channel, number: int):
        self._channel, self._number = channel, number
        self._since = monotonic()
        self._told = False

    def look_around(self, peer: int) -> None:
        """Called again and again while nothing comes from ``peer``. Raises `MismatchError` when it is known why."""
        self._channel.alarms.hear()
        if not self._told and monotonic() - self._since > PATIENCE_SECONDS:
            self._told = True
            call = self._channel.call_numbered(self._number)
            if call is not None:
                self._channel.alarms.tell(peer, ALARM, self._number, call)


class Alarms:
    """The alarms of a channel that came, and those that are on their way out."""

    def __init__(self, channel: Channel):
        self._channel = channel
        self._early: list[tuple[int, int, bytes]] = []  # of calls that this rank has not come to yet
        self._out: list[tuple[MPI.Request, np.ndarray]] = []

    def tell(self, peer: int, kind: int, number: int, text: str) -> None:
        message = np.zeros(16 + TEXT_BYTES, np.uint8)
        message[:16].view(np.int64)[:] = kind, number
        encoded = _encoded(text)
        message[16 : 16 + len(encoded)] = np.frombuffer(encoded, np.uint8)
        self._out = [(request, kept) for request, kept in self._out if not request.Test()]
        self._out.append((self._channel.comm.Isend(message, peer, TAG), message))

    def hear(self) -> None:
        """Take in what has come; raise where it shows that calls do not fit."""
        status, message = MPI.Status(), np.empty(16 + TEXT_BYTES, np.uint8)
        while self._channel.comm.Iprobe(MPI.ANY_SOURCE, TAG, status):
            self._channel.comm.Recv(message, status.Get_source(), TAG)
            kind, number = message[:16].view(np.int64).tolist()
            text = message[16:].tobytes().rstrip(b"\0")
            if kind == VERDICT:
                self._fail(_decoded(text))
            self._early.append((status.Get_source(), number, text))
        heard, self._early = self._early, []
        for rank, number, text in heard:
            mine = self._channel.call_numbered(number)
            if number > self._channel.number:
                self._early.append((rank, number, text))
            elif mine is not None and _differ(_encoded(mine), text):
                self._accuse(rank, _decoded(text), _decoded(_encoded(mine)))

    def awaited(self) -> tuple[int, str] | None:
        """A rank that waits in a call beyond those that this rank made, and that call."""
        return next(
            ((rank, _decoded(text)) for rank, number, text in self._early if number > self._channel.number), None
        )

    def _accuse(self, rank: int, text: str, mine: str) -> NoReturn:
        calls = sorted([(rank, text), (self._channel.rank, mine)])
        listing = "; ".join(f"rank {r}: {call}" for r, call in calls)
        for peer in range(self._channel.size):
            if peer != self._channel.rank:
                self.tell(peer, VERDICT, self._channel.number, listing)
        self._fail(listing)

    def _fail(self, listing: str) -> NoReturn:
        self._channel.abandon()
        raise MismatchError(
            f"the ranks' calls do not fit together. {listing}. Every rank must make the same calls in the same order.",
            in_flight=True,
        )


def _encoded(text: str) -> bytes:
    return text.encode()[:TEXT_BYTES]


def _decoded(text: bytes) -> str:
    return text.decode(errors="ignore").removeprefix(AGREEING)


def _differ(mine: bytes, theirs: bytes) -> bool:
    mark = AGREEING.encode()
    both_agreeing = mine.startswith(mark) and theirs.startswith(mark)
    # A mark takes a byte of those that fit.
    shorter = TEXT_BYTES - len(mark)
    return not both_agreeing and mine.removeprefix(mark)[:shorter] != theirs.removeprefix(mark)[:shorter]


def farewell(channels: Iterable[Channel]) -> None:
    """Called where this rank's program ends: wait until every rank has come here, on each of the channels.

    A rank that waits in a call which this one never made would do so for ever. Aborts all with a message then.
    """
    if not MPI.Is_initialized() or MPI.Is_finalized():
        return
    leaving = [(channel, channel.comm.Ibarrier()) for channel in channels if channel.size > 1]
    polls = 0
    while leaving := [(channel, request) for channel, request in leaving if not request.Test()]:
        polls += 1
        sleep(0 if polls < 1000 else 1e-3)
        for channel, _ in leaving:
            try:
                channel.alarms.hear()
                found = channel.alarms.awaited()
                said = f"rank {found[0]} waits in {found[1]}, which rank {channel.rank} never called" if found else ""
            except MismatchError as error:
                said = str(error)
            if said:
                print(f"hpcml: the program of rank {channel.rank} has ended, but {said}", file=sys.stderr, flush=True)
                channel.comm.Abort(1)
