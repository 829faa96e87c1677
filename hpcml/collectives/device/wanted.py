"""The way that the user wants arrays in GPU memory to go; see `hpcml.collectives.device.transport`."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from hpcml.collectives.channel import channel_of

VARIABLE = "HPCML_DEVICE_TRANSPORT"
NAMES = ("auto", "nccl", "ipc", "mpi", "staged")


@dataclass
class _Wanted:
    name: str


@functools.cache
def _wanted() -> _Wanted:
    return _Wanted(_checked(os.environ.get(VARIABLE, "auto") or "auto"))


def wanted() -> str:
    """The way that the user has asked for; "auto": none."""
    return _wanted().name


class device_transport:  # noqa: N801  (a function to its users, and a context manager)
    """Let arrays in GPU memory go one way from now on: "nccl", "ipc", "mpi" or "staged"; "auto": the best there is.

    Called by every rank of MPI.COMM_WORLD, where no collective is under way. As a context manager it goes back to what
    was at the end of the block. ``HPCML_DEVICE_TRANSPORT`` in the environment of all ranks does it for a whole program.

    Raises:
        ArgumentError: there is no such way, or the ranks ask for different ones; on every rank. Whether a
            communicator's ranks can take it is seen at their next collective.
    """

    def __init__(self, name: str):
        self._before = wanted()
        error: Exception | None = None
        try:
            name = _checked(name)
        except ValueError as caught:
            error = caught
        channel_of(None).agree("device_transport", f"device_transport({name!r})", error)
        _wanted().name = name

    def __enter__(self) -> device_transport:
        return self

    def __exit__(self, *of: object) -> None:
        _wanted().name = self._before


def _checked(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"there is no device transport {name!r}: expected one of {', '.join(NAMES)}")
    return name
