"""Proof, without MPI, that a schedule keeps its contract.

All ranks are played in one process. A rank's contribution to a block is a random element of a monoid, so that a wrong
fold gives a wrong product but for a chance of 2⁻⁶⁴: integers modulo 2⁶⁴ under addition, where the order of folding is
free, or affine maps x ↦ ax + b under composition, which is associative but does not commute, where it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpcml.collectives.algorithms import CATALOGUE, Algorithm
from hpcml.collectives.contracts import CONTRACTS, Contract, everybody
from hpcml.collectives.schedule import LEFT, NONE, REPLACE, Blocks, Exchange, Finish, Round, Schedule


class ScheduleError(Exception):
    """A schedule does not keep its contract; the message names round, rank and block."""


@dataclass(frozen=True)
class Cost:
    """What a schedule was seen to cost: rounds, and blocks through the busiest rank in one direction."""

    rounds: int
    volume: int


def verify(
    schedule: Schedule, contract: Contract, size: int, blocks: int, root: int = 0, ordered: bool = False
) -> Cost:
    """Play ``schedule`` (made for ``np.arange(size)``) and check it against ``contract``; return its cost.

    It is checked that every receive meets its send in the same round, with the same blocks (so that there is no
    deadlock), that nobody sends or folds what it does not hold, and that everybody ends with what is promised.
    Raises `ScheduleError` at the first rank and block that is wrong.
    """
    players = _Players(contract, size, blocks, root, ordered)
    rounds = 0
    for item in schedule:
        if isinstance(item, Finish):
            players.finish(item.blocks)
        else:
            players.play(item, rounds)
            rounds += 1
    players.check_end(contract.after(everybody(size), size, blocks, root))
    return Cost(rounds, int(max(players.sent.max(), players.received.max())))


def verify_algorithm(algorithm: Algorithm, size: int, root: int = 0, segments: int = 1) -> Cost:
    """`verify` one row of the catalogue, its formulas for rounds and volume included."""
    contract = CONTRACTS[algorithm.collective]
    blocks = algorithm.blocks(size, segments)
    where = f"{algorithm.collective} by {algorithm.name}, p={size}, root={root}, segments={segments}"
    try:
        schedule = algorithm.schedule(np.arange(size), size, root, segments)
        cost = verify(schedule, contract, size, blocks, root, ordered=algorithm.ordered and root == 0)
    except ScheduleError as error:
        raise ScheduleError(f"{where}: {error}") from None
    stated = Cost(algorithm.rounds(size, segments), algorithm.volume(size, segments))
    if cost != stated:
        raise ScheduleError(f"{where}: stated {stated}, played {cost}")
    return cost


def verify_catalogue(largest: int = 64, catalogue: Sequence[Algorithm] = CATALOGUE) -> int:
    """Prove each algorithm for p = 1 … ``largest``, several roots and segments; return how many schedules that was."""
    proved = 0
    for algorithm in catalogue:
        rooted = CONTRACTS[algorithm.collective].rooted
        for size in range(1, largest + 1):
            for root in sorted({0, 1 % size, size // 2, size - 1}) if rooted else (0,):
                for segments in (1, 3) if algorithm.segmented else (1,):
                    verify_algorithm(algorithm, size, root, segments)
                    proved += 1
    return proved


class _Players:
    """All ranks at once: what each holds of each block, as fingerprints of shape (size, blocks)."""

    def __init__(self, contract: Contract, size: int, blocks: int, root: int, ordered: bool):
        rng = np.random.default_rng(12345)
        self.size, self.blocks = size, blocks
        self.held = contract.before(everybody(size), size, blocks, root)
        contributors = size if contract.reduces else 1
        # (scale, shift) of affine maps. Scale 1 leaves the shifts, which then simply add: the commutative case.
        scale = rng.integers(0, 2**63, (contributors, blocks), np.uint64) * 2 + 1 if ordered else 1
        shift = rng.integers(0, 2**64, (contributors, blocks), np.uint64)
        self.scale = np.broadcast_to(np.asarray(scale, np.uint64), (size, blocks)).copy()
        self.shift = np.broadcast_to(shift, (size, blocks)).copy()
        self.want = self.scale[0].copy(), self.shift[0].copy()
        for rank in range(1, contributors):
            self.want = _compose(self.want, (self.scale[rank], self.shift[rank]))
        if contract.reduces:
            self.want = _finished(self.want)
        self.sent = np.zeros(size, np.int64)
        self.received = np.zeros(size, np.int64)

    def play(self, round_: Round, number: int) -> None:
        before = self.held.copy(), self.scale.copy(), self.shift.copy()
        for exchange in round_:
            dest, first, count, source, into, room, fold = self._columns(exchange)
            self._check_partners(dest, first, count, source, into, room, number)
            receivers = np.flatnonzero(source != NONE)
            self.sent[source[receivers]] += room[receivers]
            self.received[receivers] += room[receivers]
            # One row for each (receiver, block) that moves.
            r = np.repeat(receivers, room[receivers])
            within = np.arange(len(r)) - np.repeat(np.cumsum(room[receivers]) - room[receivers], room[receivers])
            b = (into[r] + within) % self.blocks
            self._move(r, b, source[r], fold[r], before, number)

    def finish(self, blocks: Blocks) -> None:
        first, count = self._column(blocks.first), self._column(blocks.count)
        for rank in range(self.size):
            b = (first[rank] + np.arange(count[rank])) % self.blocks
            if not self.held[rank, b].all():
                raise ScheduleError(f"rank {rank} finishes block {b[~self.held[rank, b]][0]}, which it does not hold")
            self.scale[rank, b], self.shift[rank, b] = _finished((self.scale[rank, b], self.shift[rank, b]))

    def check_end(self, promised: np.ndarray) -> None:
        wrong = promised & ~(self.held & (self.scale == self.want[0]) & (self.shift == self.want[1]))
        if wrong.any():
            rank, block = np.argwhere(wrong)[0]
            state = "a wrong value of" if self.held[rank, block] else "nothing of"
            raise ScheduleError(f"rank {rank} ends with {state} block {block}")

    def _column(self, value: object) -> np.ndarray:
        return np.broadcast_to(np.asarray(value, np.int64), self.size)

    def _columns(self, e: Exchange) -> list[np.ndarray]:
        columns = (e.dest, e.send_blocks.first, e.send_blocks.count, e.source, e.recv_blocks.first, e.recv_blocks.count)
        return [self._column(value) for value in (*columns, e.fold)]

    def _check_partners(self, dest, first, count, source, into, room, number: int) -> None:
        for rank in np.flatnonzero((dest != NONE) | (source != NONE)):
            to, origin = dest[rank], source[rank]
            for partner in (to, origin):
                if partner != NONE and not 0 <= partner < self.size:
                    raise ScheduleError(f"round {number}: rank {rank} has the partner {partner}")
            if to != NONE and source[to] != rank:
                raise ScheduleError(f"round {number}: rank {rank} sends to rank {to}, which does not receive from it")
            if origin != NONE and dest[origin] != rank:
                raise ScheduleError(f"round {number}: rank {rank} waits for rank {origin}, which does not send to it")
            if to != NONE and (count[rank] != room[to] or (first[rank] - into[to]) % self.blocks):
                raise ScheduleError(
                    f"round {number}: rank {rank} sends blocks {first[rank]}+{count[rank]} to rank {to}, "
                    f"which expects {into[to]}+{room[to]}"
                )

    def _move(self, r, b, origin, fold, before, number: int) -> None:
        held, scale, shift = before
        absent = ~held[origin, b]
        if absent.any():
            at = np.flatnonzero(absent)[0]
            raise ScheduleError(f"round {number}: rank {origin[at]} sends block {b[at]}, which it does not hold")
        folds = fold != REPLACE
        missing = folds & ~self.held[r, b]
        if missing.any():
            at = np.flatnonzero(missing)[0]
            raise ScheduleError(f"round {number}: rank {r[at]} folds into block {b[at]}, which it does not hold")
        theirs = scale[origin, b], shift[origin, b]
        mine = self.scale[r, b], self.shift[r, b]
        from_right, from_left = _compose(mine, theirs), _compose(theirs, mine)
        for array, right, left, new in zip((self.scale, self.shift), from_right, from_left, theirs, strict=True):
            array[r, b] = np.where(folds, np.where(fold == LEFT, left, right), new)
        self.held[r, b] = True


def _compose(first: tuple, second: tuple) -> tuple:
    """x ↦ first(second(x)) for affine maps (scale, shift) modulo 2⁶⁴."""
    return first[0] * second[0], first[0] * second[1] + first[1]


def _finished(value: tuple) -> tuple:
    """What `Finish` makes of a value; twice is not the same as once."""
    return value[0] * np.uint64(3), value[1] * np.uint64(5) + np.uint64(7)
