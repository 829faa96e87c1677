"""The waits of this process that are long, or may become so: what the watchdog looks at."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

from hpcml.collectives import sites

OWN_THREADS = "hpcml"  # how the names of our own threads begin


class Wait(Protocol):
    """since: by `time.monotonic`. number: of the call on that communicator; 0 where it is not in a numbered call."""

    since: float
    number: int

    @property
    def communicator(self) -> str: ...
    def said(self) -> str: ...


class Unnumbered:
    """A wait outside the calls that are counted."""

    communicator, number = "", 0

    def __init__(self, what: str):
        self.since = monotonic()
        self._what = what + sites.at(sites.here())

    def said(self) -> str:
        return self._what


@functools.cache
def waits() -> set[Wait]:
    """Those that are not over."""
    return set()


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """In the block this rank waits for others."""
    wait = Unnumbered(what)
    waits().add(wait)
    try:
        yield
    finally:
        waits().discard(wait)
