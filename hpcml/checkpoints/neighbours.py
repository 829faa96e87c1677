"""Copies of a training's state in memory: what is on one rank only is kept by another rank, too."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.checkpoints.parts import Slice
from hpcml.collectives.channel import channel_of

TAG = 31
LONGEST = 1 << 30  # bytes of a message
GENERATIONS = 2  # a rank may have made a copy that another, which was torn out of it, has not


class Held(NamedTuple):
    """Elements from ``start`` on of an array of that ``shape``, flattened."""

    name: str
    start: int
    shape: tuple[int, ...]
    data: np.ndarray


class Generation(NamedTuple):
    """The state of one step: what every rank has whole, and slices, this rank's and those that it keeps for others."""

    step: int
    facts: str
    whole: dict[str, np.ndarray]
    slices: list[Held]


class Copy:
    """What `Neighbours.latest` found: as `hpcml.checkpoints.Checkpoint`, in memory."""

    def __init__(self, step: int, facts: dict[str, Any], arrays: dict[str, np.ndarray]):
        self.step, self.facts, self._arrays = step, facts, arrays
        self.names = sorted(arrays)

    def dtype(self, name: str) -> np.dtype:
        return self._arrays[name].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        return self._arrays[name].shape

    def read(self, name: str, out: np.ndarray | None = None, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The array, or elements ``start`` … ``stop`` of it flattened; a copy, in ``out`` if that is given."""
        found = self._arrays[name]
        if start != 0 or stop is not None:
            found = found.reshape(-1)[start:stop]
        if out is None:
            return found.copy()
        out[...] = found
        return out


class Neighbours:
    """Keeps the state of every so many steps in memory, such that it outlives the death of some ranks.

    Arrays that every rank has are copied on each. Of what is spread over the ranks (`Slice`), each rank's part goes to
    the next rank, or next but one: to the rank in the same place of the next node where there are several. With
    ``copies`` copies, that many deaths between two saves are survived, wherever they are. Two states are kept.

    It outlives communicators: every method takes that of the moment.

    Arguments: ``every``, steps from one copy to the next, for those who ask `is_due`; ``copies``, of each slice, on as
    many other ranks.

    Example, on every rank::

        copies = Neighbours(every=10)
        for attempt in hc.resilient():
            with attempt as comm:
                found = copies.latest(comm)
                step, w = (0, first_w) if found is None else (found.step, found.read("w"))
                while step < steps:
                    w -= 0.1 * hc.allreduce(gradient(w), op="mean", comm=comm)
                    step += 1
                    if copies.is_due(step):
                        copies.save(comm, step, {"w": w})
    """

    def __init__(self, every: int = 10, copies: int = 1) -> None:
        if every < 1 or copies < 1:
            raise ValueError(f"every={every}, copies={copies}; expected numbers of at least 1")
        self.every, self.copies = every, copies
        self._generations: list[Generation] = []

    def is_due(self, step: int) -> bool:
        return step % self.every == 0

    def save(
        self,
        comm: MPI.Intracomm,
        step: int,
        arrays: Mapping[str, np.ndarray | Slice],
        facts: dict[str, Any] | None = None,
    ) -> None:
        """Copy the state; ``arrays`` and ``facts`` as for `hpcml.checkpoints.Store.save`. Collective.

        Costs the copy, and one message of this rank's slices for each copy of them. Between two saves there has to be
        some other collective call, as there is in training. Where a rank dies in it, what was kept before still is.
        """
        whole, own = {}, []
        for name, value in arrays.items():
            if isinstance(value, Slice):
                own.append(Held(name, value.start, tuple(value.shape), np.array(value.data).reshape(-1)))
            else:
                whole[name] = np.array(value)
        slices = list(own)
        if any(isinstance(value, Slice) for value in arrays.values()):
            for dest, source in self._partners(comm):
                slices += _exchanged(own, dest, source, comm)
        generation = Generation(step, json.dumps({} if facts is None else facts), whole, slices)
        kept = [one for one in self._generations if one.step < step]
        self._generations = [*kept, generation][-GENERATIONS:]

    def latest(self, comm: MPI.Intracomm) -> Copy | None:
        """The newest state of which the ranks of ``comm`` have all parts; None where there is none. Collective.

        Every rank gets whole arrays for the time being, those of slices too. What is newer is forgotten.
        """
        mine = {
            one.step: [(held.name, held.start, held.data.size, held.shape, held.data.dtype.str) for held in one.slices]
            for one in self._generations
        }
        ranks = comm.allgather(mine)
        for step in sorted(set.intersection(*map(set, ranks)), reverse=True):
            parts = _parts([rank[step] for rank in ranks])
            if parts is not None:
                break
        else:
            self._generations = []
            return None
        self._generations = [one for one in self._generations if one.step <= step]
        generation = self._generations[-1]
        here = {(held.name, held.start, held.data.size): held.data for held in generation.slices}
        arrays = dict(generation.whole)
        for name, start, size, shape, dtype, rank in parts:
            array = arrays.setdefault(name, np.empty(shape, dtype))
            part = array.reshape(-1)[start : start + size]
            if comm.rank == rank:
                part[...] = here[name, start, size]
            hc.broadcast(part, root=rank, comm=comm)
        return Copy(step, json.loads(generation.facts), arrays)

    def _partners(self, comm: MPI.Intracomm) -> Iterator[tuple[int, int]]:
        """The ranks that keep this one's parts, each with the rank whose parts this one keeps in the same exchange."""
        machine = channel_of(comm).machine
        stride = machine.lanes if machine.nodes > 1 else 1
        for k in range(1, self.copies + 1):
            if k * stride % comm.size:
                yield (comm.rank + k * stride) % comm.size, (comm.rank - k * stride) % comm.size


def _exchanged(own: Sequence[Held], dest: int, source: int, comm: MPI.Intracomm) -> list[Held]:
    """This rank's slices go to ``dest``; those of ``source``."""
    heads = [(held.name, held.start, held.shape, held.data.dtype.str, held.data.size) for held in own]
    theirs = comm.sendrecv(heads, dest, TAG, None, source, TAG)
    sent = np.concatenate([held.data.view(np.uint8) for held in own]) if own else np.empty(0, np.uint8)
    lengths = [size * np.dtype(dtype).itemsize for *_, dtype, size in theirs]
    received = np.empty(sum(lengths), np.uint8)
    requests = [
        comm.Irecv([received[at : at + LONGEST], MPI.BYTE], source, TAG) for at in range(0, received.size, LONGEST)
    ]
    requests += [comm.Isend([sent[at : at + LONGEST], MPI.BYTE], dest, TAG) for at in range(0, sent.size, LONGEST)]
    MPI.Request.Waitall(requests)
    ends = np.cumsum(lengths)
    return [
        Held(name, start, shape, received[end - length : end].view(dtype))
        for (name, start, shape, dtype, _), length, end in zip(theirs, lengths, ends, strict=True)
    ]


def _parts(ranks: Sequence[Sequence[tuple]]) -> list[tuple] | None:
    """Who gives which elements of what is in slices, each once; None where some are on no rank."""
    held: dict[str, list[tuple]] = {}
    for rank, slices in enumerate(ranks):
        for name, start, size, shape, dtype in slices:
            held.setdefault(name, []).append((start, -size, rank, shape, dtype))
    parts = []
    for name in sorted(held):
        reached = 0
        for start, minus_size, rank, shape, dtype in sorted(held[name], key=lambda one: one[:3]):
            if start == reached and minus_size:
                parts.append((name, start, -minus_size, shape, dtype, rank))
                reached -= minus_size
        if reached != math.prod(held[name][0][3]):
            return None
    return parts
