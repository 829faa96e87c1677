"""Checking mode: before every collective the ranks compare what they are about to do.

Without it calls are compared when a combination of arguments is seen for the first time, and while a rank waits for
long. With it the number of the call and a fingerprint of its operation, data type, shape, op, root and algorithm go
around before its data, every time, also for a plan's start and for calls that need nobody: one all-reduce of 24 bytes
(what it costs: `benchmarks/checking.py`). Any call then waits for all ranks to make it, the start of a plan and of a
non-blocking call included: a program that counts on these to return at once, while another rank waits for something
else from it, is not one to check.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from mpi4py import MPI

from hpcml.collectives.channel import channel_of
from hpcml.collectives.errors import CollectiveError
from hpcml.collectives.stall import open_channels

VARIABLE = "HPCML_CHECK"


@dataclass
class _Switch:
    on: bool


@functools.cache
def _switch() -> _Switch:
    return _Switch(os.environ.get(VARIABLE, "") not in ("", "0"))


def wanted() -> bool:
    """Whether this process wants new channels to be checked; they are if any of their ranks does."""
    return _switch().on


class checking:  # noqa: N801  (a function to its users, and a context manager)
    """Check every collective from now on, on all communicators; ``checking(False)``: no longer.

    Called by every rank of MPI.COMM_WORLD, where no collective is under way. As a context manager it goes back to what
    was at the end of the block, where again every rank must come. A block that ends by an error of one rank's own
    leaves checking as it is, as the other ranks may still be in it. ``HPCML_CHECK=1`` in the environment of any rank
    does the same for the whole program.

    A mismatch raises `MismatchError` on every rank, before any data move: the next call works.

    Raises:
        MismatchError: not every rank asks for the same.

    Example::

        with hc.checking():
            train(model)
    """

    def __init__(self, on: bool = True):
        self._before = wanted()
        self._set(bool(on), f"checking({bool(on)})")

    def __enter__(self) -> checking:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            self._set(self._before, "the end of checking()")
        elif issubclass(kind, CollectiveError):  # raised on all ranks
            _turn(self._before)

    def _set(self, on: bool, said: str) -> None:
        channel_of(MPI.COMM_WORLD).agree("checking", said)
        _turn(on)


def _turn(on: bool) -> None:
    _switch().on = on
    for channel in list(open_channels()):
        channel.check(on)
