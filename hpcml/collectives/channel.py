"""What hpcml keeps for one communicator: a private duplicate of it, and the bindings made on it so far.

The duplicate keeps our messages apart from the caller's. It hangs on the caller's communicator as an MPI attribute, so
it lives as long as that, and is freed with it.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml.collectives.errors import ArgumentError, MismatchError, ranks_phrase
from hpcml.collectives.stall import AGREEING, Alarms, farewell

KEPT = 256  # bindings kept per communicator; the one unused for longest goes first
KEPT_BYTES = 1 << 28  # and the bytes of the arrays they are for, as their scratch memory is of that order
REMEMBERED = 64  # calls whose description is kept
LISTEN = 1024  # calls between two looks for alarms of others, on a rank that never waits for long itself


class Channel:
    """A communicator of hpcml's own, and the bindings on it."""

    def __init__(self, comm: MPI.Comm):
        if comm.Is_inter():
            raise TypeError("collectives need an intracommunicator, got an intercommunicator: merge it first (Merge)")
        self.comm = comm.Dup()
        self.comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank, self.size = comm.rank, comm.size
        self.number = 0  # of calls entered
        self.alarms = Alarms(self)
        self._calls: list[str | None] = [None] * REMEMBERED
        self._parent = comm
        self._abandoned = self.freed = False
        self.bindings: OrderedDict[Hashable, Any] = OrderedDict()
        self._kept_bytes = 0
        self._tags = 0
        self._last_tag: int = MPI.COMM_WORLD.Get_attr(MPI.TAG_UB) or 32767
        _open_channels().add(self)

    def enter(self, call: str) -> None:
        """Count a call, and remember what it was; every rank enters the same calls in the same order."""
        self.number = number = self.number + 1
        self._calls[number % REMEMBERED] = call
        if not number % LISTEN:
            self.alarms.hear()

    def call_numbered(self, number: int) -> str | None:
        """What the call of that number was, if it is one of the last; None otherwise."""
        return self._calls[number % REMEMBERED] if 0 <= self.number - number < REMEMBERED else None

    def abandon(self) -> None:
        """Leave this channel, which has messages in it that nobody will take; the next call makes another."""
        self._abandoned = True
        _open_channels().discard(self)
        self._parent.Delete_attr(_keyval())

    def free(self) -> None:
        self.freed = True
        self.bindings.clear()
        _open_channels().discard(self)
        if not self._abandoned:
            self.comm.Free()

    def next_tag(self) -> int:
        """A tag for a new binding. Bindings are made in the same order on every rank, so it is the same on all."""
        self._tags = self._tags % self._last_tag + 1
        return self._tags

    def find(self, key: Hashable) -> Any:
        """The binding kept under ``key``, or None. Ranks look up in one order, so they forget in one order."""
        binding = self.bindings.get(key)
        if binding is not None:
            self.bindings.move_to_end(key)
        return binding

    def keep(self, key: Hashable, binding: Any) -> None:
        """Keep a binding (anything with ``nbytes``, the same on every rank) until others push it out."""
        self.bindings[key] = binding
        self._kept_bytes += binding.nbytes
        while len(self.bindings) > KEPT or (self._kept_bytes > KEPT_BYTES and len(self.bindings) > 1):
            self._kept_bytes -= self.bindings.popitem(last=False)[1].nbytes

    def agree(self, call: str, said: str, error: Exception | None = None) -> None:
        """Check that every rank said the same and none has an error.

        Raises on every rank alike: `ArgumentError` where all have the same error, `MismatchError` with what each rank
        said otherwise. Where all is well it costs one all-reduce of 40 bytes. Enters the call.
        """
        self.enter(AGREEING + (said if error is None else f"{call}: {error}"))
        text = said if error is None else str(error)
        digest = hashlib.blake2b(text.encode(), digest_size=14).digest()
        a, b = int.from_bytes(digest[:7], "little"), int.from_bytes(digest[7:], "little")
        # Everybody has the same number where the largest is also the smallest.
        largest = self._folded("max", [a, -a, b, -b, int(error is not None)]).tolist()
        if not largest[4] and largest[0] == -largest[1] and largest[2] == -largest[3]:
            self._calls[self.number % REMEMBERED] = said
            return
        self._calls[self.number % REMEMBERED] = None  # it is known; alarms about it come too late
        ranks: dict[str, list[int]] = {}
        for rank, theirs in enumerate(self.comm.allgather(text)):
            ranks.setdefault(theirs, []).append(rank)
        if len(ranks) == 1:
            raise ArgumentError(f"{call}: {text}")
        listing = "; ".join(f"{ranks_phrase(at)}: {theirs}" for theirs, at in ranks.items())
        raise MismatchError(f"{call}: the ranks' calls do not fit together. {listing}. Every rank must pass the same.")

    def numbers(self, mine: Sequence[int]) -> np.ndarray:
        """All ranks' integers, shape (p, k): the k of this rank are ``mine``. Every rank passes as many."""
        table = np.zeros((self.size, len(mine)), np.int64)
        table[self.rank] = mine
        return self._folded("sum", table.reshape(-1)).reshape(table.shape)

    def any(self, call: str, flag: bool) -> bool:
        """Whether ``flag`` is set on any rank. Enters the call."""
        self.enter(call)
        return bool(self._folded("max", [int(flag)])[0])

    def _folded(self, op: str, values: Sequence[int] | np.ndarray) -> np.ndarray:
        """An all-reduce of few integers, by our own engine: it gives way where ranks share a core."""
        from hpcml.collectives.binding import Binding
        from hpcml.collectives.ops import OPS

        given = np.array(values, np.int64)
        key = ("agreement", op, len(given))
        binding = self.find(key)
        if binding is None:
            name = "recursive_doubling"
            binding = Binding(self, "allreduce", name, OPS[op], given.dtype, (len(given),))
            self.keep(key, binding)
        folded = np.empty_like(given)
        binding.run(given, folded)
        return folded


def channel_of(comm: MPI.Comm | None) -> Channel:
    """The channel of ``comm`` (None: MPI.COMM_WORLD). The first call on a communicator is collective."""
    if comm is None:
        comm = MPI.COMM_WORLD
    channel: Any = comm.Get_attr(_keyval())
    if channel is None:
        channel = Channel(comm)
        comm.Set_attr(_keyval(), channel)
    return channel


@functools.cache
def _open_channels() -> weakref.WeakSet[Channel]:
    """The channels of this process; they take their leave when it ends."""
    channels: weakref.WeakSet[Channel] = weakref.WeakSet()
    atexit.register(lambda: farewell(list(channels)))
    return channels


@functools.cache
def _keyval() -> int:
    def free(comm: MPI.Comm, keyval: int, channel: Channel) -> None:
        channel.free()

    return MPI.Comm.Create_keyval(delete_fn=free)
