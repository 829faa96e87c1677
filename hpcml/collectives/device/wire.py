"""How the bytes of a device array get to another rank by MPI's point-to-point messages, and from it.

`Direct` gives MPI the device pointers. `Pinned` cuts a message into chunks that pass through pinned host memory: while
one is on its way the next is copied from the device, and the one before to it. Both keep the order of a stream without
waiting for it: what is sent is what the work so far has made, and what arrives is there for the work that follows.

A message begins when its memory may be touched, which is after the work that was on the stream when it was posted.
Messages are begun in the order in which they were posted, so that those between two ranks pair off. Rooms for chunks
are given out in that order, too, so the message that all others wait for always gets them; sends and receives have
rooms of their own. A message that has all its bytes in rooms, or has taken them out, is *clear*: the stream may go on
with its memory, though MPI may still be at work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from mpi4py import MPI

from hpcml.collectives.device.links import Streams
from hpcml.collectives.device.runtime import Event, Runtime

CHUNK = 2 << 20  # bytes of one
ROOMS = 6  # for sends, and as many for receives


class Message(Protocol):
    """One message."""

    def clear(self) -> bool:
        """Whether the stream may go on with its memory. Where it is, the stream was told what to wait for."""


class Wire(Protocol):
    """The messages of one run of a table, with one tag."""

    def send(self, peer: int, pointer: int, nbytes: int) -> Message: ...
    def receive(self, peer: int, pointer: int, nbytes: int) -> Message: ...
    def advance(self) -> bool:
        """Do what can be done now; whether no message is under way."""


class _Transfer:
    """A message under way: ``steps`` does what can be done, and yields; ``begun`` once the next one may begin."""

    def __init__(self) -> None:
        self.begun = self.is_clear = False
        self.steps: Iterator[None] = iter(())

    def clear(self) -> bool:
        return self.is_clear


class _Queue:
    """Transfers in the order in which they were posted."""

    def __init__(self) -> None:
        self._transfers: deque[_Transfer] = deque()

    def add(self, transfer: _Transfer, steps: Iterator[None]) -> Message:
        transfer.steps = steps
        self._transfers.append(transfer)
        self.advance()
        return transfer

    def advance(self) -> bool:
        for transfer in list(self._transfers):
            if next(transfer.steps, self) is self:  # it has ended
                transfer.begun = transfer.is_clear = True
                self._transfers.remove(transfer)
            if not transfer.begun:
                break
        return not self._transfers


class Direct(Wire):
    """Device pointers given to an MPI library that can take them."""

    def __init__(self, runtime: Runtime, streams: Streams, comm: MPI.Comm, tag: int):
        self._runtime, self._stream, self._comm, self._tag = runtime, streams.work, comm, tag
        self._out, self._in = _Queue(), _Queue()

    def send(self, peer: int, pointer: int, nbytes: int) -> Message:
        return self._post(self._out, self._comm.Isend, peer, pointer, nbytes)

    def receive(self, peer: int, pointer: int, nbytes: int) -> Message:
        return self._post(self._in, self._comm.Irecv, peer, pointer, nbytes)

    def _post(self, queue: _Queue, post: Any, peer: int, pointer: int, nbytes: int) -> Message:
        transfer = _Transfer()
        before = self._runtime.record(self._stream)
        return queue.add(transfer, self._steps(transfer, before, post, peer, pointer, nbytes))

    def _steps(
        self, transfer: _Transfer, before: Event, post: Any, peer: int, pointer: int, nbytes: int
    ) -> Iterator[None]:
        while not before.done():
            yield
        memory = MPI.buffer.fromaddress(pointer, nbytes) if nbytes else bytearray()
        request = post([memory, nbytes, MPI.BYTE], peer, self._tag)
        transfer.begun = True
        while not request.Test():
            yield

    def advance(self) -> bool:
        return all([self._out.advance(), self._in.advance()])


class Pinned(Wire):
    """Through pinned host memory, in a pipeline of chunks; for any MPI library."""

    def __init__(self, runtime: Runtime, streams: Streams, comm: MPI.Comm, tag: int, rooms: Rooms):
        self._runtime, self._streams, self._comm, self._tag = runtime, streams, comm, tag
        self._rooms = rooms
        self._out, self._in = _Queue(), _Queue()

    def send(self, peer: int, pointer: int, nbytes: int) -> Message:
        transfer = _Transfer()
        before = self._runtime.record(self._streams.work)
        return self._out.add(transfer, self._sending(transfer, before, peer, pointer, nbytes))

    def receive(self, peer: int, pointer: int, nbytes: int) -> Message:
        transfer = _Transfer()
        before = self._runtime.record(self._streams.work)
        return self._in.add(transfer, self._receiving(transfer, before, peer, pointer, nbytes))

    def _sending(self, transfer: _Transfer, before: Event, peer: int, pointer: int, nbytes: int) -> Iterator[None]:
        runtime, stream = self._runtime, self._streams.down
        runtime.wait(stream, before)
        chunks = deque(_chunks(nbytes))
        copied: deque[tuple[np.ndarray, int, Event]] = deque()
        sent: deque[tuple[np.ndarray, MPI.Request]] = deque()
        while chunks or copied or sent:
            while chunks and (room := self._rooms.take(self._rooms.out)) is not None:
                at, length = chunks.popleft()
                if length:
                    runtime.copy(room.ctypes.data, pointer + at, length, stream)
                copied.append((room, length, runtime.record(stream)))
                if not chunks:
                    runtime.wait(self._streams.work, copied[-1][2])
                    transfer.is_clear = True
            while copied and copied[0][2].done():
                room, length, _ = copied.popleft()
                sent.append((room, self._comm.Isend([room, length, MPI.BYTE], peer, self._tag)))
                transfer.begun = not chunks and not copied
            while sent and sent[0][1].Test():
                self._rooms.give_back(self._rooms.out, sent.popleft()[0])
            yield

    def _receiving(self, transfer: _Transfer, before: Event, peer: int, pointer: int, nbytes: int) -> Iterator[None]:
        runtime, stream = self._runtime, self._streams.up
        runtime.wait(stream, before)
        chunks = deque(_chunks(nbytes))
        posted: deque[tuple[np.ndarray, int, int, MPI.Request]] = deque()
        landing: deque[tuple[np.ndarray, Event]] = deque()
        while chunks or posted or landing:
            while chunks and (room := self._rooms.take(self._rooms.into)) is not None:
                at, length = chunks.popleft()
                request = self._comm.Irecv([room, length, MPI.BYTE], peer, self._tag)
                posted.append((room, at, length, request))
                transfer.begun = not chunks
            while posted and posted[0][3].Test():
                room, at, length, _ = posted.popleft()
                if length:
                    runtime.copy(pointer + at, room.ctypes.data, length, stream)
                landing.append((room, runtime.record(stream)))
                if not chunks and not posted:
                    runtime.wait(self._streams.work, landing[-1][1])
                    transfer.is_clear = True
            while landing and landing[0][1].done():
                self._rooms.give_back(self._rooms.into, landing.popleft()[0])
            yield

    def advance(self) -> bool:
        return all([self._out.advance(), self._in.advance()])


def _chunks(nbytes: int) -> Iterator[tuple[int, int]]:
    """(start, length) of each; an empty message is one of no bytes."""
    for at in range(0, max(nbytes, 1), CHUNK):
        yield at, min(CHUNK, nbytes - at)


class Rooms:
    """Pinned memory for chunks, of one run."""

    def __init__(self, runtime: Runtime, longest: int):
        """longest: bytes of the longest message."""
        self._runtime, self._nbytes = runtime, max(1, min(CHUNK, longest))
        self.out: list[np.ndarray] = []
        self.into: list[np.ndarray] = []
        self._made = {id(self.out): 0, id(self.into): 0}

    def take(self, free: list[np.ndarray]) -> np.ndarray | None:
        if not free and self._made[id(free)] < ROOMS:
            self._made[id(free)] += 1
            return self._runtime.pinned(self._nbytes)
        return free.pop() if free else None

    def give_back(self, free: list[np.ndarray], room: np.ndarray) -> None:
        free.append(room)
