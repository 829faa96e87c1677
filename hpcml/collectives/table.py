"""A schedule lowered to the steps of one rank: a table of int64 rows that an executor walks from top to bottom.

Lowering turns rounds into a pipeline. Receives are posted ahead; a send goes out as soon as the last block in it has
been folded, not when the round ends; a buffer is waited for only where it is about to be overwritten. So a schedule
with segments overlaps wire and arithmetic without saying so. Nothing here knows MPI.

Why it cannot deadlock: rows wait only for messages whose place in the schedule's order is at or before the row's own,
and a message at a given place is sent after the receives before that place. Messages between two ranks keep the
schedule's order, so one tag is enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import NamedTuple

import numpy as np

from hpcml.collectives.schedule import LEFT, REPLACE, Schedule
from hpcml.collectives.steps import Incoming, Steps, flatten

# What a row does.
RECV, SEND, WAIT, FOLD, FINISH, COPY = range(6)
# Its columns. SEND reads A; RECV and COPY write DST; FOLD is DST = A ∘ B. COUNT is in bytes (WAIT has that of its
# message), for FOLD and FINISH in items.
CODE, PEER, SLOT, COUNT, DST, DST_AT, A, A_AT, B, B_AT = range(10)
COLUMNS = 10
# The memory that a row names.
INPUT, OUTPUT, SCRATCH = range(3)
PACKED = 3  # while lowering: the end of SCRATCH, whose beginning is known last

AHEAD = 8  # receives posted ahead of the one waited for
LANDING = 2  # of them, those that wait to be folded and so need memory of their own
PACKINGS = 2  # sends under way from memory into which their blocks were copied
MESSAGE_BYTES = 1 << 30  # MPI counts are C ints: longer messages travel in pieces


class Place(NamedTuple):
    """Somewhere in memory: which buffer, and how many bytes into it."""

    buffer: int
    at: int


@dataclass(frozen=True)
class Layout:
    """Where the blocks of a collective lie on this rank. All arrays have one entry a block, in bytes.

    sizes: how long the block is, the same on every rank.
    source: where it lies in INPUT at the start; −1 where this rank does not hold it.
    target: where it has to lie in OUTPUT at the end; −1 where it is not wanted.
    in_place: INPUT and OUTPUT are the same memory.
    """

    sizes: np.ndarray
    source: np.ndarray
    target: np.ndarray
    in_place: bool = False


@dataclass(frozen=True)
class Table:
    """The steps of one rank: ``rows`` of shape (n, COLUMNS), request slots and bytes of scratch memory they need."""

    rows: np.ndarray
    slots: int
    scratch: int
    sent: int


def lower(
    schedule: Schedule,
    rank: int,
    size: int,
    layout: Layout,
    itemsize: int,
    *,
    finish: bool = False,
    empty: bool = False,
) -> Table:
    """The table of ``rank`` (an int, as given to ``schedule``).

    finish: the op has a last step. empty: messages without bytes are sent all the same (a barrier is nothing else).
    """
    steps = flatten(schedule, layout.sizes, finish, empty)
    return _Lowering(steps, rank * len(layout.sizes) // size, layout, itemsize).table()


class _Posted(NamedTuple):
    """A receive under way: its request slots, and where its blocks arrive."""

    slots: list[int]
    places: list[Place]


class _Lowering:
    """The state of one lowering: which rows there are, where each block is now, and who still reads what."""

    def __init__(self, steps: Steps, origin: int, layout: Layout, itemsize: int):
        self.steps, self.layout, self.itemsize = steps, layout, itemsize
        self.unfinished = sorted(steps.finishes, key=lambda f: f.needs)
        held, wanted = (np.flatnonzero(at >= 0).tolist() for at in (layout.source, layout.target))
        blocks = sorted(steps.blocks().union(held, wanted))  # those that this rank has to do with
        self.sizes = {b: int(layout.sizes[b]) for b in blocks}
        self.targets = {b: Place(OUTPUT, int(layout.target[b])) for b in wanted}
        self.rows: list[list[int]] = []
        self.free: list[int] = []
        self.slots = 0
        self.messages: dict[int, tuple[int, int]] = {}  # the peer and the bytes that the request in a slot is about
        self.posted: deque[_Posted] = deque()  # receives that are under way
        self.sends_out = 0  # sends emitted
        self.folded = 0  # receives done with
        self.readers: dict[tuple[int, int], list[int]] = {}  # (buffer, block) to sends under way that read it
        self.send_slots: dict[int, tuple[list[int], int]] = {}  # send to its slots, and self.folded when it went out
        self.packings: dict[int, tuple[int, Place]] = {}  # send under way to the room it was packed into
        self.free_packings: list[tuple[int, Place]] = []  # (bytes, place)
        self.packed = 0  # bytes of PACKED
        folds = [self._nbytes(r.blocks) for r in steps.receives if r.fold != REPLACE]
        landing_bytes = _aligned(max(folds, default=0))
        landings = min(len(folds), LANDING)
        self.free_landings = deque(i * landing_bytes for i in range(landings))
        # Scratch memory: the landings, then room for every block, the own ones first; it ends where it was last used.
        self.scratch = landings * landing_bytes
        self.scratch_at = _cyclic_offsets(self.sizes, origin, self.scratch)
        self.home = {b: self._initial(b) for b in blocks}

    def table(self) -> Table:
        self._move_aside()
        for number, incoming in enumerate(self.steps.receives):
            self._post_up_to(number, current=number)
            self._send_what_is_ready()
            if not self.posted:
                self._post(number)
            self._post_up_to(number + AHEAD, current=number)
            self._receive(incoming)
        self._send_what_is_ready()
        for sent in list(self.send_slots):
            self._wait_for_send(sent)
        stray = [b for b, target in self.targets.items() if self.home[b] != target]
        self._copy(stray, [self.targets[b] for b in stray])
        rows = np.array(self.rows, np.int64).reshape(-1, COLUMNS)
        packed_from = _aligned(self.scratch)
        for buffer, at in ((DST, DST_AT), (A, A_AT), (B, B_AT)):
            packed = rows[:, buffer] == PACKED
            rows[packed, buffer] = SCRATCH
            rows[packed, at] += packed_from
        scratch = packed_from + self.packed if self.packed else self.scratch
        return Table(rows, self.slots, scratch, int(rows[rows[:, CODE] == SEND, COUNT].sum()))

    # -- where blocks are

    def _initial(self, block: int) -> Place | None:
        at = int(self.layout.source[block])
        if at < 0:
            return None if self.sizes[block] else self._wanted(block)  # nothing is everywhere
        return Place(OUTPUT if self.layout.in_place else INPUT, at)

    def _move_aside(self) -> None:
        """In place, what lies where another block is wanted makes room for it before anything else."""
        if not self.layout.in_place:
            return
        elsewhere = [b for b in self.sizes if self.sizes[b] and self.layout.source[b] != self.layout.target[b]]
        leaving = [b for b in elsewhere if self.layout.source[b] >= 0]
        if leaving and any(b in self.targets for b in elsewhere):
            self._copy(leaving, self._room(leaving))

    def _wanted(self, block: int) -> Place:
        """Where a block is kept once this rank writes it."""
        return self.targets.get(block) or self._in_scratch(block)

    def _in_scratch(self, block: int) -> Place:
        self.scratch = max(self.scratch, self.scratch_at[block] + self.sizes[block])
        return Place(SCRATCH, self.scratch_at[block])

    def _room(self, blocks: list[int]) -> list[Place]:
        """New memory with these blocks side by side."""
        self.packed += (room := _aligned(self._nbytes(blocks)))
        return self._from(Place(PACKED, self.packed - room), blocks)

    def _from(self, start: Place, blocks: list[int]) -> list[Place]:
        """Where blocks are that lie side by side from ``start`` on."""
        ends = accumulate((self.sizes[b] for b in blocks), initial=start.at)
        return [Place(start.buffer, at) for at, _ in zip(ends, blocks, strict=False)]

    def _home_of(self, block: int) -> Place:
        place = self.home[block]
        if place is None:
            raise AssertionError(f"block {block} is used before it has a value: the schedule was not verified")
        return place

    def _nbytes(self, blocks: Iterable[int]) -> int:
        return sum(self.sizes[b] for b in blocks)

    def _runs(self, blocks: list[int], *places: list[Place]) -> list[tuple[int, ...]]:
        """Cut blocks into runs that are contiguous in each of ``places``: (bytes, index of the first block) each."""
        runs: list[tuple[int, ...]] = []
        ends: list[Place] = []
        for i, block in enumerate(blocks):
            size = self.sizes[block]
            here = [p[i] for p in places]
            if not size:
                continue
            if runs and ends == here:
                runs[-1] = (runs[-1][0] + size, runs[-1][1])
            else:
                runs.append((size, i))
            ends = [Place(p.buffer, p.at + size) for p in here]
        return runs

    # -- rows

    def _row(self, code: int, *, peer: int = 0, slot: int = 0, count: int = 0, dst=(0, 0), a=(0, 0), b=(0, 0)) -> None:
        self.rows.append([code, peer, slot, count, *dst, *a, *b])

    def _transfer(self, code: int, peer: int, blocks: list[int], places: list[Place]) -> list[int]:
        """Post one message, in pieces if it is too long for a C int; return its request slots."""
        runs = self._runs(blocks, places)
        if len(runs) > 1:
            raise AssertionError(f"blocks {blocks} do not lie side by side: {places}")
        place = places[runs[0][1]] if runs else places[0]
        nbytes = self._nbytes(blocks)
        slots = []
        for at in range(0, max(nbytes, 1), MESSAGE_BYTES):
            if not self.free:
                self.free.append(self.slots)
                self.slots += 1
            slot = self.free.pop()
            here = {"a" if code == SEND else "dst": Place(place.buffer, place.at + at)}
            count = min(nbytes - at, MESSAGE_BYTES)
            self._row(code, peer=peer, slot=slot, count=count, **here)
            slots.append(slot)
            self.messages[slot] = peer, count
        return slots

    def _wait(self, slots: list[int]) -> None:
        for slot in slots:
            peer, count = self.messages[slot]
            self._row(WAIT, peer=peer, slot=slot, count=count)
        self.free.extend(slots)

    def _copy(self, blocks: list[int], to: list[Place]) -> None:
        """Copy blocks to where they are from then on."""
        self._await_readers(blocks, to)
        self._copy_out(blocks, to)
        self.home.update(zip(blocks, to, strict=True))

    def _copy_out(self, blocks: list[int], to: list[Place]) -> None:
        homes = [self._home_of(b) for b in blocks]
        for nbytes, first in self._runs(blocks, homes, to):
            self._row(COPY, count=nbytes, dst=to[first], a=homes[first])

    # -- sends

    def _send_what_is_ready(self) -> None:
        self._finish_blocks()
        while self.sends_out < len(self.steps.sends) and self.steps.sends[self.sends_out].needs <= self.folded:
            outgoing = self.steps.sends[self.sends_out]
            places = self._side_by_side(outgoing.blocks)
            slots = self._transfer(SEND, outgoing.dest, outgoing.blocks, places)
            self.send_slots[self.sends_out] = slots, self.folded
            for block, place in zip(outgoing.blocks, places, strict=True):
                self.readers.setdefault((place.buffer, block), []).append(self.sends_out)
            self.sends_out += 1
            self._finish_blocks()

    def _side_by_side(self, blocks: list[int]) -> list[Place]:
        """Where the blocks of a message are; they are copied beside each other first where they are not already.

        Blocks that nobody wants here move to their places in scratch memory, where the next message may find them
        side by side too; otherwise the message gets a copy of its own.
        """
        places = [self._home_of(b) for b in blocks]
        if len(self._runs(blocks, places)) <= 1:
            return places
        moving = [b for b, place in zip(blocks, places, strict=True) if place.buffer != SCRATCH and self.sizes[b]]
        in_scratch = [Place(SCRATCH, self.scratch_at[b]) for b in blocks]
        if len(self._runs(blocks, in_scratch)) == 1 and not any(b in self.targets for b in moving):
            self._copy(moving, [self._in_scratch(b) for b in moving])
            return in_scratch
        places = self._packing(blocks)
        self._copy_out(blocks, places)
        return places

    def _packing(self, blocks: list[int]) -> list[Place]:
        """Room for a message that is copied together; it is used again when the message has gone."""
        if len(self.packings) >= PACKINGS:
            self._wait_for_send(min(self.packings))
        nbytes = self._nbytes(blocks)
        found = next((room for room in self.free_packings if room[0] >= nbytes), None)
        if found:
            self.free_packings.remove(found)
        else:
            found = nbytes, self._room(blocks)[0]
        self.packings[self.sends_out] = found
        return self._from(found[1], blocks)

    def _wait_for_send(self, sent: int) -> None:
        slots, _ = self.send_slots.pop(sent)
        self._wait(slots)
        for block in self.steps.sends[sent].blocks:
            for buffer in (INPUT, OUTPUT, SCRATCH, PACKED):
                if sent in (readers := self.readers.get((buffer, block), [])):
                    readers.remove(sent)
        if sent in self.packings:
            self.free_packings.append(self.packings.pop(sent))

    def _await_readers(self, blocks: list[int], places: list[Place]) -> None:
        for block, place in zip(blocks, places, strict=True):
            for reader in list(self.readers.get((place.buffer, block), ())):
                self._wait_for_send(reader)

    # -- receives

    def _post_up_to(self, last: int, current: int) -> None:
        number = current + len(self.posted)
        while number <= min(last, len(self.steps.receives) - 1) and self._may_post(number, current):
            self._post(number)
            number += 1

    def _may_post(self, number: int, current: int) -> bool:
        """Whether a receive can be posted already, without this rank waiting for anything in its future."""
        incoming = self.steps.receives[number]
        if incoming.fold != REPLACE:
            return bool(self.free_landings)
        if incoming.needs > self.folded:
            return False
        places = self._destination(incoming)
        if places is None:  # new memory is always free
            return True
        destination = {(p.buffer, b) for b, p in zip(incoming.blocks, places, strict=True)}
        arriving = set(incoming.blocks)
        for later in range(self.sends_out, incoming.sends_before):  # these still have to read what is there now
            if not arriving.isdisjoint(self.steps.sends[later].blocks):
                return False
        settled = self.steps.receives[current].sends_before
        readers = {reader for key in destination for reader in self.readers.get(key, ())}
        return all(r < settled and self.folded - self.send_slots[r][1] >= LANDING for r in readers)

    def _destination(self, incoming: Incoming) -> list[Place] | None:
        """Where blocks that are not folded are received: at their target if that is one run, else in scratch memory.

        None: where they are side by side neither here nor there, they get memory of their own.
        """
        wanted = [self._wanted(b) for b in incoming.blocks]
        if len(self._runs(incoming.blocks, wanted)) <= 1:
            return wanted
        in_scratch = [Place(SCRATCH, self.scratch_at[b]) for b in incoming.blocks]
        if len(self._runs(incoming.blocks, in_scratch)) == 1:
            return [self._in_scratch(b) for b in incoming.blocks]
        return None

    def _post(self, number: int) -> None:
        incoming = self.steps.receives[number]
        if incoming.fold == REPLACE:
            places = self._destination(incoming) or self._room(incoming.blocks)
            self._await_readers(incoming.blocks, places)
        else:
            places = self._from(Place(SCRATCH, self.free_landings.popleft()), incoming.blocks)
        self.posted.append(_Posted(self._transfer(RECV, incoming.source, incoming.blocks, places), places))

    def _receive(self, incoming: Incoming) -> None:
        slots, places = self.posted.popleft()
        self._wait(slots)
        if incoming.fold != REPLACE:
            places = self._fold(incoming, places)
        self.home.update(zip(incoming.blocks, places, strict=True))
        self.folded += 1
        self._finish_blocks()

    def _fold(self, incoming: Incoming, theirs: list[Place]) -> list[Place]:
        """Fold what has landed; return where the blocks are then."""
        wanted = [self._wanted(b) for b in incoming.blocks]
        self._await_readers(incoming.blocks, wanted)
        mine = [self._home_of(b) for b in incoming.blocks]
        for nbytes, first in self._runs(incoming.blocks, wanted, mine, theirs):
            a, b = mine[first], theirs[first]
            if incoming.fold == LEFT:
                a, b = b, a
            self._row(FOLD, count=nbytes // self.itemsize, dst=wanted[first], a=a, b=b)
        self.free_landings.append(theirs[0].at)
        return wanted

    def _finish_blocks(self) -> None:
        """Finish what can be: all that is folded, but for blocks that are still to be passed on as they are."""
        folded = list(takewhile(lambda f: f.needs <= self.folded, self.unfinished))
        for finishing in folded:
            block = finishing.block
            if finishing.sends_before > self.sends_out:
                continue
            self.unfinished.remove(finishing)
            to = self._wanted(block)
            self._await_readers([block], [to])
            if self.sizes[block]:
                self._row(FINISH, count=self.sizes[block] // self.itemsize, dst=to, a=self._home_of(block))
            self.home[block] = to


def _aligned(nbytes: int) -> int:
    """Rounded up to a cache line."""
    return -(-nbytes // 64) * 64


def _cyclic_offsets(sizes: dict[int, int], origin: int, start: int) -> dict[int, int]:
    """Byte offsets of blocks laid end to end from ``start`` on, block ``origin`` first, wrapping round."""
    offsets, at = {}, start
    for block in (*(b for b in sizes if b >= origin), *(b for b in sizes if b < origin)):
        offsets[block] = at
        at += sizes[block]
    return offsets
