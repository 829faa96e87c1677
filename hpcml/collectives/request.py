"""A call in steps, done at once or in the background.

A collective call is a generator of *steps*: it yields the arrangements that have to run next, all of which may be under
way at once, gets what they delivered, and returns the caller's result at last. `run` does it now; a `Request` lets it
run while the caller computes.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from typing import Any

from hpcml.collectives.arrangement import Arrangement, Flight
from hpcml.collectives.channel import Channel
from hpcml.collectives.stepper import stepper

AT_ONCE = 32  # arrangements of one step, at most: a structure has one for each data type
Steps = Generator[list[Arrangement], list[Any], Any]


def run(steps: Steps) -> Any:
    """Do the call, and return its result."""
    try:
        wanted = next(steps)
        while True:
            wanted = steps.send([arrangement.run() for arrangement in wanted])
    except StopIteration as end:
        return end.value


class Request:
    """A collective that is under way. Its input must not be changed, nor its output read, until it is complete.

    Messages and arithmetic get on in a thread of the library's own, without Python's lock. Several requests may be
    under way on one communicator, and be completed in any order; every rank starts them in the same order.
    """

    def __init__(self, channel: Channel, steps: Steps, several: bool = False):
        """several: there may be more steps than one, so others may wait for this rank between two of them."""
        self._steps = steps
        self._flights: Sequence[Flight] = ()
        self._done = False
        self._result: Any = None
        self._error: Exception | None = None
        self._lock = threading.RLock()  # whoever holds it goes on: the caller, or the stepper
        self._begin(channel)
        if several and not self._done and (thread := stepper()) is not None:
            thread.add(self)

    def test(self) -> bool:
        """Whether the collective is complete; does not wait."""
        done = self.step()
        if self._error is not None:
            raise self._error
        return done

    def wait(self) -> Any:
        """Complete the collective and return its result: what the blocking function returns."""
        while not self._done:
            with self._lock:
                if not self._done:
                    self._go_on([flight.wait() for flight in self._flights])
        if self._error is not None:
            raise self._error
        return self._result

    def step(self) -> bool:
        """Go on where that is possible without waiting; whether all is done. What goes wrong is told by `wait`."""
        if self._done or not self._lock.acquire(blocking=False):
            return self._done
        try:
            while not self._done and all([flight.test() for flight in self._flights]):
                self._go_on([flight.wait() for flight in self._flights])
        except Exception as error:
            self._done, self._error, self._flights = True, error, ()
        finally:
            self._lock.release()
        return self._done

    def _begin(self, channel: Channel) -> None:
        try:
            wanted = next(self._steps)
        except StopIteration as end:
            self._done, self._result = True, end.value
            return
        # Taken now, when all ranks have agreed to begin, as later steps come in another order on each rank. Those of
        # one request follow one another, so they can share: messages with one tag do not overtake.
        self._first_tag = channel.flight_tags(AT_ONCE)
        self._launch(wanted)

    def _go_on(self, delivered: list[Any]) -> None:
        try:
            self._launch(self._steps.send(delivered))
        except StopIteration as end:
            self._done, self._result, self._flights = True, end.value, ()

    def _launch(self, wanted: list[Arrangement]) -> None:
        self._flights = [Flight(arrangement, self._first_tag + i) for i, arrangement in enumerate(wanted)]


def wait_all(requests: Sequence[Request]) -> list[Any]:
    """Complete all of them; return their results."""
    return [request.wait() for request in requests]
