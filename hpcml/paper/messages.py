"""The messages of a schedule spelt out, one by one: who sends which blocks to whom, and what becomes of them there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from hpcml.collectives.algorithms import Algorithm
from hpcml.collectives.phases import columns, lengths
from hpcml.collectives.schedule import REPLACE, Blocks, BlockSet, Finish, Round

LABEL = 12  # letters of a list of blocks, above which only their number is said


@dataclass(frozen=True)
class Message:
    """One message of a round.

    lane: its turn, at both of its ends, among those of the round. wraps: it goes round the end of the ranks.
    """

    source: int
    dest: int
    blocks: str
    folds: bool
    lane: int = 0
    wraps: bool = False


@dataclass(frozen=True)
class Step:
    """A round: its number, its messages, and the ranks that finish blocks after it."""

    number: int
    messages: tuple[Message, ...]
    finished: tuple[int, ...] = ()

    @property
    def lanes(self) -> int:
        return 1 + max((message.lane for message in self.messages), default=0)

    @property
    def crosses(self) -> bool:
        """Whether messages go both ways."""
        return len({message.dest > message.source for message in self.messages if not message.wraps}) == 2


def steps(algorithm: Algorithm, size: int, root: int = 0, segments: int = 1) -> list[Step]:
    """The rounds of one row of the catalogue, every message spelt out."""
    blocks = algorithm.blocks(size, segments)
    found: list[Step] = []
    for item in algorithm.schedule(np.arange(size), size, root, segments):
        if not isinstance(item, Finish):
            found.append(Step(len(found), tuple(_messages(item, size, blocks))))
        elif found:
            counts = np.broadcast_to(lengths(item.blocks), size)
            done = {*found[-1].finished, *np.flatnonzero(counts > 0).tolist()}
            found[-1] = Step(found[-1].number, found[-1].messages, tuple(sorted(done)))
    return found


def _messages(round_: Round, size: int, blocks: int) -> list[Message]:
    made = []
    sent_by: Counter[int] = Counter()
    received_by: Counter[int] = Counter()
    for e in round_:
        dest, sent, _, received, fold = columns(e, size)
        senders = np.flatnonzero(sent > 0)
        shifts = Counter(((dest[senders] - senders) % size).tolist())
        shift, often = shifts.most_common(1)[0] if shifts else (0, 0)
        for rank in senders.tolist():
            to = int(dest[rank])
            alike = (to - rank) % size == shift and 2 * often > max(size, 2)
            wraps = alike and 2 * abs(to - rank) > size
            label = _label(e.send_blocks, rank, size, blocks)
            lane = max(sent_by[rank], received_by[to])
            made.append(Message(rank, to, label, bool(fold[to] != REPLACE), lane, wraps))
            sent_by[rank] = received_by[to] = lane + 1
    return made


def _label(blocks: BlockSet, rank: int, size: int, total: int) -> str:
    """``3``, ``4–7``, ``6–7, 0`` (round the end), ``1, 4, 9``; nothing where the schedule has one block only."""
    if total == 1:
        return ""
    if isinstance(blocks, Blocks):
        first, count = (int(np.broadcast_to(x, size)[rank]) for x in blocks)
        numbers = [(first + i) % total for i in range(count)]
    else:
        numbers = np.broadcast_to(blocks.numbers, (size, np.shape(blocks.numbers)[-1]))[rank].tolist()
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] + 1 == number:
            runs[-1].append(number)
        else:
            runs.append([number])
    text = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
    return text if len(text) <= LABEL else f"{len(numbers)} blocks"
