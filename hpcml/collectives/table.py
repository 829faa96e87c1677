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
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from hpcml.collectives.schedule import LEFT, NONE, REPLACE, Blocks, Finish, Schedule

# What a row does.
RECV, SEND, WAIT, FOLD, FINISH, COPY = range(6)
# Its columns. SEND reads A; RECV and COPY write DST; FOLD is DST = A ∘ B. COUNT is in bytes, for FOLD and FINISH in
# items.
CODE, PEER, SLOT, COUNT, DST, DST_AT, A, A_AT, B, B_AT = range(10)
COLUMNS = 10
# The memory that a row names.
INPUT, OUTPUT, SCRATCH = range(3)

AHEAD = 8  # receives posted ahead of the one waited for
LANDING = 2  # of them, those that wait to be folded and so need memory of their own
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
    in_place: INPUT and OUTPUT are the same memory (source and target agree where both are given).
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


class _Outgoing(NamedTuple):
    dest: int
    blocks: list[int]
    needs: int  # how many receives must have been folded before


class _Incoming(NamedTuple):
    source: int
    blocks: list[int]
    fold: int
    sends_before: int  # how many sends come before it in the schedule
    needs: int  # how many receives must have been folded before it may overwrite its blocks


@dataclass
class _Steps:
    """The schedule of one rank, flattened: sends and receives in order, and the blocks each receive finishes."""

    sends: list[_Outgoing] = field(default_factory=list)
    receives: list[_Incoming] = field(default_factory=list)
    finishes: dict[int, list[int]] = field(default_factory=dict)  # after so many receives


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
    steps = _flatten(schedule, layout, finish, empty)
    return _Lowering(steps, rank * len(layout.sizes) // size, layout, itemsize).table()


def _flatten(schedule: Schedule, layout: Layout, finish: bool, empty: bool) -> _Steps:
    steps = _Steps()
    nblocks = len(layout.sizes)
    written = [0] * nblocks  # by so many receives has the block got its value

    def run(blocks: Blocks) -> list[int]:
        first, count = int(blocks.first), int(blocks.count)
        return [(first + i) % nblocks for i in range(count)]

    def moves(blocks: list[int]) -> bool:
        return bool(blocks) and (empty or any(layout.sizes[b] for b in blocks))

    for item in schedule:
        if isinstance(item, Finish):
            for block in run(item.blocks) if finish else ():
                steps.finishes.setdefault(written[block], []).append(block)
            continue
        for e in item:
            if int(e.dest) != NONE and moves(blocks := run(e.send_blocks)):
                steps.sends.append(_Outgoing(int(e.dest), blocks, max(written[b] for b in blocks)))
        for e in item:
            if int(e.source) != NONE and moves(blocks := run(e.recv_blocks)):
                needs = max(written[b] for b in blocks)
                steps.receives.append(_Incoming(int(e.source), blocks, int(e.fold), len(steps.sends), needs))
                for block in blocks:
                    written[block] = len(steps.receives)
    return steps


class _Lowering:
    """The state of one lowering: which rows there are, where each block is now, and who still reads what."""

    def __init__(self, steps: _Steps, origin: int, layout: Layout, itemsize: int):
        self.steps, self.layout, self.itemsize = steps, layout, itemsize
        self.sizes = [int(n) for n in layout.sizes]
        self.rows: list[list[int]] = []
        self.free: list[int] = []
        self.slots = 0
        self.peers: dict[int, int] = {}  # whom the request in a slot is about
        self.posted: deque[list[int]] = deque()  # slots of receives that are under way
        self.landings: deque[int] = deque()  # where each fold that is under way lands
        self.sends_out = 0  # sends emitted
        self.folded = 0  # receives done with
        self.readers: dict[tuple[int, int], list[int]] = {}  # (buffer, block) to sends under way that read it
        self.send_slots: dict[int, tuple[list[int], int]] = {}  # send to its slots, and self.folded when it went out
        folds = [self._nbytes(r.blocks) for r in steps.receives if r.fold != REPLACE]
        landing_bytes = -(-max(folds, default=0) // 64) * 64
        landings = min(len(folds), LANDING)
        self.free_landings = deque(i * landing_bytes for i in range(landings))
        # Scratch memory: the landings, then room for every block, the own ones first; it ends where it was last used.
        self.scratch = landings * landing_bytes
        self.scratch_at = _cyclic_offsets(self.sizes, origin, self.scratch)
        self.home = [self._initial(b) for b in range(len(self.sizes))]

    def table(self) -> Table:
        self._finish_blocks()
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
        for block, at in enumerate(self.layout.target):
            if at >= 0 and self.home[block] != Place(OUTPUT, int(at)):
                self._copy(block, Place(OUTPUT, int(at)))
        rows = np.array(self.rows, np.int64).reshape(-1, COLUMNS)
        return Table(rows, self.slots, self.scratch, int(rows[rows[:, CODE] == SEND, COUNT].sum()))

    # -- where blocks are

    def _initial(self, block: int) -> Place | None:
        at = int(self.layout.source[block])
        if at < 0:
            return None if self.sizes[block] else self._wanted(block)  # nothing is everywhere
        return Place(OUTPUT if self.layout.in_place else INPUT, at)

    def _wanted(self, block: int) -> Place:
        """Where a block is kept once this rank writes it."""
        at = int(self.layout.target[block])
        return Place(OUTPUT, at) if at >= 0 else self._in_scratch(block)

    def _in_scratch(self, block: int) -> Place:
        self.scratch = max(self.scratch, self.scratch_at[block] + self.sizes[block])
        return Place(SCRATCH, self.scratch_at[block])

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

    def _transfer(self, code: int, peer: int, place: Place, nbytes: int) -> list[int]:
        """Post one message, in pieces if it is too long for a C int; return its request slots."""
        slots = []
        for at in range(0, max(nbytes, 1), MESSAGE_BYTES):
            if not self.free:
                self.free.append(self.slots)
                self.slots += 1
            slot = self.free.pop()
            here = {"a" if code == SEND else "dst": Place(place.buffer, place.at + at)}
            self._row(code, peer=peer, slot=slot, count=min(nbytes - at, MESSAGE_BYTES), **here)
            slots.append(slot)
            self.peers[slot] = peer
        return slots

    def _wait(self, slots: list[int]) -> None:
        for slot in slots:
            self._row(WAIT, peer=self.peers[slot], slot=slot)
        self.free.extend(slots)

    def _copy(self, block: int, to: Place) -> None:
        if self.sizes[block]:
            self._row(COPY, count=self.sizes[block], dst=to, a=self._home_of(block))
        self.home[block] = to

    # -- sends

    def _send_what_is_ready(self) -> None:
        while self.sends_out < len(self.steps.sends) and self.steps.sends[self.sends_out].needs <= self.folded:
            outgoing = self.steps.sends[self.sends_out]
            places = self._side_by_side(outgoing.blocks)
            runs = self._runs(outgoing.blocks, places)
            start = places[runs[0][1]] if runs else places[0]
            slots = self._transfer(SEND, outgoing.dest, start, self._nbytes(outgoing.blocks))
            self.send_slots[self.sends_out] = slots, self.folded
            for block, place in zip(outgoing.blocks, places, strict=True):
                self.readers.setdefault((place.buffer, block), []).append(self.sends_out)
            self.sends_out += 1

    def _side_by_side(self, blocks: list[int]) -> list[Place]:
        """Where the blocks of a message are; they are copied beside each other first where they are not already."""
        places = [self._home_of(b) for b in blocks]
        if len(self._runs(blocks, places)) <= 1:
            return places
        for block, place in zip(blocks, places, strict=True):
            if place.buffer != SCRATCH:
                self._copy(block, self._in_scratch(block))
        places = [self._home_of(b) for b in blocks]
        if len(self._runs(blocks, places)) > 1:
            raise NotImplementedError(f"blocks {blocks} cannot be laid side by side")
        return places

    def _wait_for_send(self, sent: int) -> None:
        slots, _ = self.send_slots.pop(sent)
        self._wait(slots)
        for block in self.steps.sends[sent].blocks:
            for buffer in (INPUT, OUTPUT, SCRATCH):
                if sent in (readers := self.readers.get((buffer, block), [])):
                    readers.remove(sent)

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
        destination = {(p.buffer, b) for b, p in zip(incoming.blocks, self._destination(incoming), strict=True)}
        for later in range(self.sends_out, incoming.sends_before):  # these still have to read what is there now
            for block in self.steps.sends[later].blocks:
                home = self.home[block]
                if home is None or (home.buffer, block) in destination:
                    return False
        settled = self.steps.receives[current].sends_before
        readers = {reader for key in destination for reader in self.readers.get(key, ())}
        return all(r < settled and self.folded - self.send_slots[r][1] >= LANDING for r in readers)

    def _destination(self, incoming: _Incoming) -> list[Place]:
        """Where blocks that are not folded are received: at their target if that is one run, else in scratch memory."""
        wanted = [self._wanted(b) for b in incoming.blocks]
        if len(self._runs(incoming.blocks, wanted)) > 1:
            wanted = [self._in_scratch(b) for b in incoming.blocks]
        return wanted

    def _post(self, number: int) -> None:
        incoming = self.steps.receives[number]
        if incoming.fold == REPLACE:
            places = self._destination(incoming)
            runs = self._runs(incoming.blocks, places)
            if len(runs) > 1:
                raise NotImplementedError(f"blocks {incoming.blocks} cannot be received side by side")
            self._await_readers(incoming.blocks, places)
            start = places[runs[0][1]] if runs else places[0]
        else:
            start = Place(SCRATCH, self.free_landings.popleft())
            self.landings.append(start.at)
        self.posted.append(self._transfer(RECV, incoming.source, start, self._nbytes(incoming.blocks)))

    def _receive(self, incoming: _Incoming) -> None:
        self._wait(self.posted.popleft())
        if incoming.fold == REPLACE:
            places = self._destination(incoming)
        else:
            places = [self._wanted(b) for b in incoming.blocks]
            self._fold(incoming, places)
        for block, place in zip(incoming.blocks, places, strict=True):
            self.home[block] = place
        self.folded += 1
        self._finish_blocks()

    def _fold(self, incoming: _Incoming, wanted: list[Place]) -> None:
        self._await_readers(incoming.blocks, wanted)
        landing = at = self.landings.popleft()
        mine = [self._home_of(b) for b in incoming.blocks]
        for nbytes, first in self._runs(incoming.blocks, wanted, mine):
            theirs = Place(SCRATCH, at)
            a, b = (theirs, mine[first]) if incoming.fold == LEFT else (mine[first], theirs)
            self._row(FOLD, count=nbytes // self.itemsize, dst=wanted[first], a=a, b=b)
            at += nbytes
        self.free_landings.append(landing)

    def _finish_blocks(self) -> None:
        for block in self.steps.finishes.get(self.folded, ()):
            to = self._wanted(block)
            self._await_readers([block], [to])
            if self.sizes[block]:
                self._row(FINISH, count=self.sizes[block] // self.itemsize, dst=to, a=self._home_of(block))
            self.home[block] = to


def _cyclic_offsets(sizes: list[int], origin: int, start: int) -> list[int]:
    """Byte offsets of blocks laid end to end from ``start`` on, block ``origin`` first, wrapping round."""
    offsets, at = [0] * len(sizes), start
    for block in (*range(origin, len(sizes)), *range(origin)):
        offsets[block] = at
        at += sizes[block]
    return offsets
