"""Where a rank stands: what it waits for, its last collectives, the Python stacks of its threads.

`standing` takes it down, on any thread; `report` puts all ranks' together for a person, ranks in the same place once.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from time import monotonic
from typing import NamedTuple

from mpi4py import MPI

from hpcml.collectives import sites
from hpcml.collectives.errors import ranks_phrase
from hpcml.collectives.stall import open_channels
from hpcml.collectives.waits import OWN_THREADS, waits

OURS = os.path.join(sites.PACKAGE, "collectives", "")


class Waiting(NamedTuple):
    """A wait that is under way. number: of the call on that communicator; 0 where it is not in a numbered call."""

    communicator: str
    number: int
    call: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.call}" + (f" (call {self.number} on {self.communicator})" if self.number else "")


class Call(NamedTuple):
    number: int
    what: str


@dataclass(frozen=True)
class Standing:
    """One rank's. calls: the last on each communicator, by its name; numbers: how many there were."""

    rank: int
    process: str
    waiting: tuple[Waiting, ...]
    numbers: dict[str, int]
    calls: dict[str, tuple[Call, ...]]
    stacks: tuple[str, ...]


def standing(native_since: dict[str, float]) -> Standing:
    """This rank's. native_since: since when it is inside the MPI library, by communicator."""
    now = monotonic()
    channels = [channel for channel in list(open_channels()) if channel.size > 1]
    waiting = [
        Waiting(wait.communicator, wait.number, wait.said(), now - wait.since)
        for wait in sorted(waits(), key=lambda wait: wait.since)
    ]
    for channel in channels:
        if channel.in_native and channel.name in native_since:
            call = f"{channel.call_in_words(channel.in_native)}, inside the MPI library"
            waiting.append(Waiting(channel.name, channel.in_native, call, now - native_since[channel.name]))
    return Standing(
        MPI.COMM_WORLD.rank,
        f"process {os.getpid()} on {socket.gethostname()}",
        tuple(waiting),
        {channel.name: channel.number for channel in channels},
        {channel.name: tuple(Call(*call) for call in channel.last_calls()) for channel in channels},
        tuple(_stacks()),
    )


def _stacks() -> Iterator[str]:
    """Of each Python thread but our own, its frames down to the first inside hpcml's collectives."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        name = names.get(ident, f"thread {ident}")
        if name.startswith(OWN_THREADS):
            continue
        frames = list(traceback.extract_stack(frame))
        while len(frames) > 1 and frames[-1].filename.startswith(OURS) and frames[-2].filename.startswith(OURS):
            frames.pop()
        lines = [f"      {f.filename}:{f.lineno} in {f.name}" + (f": {f.line}" if f.line else "") for f in frames]
        yield "\n".join([f"    {name}, the innermost call last:", *lines])


def report(leader: Standing, wait: Waiting, others: Sequence[Standing], silent: Sequence[int], limit: float) -> str:
    """The whole report. leader: the rank that has waited for too long, in ``wait``. silent: ranks without an answer."""
    everybody = sorted([leader, *others], key=lambda standing: standing.rank)
    lines = [f"rank {leader.rank} has waited for {wait.seconds:.0f} s (the limit is {limit:g} s) in {wait}"]
    if wait.number:
        there = [s for s in everybody if wait.communicator in s.numbers]
        arrived = [s.rank for s in there if s.numbers[wait.communicator] >= wait.number]
        missing = [s.rank for s in there if s.numbers[wait.communicator] < wait.number]
        lines.append(f"  arrived there: {ranks_phrase(arrived)}")
        if missing:
            lines.append(f"  not arrived: {ranks_phrase(missing)}")
    if silent:
        lines.append(
            f"  no answer: {ranks_phrase(list(silent))} (dead, stopped, or in C code that holds Python's lock)"
        )
    by_place: dict[str, list[Standing]] = {}
    for one in everybody:
        by_place.setdefault(_place(one), []).append(one)
    for place, alike in by_place.items():
        who = ranks_phrase([one.rank for one in alike])
        lines += ["", f"{who} ({alike[0].process})" if len(alike) == 1 else who, place]
    return "\n".join(lines)


def _place(one: Standing) -> str:
    lines = [f"  waits in {wait}" for wait in one.waiting] or ["  waits in no collective"]
    for name, calls in one.calls.items():
        lines.append(f"  last collectives on {name}:" if calls else f"  no collective yet on {name}")
        for what, same in groupby(calls, key=lambda call: call.what):
            numbers = [call.number for call in same]
            first, last = numbers[0], numbers[-1]
            lines.append(f"    {first if first == last else f'{first}-{last}'}: {what}")
    return "\n".join([*lines, "  Python stacks:", *one.stacks])
