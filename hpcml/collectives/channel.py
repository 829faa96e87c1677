"""What hpcml keeps for one communicator: a private duplicate of it, and the bindings made on it so far.

The duplicate keeps our messages apart from the caller's. It hangs on the caller's communicator as an MPI attribute, so
it lives as long as that, and is freed with it.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from itertools import count
from secrets import randbits
from typing import Any, NoReturn

import numpy as np
from mpi4py import MPI

from hpcml.collectives import failures, sites
from hpcml.collectives.agreement import Agreement, fingerprint, verdict
from hpcml.collectives.errors import ArgumentError, MismatchError, ranks_phrase
from hpcml.collectives.machine import find_machine
from hpcml.collectives.memory import pin
from hpcml.collectives.naming import members, records, told_apart
from hpcml.collectives.shared.mapping import can_share
from hpcml.collectives.shared.rooms import Rooms
from hpcml.collectives.shared.single_copy import reachable
from hpcml.collectives.stall import AGREEING, Alarms, open_channels
from hpcml.collectives.under_way import under_way
from hpcml.collectives.waits import waiting

KEPT = 256  # bindings kept per communicator; the one unused for longest goes first
KEPT_BYTES = 1 << 28  # and the bytes of the arrays they are for, as their scratch memory is of that order
REMEMBERED = 64  # calls whose description is kept
AGREED = True, False  # all said the same, none has failed
LISTEN = 1024  # calls between two looks for alarms of others, on a rank that never waits for long itself


class Channel:
    """A communicator of hpcml's own, and the bindings on it. Collective: every rank of ``comm`` makes it.

    enter: count a call, and remember what it was; every rank enters the same calls in the same order. A call that is
    not agreed on in another way enters here, and where the channel is checked this is where ranks compare it.
    """

    enter: Callable[[str], None]

    def __init__(self, comm: MPI.Comm):
        if comm.Is_inter():
            raise TypeError("collectives need an intracommunicator, got an intercommunicator: merge it first (Merge)")
        self.comm = comm.Dup()
        self.comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank, self.size = comm.rank, comm.size
        self.number = 0  # of calls entered
        self.alarms = Alarms(self)
        self.serial = next(_serials())  # in the order in which they were made
        self.in_native = 0  # the number of the call in which this rank is inside the MPI library
        self._calls: list[str | None] = [None] * REMEMBERED
        self._sites: list[sites.Site | None] | None = None
        self.name = ""
        self._parent, self.handle = comm, comm.handle
        self._abandoned = self.freed = self.lost = False
        self.bindings: OrderedDict[Hashable, Any] = OrderedDict()
        self._latest: Any = None  # of them, that was found or kept
        self._kept_bytes = 0
        self.rooms = Rooms()
        self._tags = self._flights = 0
        self.links: Any = None  # for arrays in GPU memory, once there are any (see `hpcml.collectives.device`)
        self._half_tags: int = (MPI.COMM_WORLD.Get_attr(MPI.TAG_UB) or 32767) // 2
        self.token = 0  # what no other channel has, not even one whose communicator was freed before
        with failures.deaths_of(self):
            self._meet()

    def _meet(self) -> None:
        """What the ranks find out together."""
        from hpcml.collectives.checking import wanted

        self.machine = find_machine(self.comm)
        self._agreement = Agreement(self)
        checked, self.token = self._folded("max", [wanted(), 1 + randbits(62)]).tolist()
        self.check(bool(checked))
        if records():
            self.record()
        if self.machine.lanes > 1:
            shares = can_share(self)
            self.machine = replace(self.machine, shares=shares, process_ids=reachable(self) if shares else ())
        open_channels().add(self)

    def check(self, on: bool) -> None:
        """Whether every call is compared from now on. Ranks must turn it on, and off, between the same two calls."""
        self.checked = on
        # On the instance, so that a call that is not checked pays nothing for the question.
        self.enter = self._enter_checked if on and self.size > 1 else self._count

    def _count(self, call: str) -> None:
        self.number = number = self.number + 1
        self._calls[number % REMEMBERED] = call
        if self._sites is not None:
            self._sites[number % REMEMBERED] = sites.here()
        if not number % LISTEN:
            self.alarms.hear()

    def _enter_checked(self, call: str) -> None:
        self._count(AGREEING + call)
        self._compare(call.partition("(")[0], call)

    def call_numbered(self, number: int) -> str | None:
        """What the call of that number was, if it is one of the last; None otherwise."""
        return self._calls[number % REMEMBERED] if 0 <= self.number - number < REMEMBERED else None

    def record(self) -> None:
        """From now on remember the lines that calls came from, and have a name that other ranks understand."""
        self._sites = [None] * REMEMBERED
        self.name = told_apart(members(self._parent))

    def call_in_words(self, number: int, site: sites.Site | None = None) -> str:
        """A call and its line; ``site``: where that is known to the caller."""
        if site is None and self._sites is not None:
            site = self._sites[number % REMEMBERED]
        return (self.call_numbered(number) or "a call").removeprefix(AGREEING) + sites.at(site)

    def last_calls(self) -> list[tuple[int, str]]:
        """The calls that are remembered, by number."""
        first = max(1, self.number - REMEMBERED + 1)
        return [(number, self.call_in_words(number)) for number in range(first, self.number + 1)]

    def abandon(self) -> None:
        """Leave this channel, which has messages in it that nobody will take; the next call makes another."""
        if not self._abandoned:
            self._abandoned = True
            self._parent.Delete_attr(_keyval())

    def revoke(self) -> None:
        """A rank has died: end all that goes on here, on every rank, and let go of it."""
        if self.lost:
            return
        self.lost = True
        self.comm.Revoke()
        open_channels().discard(self)
        for program in [program for program in list(under_way()) if program.channel is self]:
            under_way().discard(program)
            pin(program)  # MPI may still write what was on its way from those that live

    def free(self) -> None:
        self.freed = True
        self.links = None
        self.bindings.clear()
        self._latest = None
        open_channels().discard(self)
        if not self._abandoned:
            self.comm.Free()

    def next_tag(self) -> int:
        """A tag for a new binding. Bindings are made in the same order on every rank, so it is the same on all."""
        self._tags = self._tags % self._half_tags + 1
        return self._tags

    def flight_tags(self, count: int) -> int:
        """The first of ``count`` tags for runs in the background; these are begun in the same order on every rank."""
        if self._flights + count > self._half_tags:
            self._flights = 0
        self._flights += count
        return self._half_tags + self._flights - count + 1

    def find(self, key: Hashable) -> Any:
        """The binding kept under ``key``, or None. Ranks look up in one order, so they forget in one order."""
        binding = self.bindings.get(key)
        if binding is not None and binding is not self._latest:
            self.bindings.move_to_end(key)
            self._latest = binding
        return binding

    def keep(self, key: Hashable, binding: Any) -> None:
        """Keep a binding (anything with ``nbytes``, the same on every rank) until others push it out."""
        if key in self.bindings:
            self._kept_bytes -= self.bindings.pop(key).nbytes
        self.bindings[key] = self._latest = binding
        self._kept_bytes += binding.nbytes
        while len(self.bindings) > KEPT or (self._kept_bytes > KEPT_BYTES and len(self.bindings) > 1):
            self._kept_bytes -= self.bindings.popitem(last=False)[1].nbytes

    @functools.cached_property
    def processes(self) -> tuple[Hashable, ...]:
        """Who the ranks are, to be compared between channels: their ranks in MPI.COMM_WORLD, if they are in it."""
        found = self.comm.group.Translate_ranks(None, MPI.COMM_WORLD.group)
        return tuple(rank if rank != MPI.UNDEFINED else object() for rank in found)

    @functools.cached_property
    def members(self) -> frozenset[Hashable]:
        return frozenset(self.processes)

    def agree(self, call: str, said: str, error: Exception | None = None, tell: Sequence[int] = ()) -> np.ndarray:
        """Check that every rank said the same and none has an error; return all ranks' ``tell``, shape (p, k).

        Raises on every rank alike: `ArgumentError` where all have the same error, `MismatchError` with what each rank
        said otherwise. Where all is well it costs one all-reduce of 24 + 8·p·k bytes. Enters the call.

        tell: k integers of at least 0, to be known to all; every rank has as many.
        """
        self._count(AGREEING + (said if error is None else f"{call}: {error}"))
        return self._compare(call, said, error, tell)

    def _compare(self, call: str, said: str, error: Exception | None = None, tell: Sequence[int] = ()) -> np.ndarray:
        """Compare what the ranks say of the call that they have just entered, and its number; as `agree`."""
        number, text = self.number, said if error is None else str(error)
        told: np.ndarray = np.zeros((self.size, len(tell)), np.int64)
        told[self.rank] = tell
        word = fingerprint(text) + number
        if len(tell) and not self.checked:  # in one message, which only a rank with as much to tell understands
            folded = self._folded("max", [word, -word, int(error is not None), *told.reshape(-1).tolist()])
            reached, told = verdict(*folded[:3].tolist()) == AGREED, folded[3:].reshape(told.shape)
        else:
            reached = self._agreement.compared(word, error is not None) == AGREED
            if reached and len(tell):
                told = self._folded("max", told.reshape(-1)).reshape(told.shape)
        if reached:
            self._calls[number % REMEMBERED] = said
            return told
        self._calls[number % REMEMBERED] = None  # it is known; alarms about it come too late
        # Some ranks may have looked up what others did not know: what is forgotten next would not be the same.
        self.bindings.clear()
        self._latest = None
        self._kept_bytes = 0
        self._disagree(call, text, error is not None)

    def _disagree(self, call: str, text: str, failed: bool) -> NoReturn:
        """Raise what all ranks have to raise, once it is known that they do not agree."""
        with failures.deaths_of(self):
            said = self.comm.allgather((self.number, text, sites.at(sites.here())))
        if len({text for _, text, _ in said}) == 1 and failed:
            raise ArgumentError(f"{call}: {text}")
        numbered = len({number for number, _, _ in said}) > 1
        ranks: dict[str, list[int]] = {}
        for rank, (number, theirs, site) in enumerate(said):
            ranks.setdefault(f"{theirs}{site}" + f" (call {number} on this communicator)" * numbered, []).append(rank)
        listing = "; ".join(f"{ranks_phrase(at)}: {theirs}" for theirs, at in ranks.items())
        raise MismatchError(f"{call}: the ranks' calls do not fit together. {listing}. Every rank must pass the same.")

    def still(self, said: str, holds: bool) -> bool:
        """Whether what the ranks take for granted in a call that they have just entered ``holds`` on every rank.

        Where they are not all in that call it raises `MismatchError`, on every rank.
        """
        same, failed = self._agreement.compared(fingerprint(said) + self.number, not holds)
        if not same:
            self._disagree(said.partition("(")[0], said, False)
        return not failed

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
    found = _by_handle().get(comm.handle)  # quicker than the attribute, to which it is bound
    if found is not None:
        return found
    with waiting("the first collective on a communicator"):
        try:
            channel = Channel(comm)
        except MPI.Exception as error:
            if failures.is_death(error):
                raise failures.found_dead(comm) from None
            raise
    comm.Set_attr(_keyval(), channel)
    _by_handle()[channel.handle] = channel
    return channel


def known_channel(comm: MPI.Comm) -> Channel | None:
    """The channel of ``comm``, if there is one. Local."""
    return _by_handle().get(comm.handle)


@functools.cache
def _by_handle() -> dict[int, Channel]:
    """The channels of this process by the handle of the caller's communicator, which MPI may use again."""
    return {}


@functools.cache
def _serials() -> count[int]:
    return count()


@functools.cache
def _keyval() -> int:
    def free(comm: MPI.Comm, keyval: int, channel: Channel) -> None:
        _by_handle().pop(channel.handle, None)
        channel.free()

    return MPI.Comm.Create_keyval(delete_fn=free)
