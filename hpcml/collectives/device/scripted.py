"""A program on device memory (see `hpcml.collectives.program`), written as a generator that yields where it would wait.

Work on the device is put on a stream of the library's own. That stream begins after what the caller has put on his, and
his goes on after it; neither the host nor the device as a whole waits.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

from hpcml.collectives.channel import Channel
from hpcml.collectives.device.arrays import DeviceArray
from hpcml.collectives.device.links import Links
from hpcml.collectives.errors import CommunicationError
from hpcml.collectives.program import LOOK_AROUND, Program
from hpcml.collectives.stall import Rows, Stall
from hpcml.collectives.under_way import others_advance, under_way


class Scripted(Program):
    """Subclasses give the script: `_script`."""

    _source: Any
    _target: Any

    def __init__(self, channel: Channel, links: Links, tag: int):
        self.channel, self._links, self._tag = channel, links, tag
        self._runtime, self._stream = links.runtime, links.streams.work
        self._source = self._target = links.nothing
        self._rows: Rows = ()  # of messages, and the one that is awaited; none: it waits for the device
        self._at = 0
        self._number = 0
        self._going: Iterator[None] | None = None
        self._failed: Exception | None = None
        self._lock = threading.Lock()  # of whoever goes on: the caller, or the stepper

    def _script(self, tag: int, background: bool) -> Iterator[None]:
        """All that is done between `start` and `wait`, on the library's stream. background: other ranks may be late."""
        raise NotImplementedError

    def bind(self, source: Any, target: Any) -> None:
        self._source, self._target = source, target

    def release(self) -> None:
        self._source = self._target = self._links.nothing

    def start(self) -> None:
        self._begin(self._tag, False)

    def launch(self, tag: int) -> None:
        """It gets on when it is tested or waited for, and on the device by itself."""
        self._begin(tag, True)

    def _begin(self, tag: int, background: bool) -> None:
        if self._going is not None or self._failed is not None:
            raise CommunicationError(
                "this collective was interrupted or failed before, in the middle of its messages: end the program, or "
                "go on with another communicator"
            )
        self._number = self.channel.number
        self._going = self._ordered(tag, background)
        under_way().add(self)
        self.poll(0)

    def _ordered(self, tag: int, background: bool) -> Iterator[None]:
        runtime = self._runtime
        callers = sorted({a.callers_stream() for a in (self._source, self._target) if isinstance(a, DeviceArray)})
        for caller in callers:
            runtime.wait(self._stream, runtime.record(caller))
        yield from self._script(tag, background)
        done = runtime.record(self._stream)
        for caller in callers:
            runtime.wait(caller, done)

    def test(self) -> bool:
        return self.poll(0)

    def poll(self, patience: int) -> bool:
        if self._failed is not None:
            raise self._failed
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._going is not None:
                self._runtime.use()
                next(self._going)
        except StopIteration:
            self._going = None
            under_way().discard(self)
        except Exception as error:
            self._failed, self._going = error, None
            under_way().discard(self)
            raise
        finally:
            self._lock.release()
        return self._going is None

    def wait(self) -> None:
        polls, stall = 0, None
        try:
            while not self.poll(0):
                others_advance(self)
                os.sched_yield()
                polls += 1
                rows, at = self.awaits()
                if not polls % LOOK_AROUND and at < len(rows):
                    stall = stall or Stall(self.channel, self._number, self._tag)
                    stall.look_around(rows, at)
        finally:
            if stall:
                stall.over()

    def awaits(self) -> tuple[Rows, int]:
        return self._rows, self._at

    def advance(self) -> bool:
        try:
            self.poll(0)
        except CommunicationError:
            """It is told where it is waited for."""
        return True

    def forget(self) -> None:
        """Nothing: it is kept while it is under way."""
