"""What hpcml keeps for one communicator: a private duplicate of it, and the bindings made on it so far.

The duplicate keeps our messages apart from the caller's. It hangs on the caller's communicator as an MPI attribute, so it
lives as long as that, and is freed with it.
"""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml.collectives.errors import ArgumentError, MismatchError, abort_on_uncaught, ranks_phrase

KEPT = 256  # bindings kept per communicator; the one unused for longest goes first
KEPT_BYTES = 1 << 30  # and the bytes of the arrays they are for, as their scratch memory is of that order
TAGS = 16384  # tags used in turn, half of what MPI guarantees there to be


class Channel:
    """A communicator of hpcml's own, and the bindings on it."""

    def __init__(self, comm: MPI.Comm):
        if comm.Is_inter():
            raise TypeError("collectives need an intracommunicator, got an intercommunicator: merge it first (Merge)")
        self.comm = comm.Dup()
        self.comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank, self.size = comm.rank, comm.size
        self.bindings: OrderedDict[Hashable, Any] = OrderedDict()
        self._kept_bytes = 0
        self._tags = 0
        if MPI.COMM_WORLD.size > 1:
            abort_on_uncaught()

    def next_tag(self) -> int:
        """A tag for a new binding. Bindings are made in the same order on every rank, so it is the same on all."""
        self._tags = (self._tags + 1) % TAGS
        return self._tags

    def find(self, key: Hashable) -> Any:
        """The binding kept under ``key``, or None. Ranks look up in the same order, so they forget in the same order."""
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

    def agree(self, call: str, said: str, error: Exception | None = None, numbers: Sequence[int] = ()) -> np.ndarray:
        """Check that every rank said the same and none has an error; return all ranks' ``numbers``, shape (p, k).

        Raises on every rank alike: `ArgumentError` where all have the same error, `MismatchError` with what each rank
        said otherwise. One small allgather where all is well.
        """
        digest = hashlib.blake2b((said if error is None else f"!{error}").encode(), digest_size=16).digest()
        mine = np.array([*np.frombuffer(digest, np.int64), int(error is not None), *numbers], np.int64)
        everyone = np.empty((self.size, len(mine)), np.int64)
        self.comm.Allgather(mine, everyone)
        if not everyone[:, 2].any() and (everyone[:, :2] == everyone[0, :2]).all():
            return everyone[:, 3:]
        ranks: dict[str, list[int]] = {}
        for rank, text in enumerate(self.comm.allgather(said if error is None else str(error))):
            ranks.setdefault(text, []).append(rank)
        if len(ranks) == 1:
            raise ArgumentError(f"{call}: {next(iter(ranks))}")
        listing = "; ".join(f"{ranks_phrase(at)}: {text}" for text, at in ranks.items())
        raise MismatchError(f"{call}: the ranks' calls do not fit together. {listing}. Every rank must pass the same.")


def channel_of(comm: MPI.Comm | None) -> Channel:
    """The channel of ``comm`` (None: MPI.COMM_WORLD). The first call on a communicator is collective."""
    if comm is None:
        comm = MPI.COMM_WORLD
    channel = comm.Get_attr(_keyval())
    if channel is None:
        channel = Channel(comm)
        comm.Set_attr(_keyval(), channel)
    return channel


@functools.cache
def _keyval() -> int:
    def free(comm: MPI.Comm, keyval: int, channel: Channel) -> None:
        channel.bindings.clear()
        channel.comm.Free()

    return MPI.Comm.Create_keyval(delete_fn=free)
