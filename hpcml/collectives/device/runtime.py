"""What the device executor asks of a GPU: memory, streams, events, kernels, and handles to another process's memory.

Pointers and streams are plain integers, as CUDA's are. `hpcml.collectives.device.cuda` is the one that users have; a
stand-in whose memory is the host's lets the tests run everything above it, ordering included.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Memory(Protocol):
    """Device memory; it is given back when this object is gone."""

    pointer: int


class Event(Protocol):
    def done(self) -> bool:
        """Whether all that was on the stream when it was recorded is complete. Does not wait."""

    def synchronize(self) -> None: ...


class Runtime(Protocol):
    """One GPU, as this process sees it. Whatever takes a stream returns at once.

    name: in words. gpu: the same for all processes that use that GPU, and for no other GPU of the node.
    """

    name: str
    gpu: str

    def use(self) -> None:
        """Make it the calling thread's device."""

    def current_stream(self, kind: str) -> int:
        """On which the users of that kind of array work at this moment, in this thread."""

    def new_stream(self) -> int:
        """One that does not wait for others."""

    def record(self, stream: int) -> Event: ...

    def wait(self, stream: int, event: Event) -> None:
        """What is put on the stream from now on begins when the event has come."""

    def empty(self, nbytes: int, stream: int) -> Memory:
        """Memory for use on that stream; when it is given back it may be used again there at once."""

    def shareable(self, nbytes: int) -> Memory:
        """Memory of which there can be a handle."""

    def pinned(self, nbytes: int) -> np.ndarray:
        """Host memory, uint8, between which and the device copies run by themselves."""

    def copy(self, to: int, source: int, nbytes: int, stream: int) -> None:
        """Between any two places, of the host or of a device."""

    def launch(
        self, source: Path, options: tuple[str, ...], kernel: str, items: int, arguments: Sequence[float], stream: int
    ) -> None:
        """A kernel of a file, compiled with these options, for so many items.

        arguments: ints, which it takes as 64-bit integers or pointers, and floats, as doubles.
        """

    def array(self, kind: str, owner: Any, pointer: int, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Memory from `empty` as an array of a kind that users have."""

    def handle(self, pointer: int) -> tuple[bytes, int]:
        """Of the allocation in which it is, and how far from its start; OSError where there is none to be had.

        At most 72 bytes, which no other allocation of this process has, not even one in its place after it.
        """

    def open(self, handle: bytes) -> int:
        """Where another process's allocation is in this one; OSError where it cannot be mapped."""

    def close(self, pointer: int) -> None:
        """Of what was opened."""


@dataclass
class _Source:
    runtime_of: Callable[[int], Runtime] | None


@functools.cache
def _source() -> _Source:
    return _Source(None)


def use_runtimes(runtime_of: Callable[[int], Runtime] | None) -> None:
    """Take runtimes from there, by a pointer on their device (0: the current device). None: CUDA's, through CuPy."""
    _source().runtime_of = runtime_of


def runtime_of(pointer: int) -> Runtime:
    """The runtime of the device on which that memory is; 0: of the current one."""
    chosen = _source().runtime_of
    if chosen is not None:
        return chosen(pointer)
    from hpcml.collectives.device.cuda import runtime_of_pointer

    return runtime_of_pointer(pointer)
