"""The schedule of one rank, flattened: its sends and receives in order, what each waits for, and what gets finished."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from hpcml.collectives.schedule import NONE, BlockSet, Finish, Listed, Schedule

CUT_BYTES = 64 << 10  # a message in runs of so many bytes is sent run by run: cheaper than to copy them together


class Outgoing(NamedTuple):
    dest: int
    blocks: list[int]
    needs: int  # how many receives must have been folded before


class Incoming(NamedTuple):
    source: int
    blocks: list[int]
    fold: int
    sends_before: int  # how many sends come before it in the schedule
    needs: int  # how many receives must have been folded before it may overwrite its blocks


class Finishing(NamedTuple):
    block: int
    needs: int  # how many receives must have been folded before
    sends_before: int  # how many sends come before that pass on what is not finished


@dataclass
class Steps:
    """Sends, receives and what is to finish, each in the schedule's order."""

    sends: list[Outgoing] = field(default_factory=list)
    receives: list[Incoming] = field(default_factory=list)
    finishes: list[Finishing] = field(default_factory=list)

    def blocks(self) -> set[int]:
        """All blocks that are sent, received or finished."""
        sent, received = (e.blocks for e in self.sends), (e.blocks for e in self.receives)
        return {f.block for f in self.finishes}.union(*sent, *received)


def flatten(schedule: Schedule, sizes: np.ndarray, finish: bool, empty: bool) -> Steps:
    """The steps of a rank (the int that was given to ``schedule``), for blocks of ``sizes`` bytes.

    finish: the op has a last step. empty: messages without bytes are sent all the same.
    """
    steps = Steps()
    written: dict[int, int] = {}  # by so many receives has the block got its value
    read: dict[int, int] = {}  # the last of so many sends passes it on

    def needs(blocks: list[int]) -> int:
        return max(written.get(b, 0) for b in blocks)

    def messages(blocks: BlockSet) -> Iterator[list[int]]:
        numbers = _numbers(blocks, len(sizes))
        if numbers and (empty or sizes[numbers].any()):
            yield from _pieces(numbers, sizes)

    for item in schedule:
        if isinstance(item, Finish):
            for block in _numbers(item.blocks, len(sizes)) if finish else ():
                steps.finishes.append(Finishing(block, written.get(block, 0), read.get(block, 0)))
            continue
        for e in item:
            if int(e.dest) != NONE:
                for blocks in messages(e.send_blocks):
                    steps.sends.append(Outgoing(int(e.dest), blocks, needs(blocks)))
                    read.update(dict.fromkeys(blocks, len(steps.sends)))
        for e in item:
            if int(e.source) != NONE:
                for blocks in messages(e.recv_blocks):
                    incoming = Incoming(int(e.source), blocks, int(e.fold), len(steps.sends), needs(blocks))
                    steps.receives.append(incoming)
                    written.update(dict.fromkeys(blocks, len(steps.receives)))
    return steps


def _numbers(blocks: BlockSet, nblocks: int) -> list[int]:
    if isinstance(blocks, Listed):
        return np.asarray(blocks.numbers).tolist()
    first, count = int(blocks.first), int(blocks.count)
    return [(first + i) % nblocks for i in range(count)]


def _pieces(blocks: list[int], sizes: np.ndarray) -> list[list[int]]:
    """The messages that carry these blocks: one, or one for each run of consecutive blocks where runs are long.

    Both ends of a message know no more than the blocks and their sizes, and so cut alike.
    """
    runs = [blocks[:1]]
    for before, block in zip(blocks, blocks[1:], strict=False):
        if block == before + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    filled = [run for run in runs if sizes[run].any()]
    return filled if len(filled) > 1 and int(sizes[blocks].sum()) >= CUT_BYTES * len(filled) else [blocks]
