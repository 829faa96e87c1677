"""Proof, without MPI, that a schedule keeps its contract.

All ranks are played in one process. A rank's contribution to a block is a random element of a monoid, so that a wrong
fold gives a wrong product but for a chance of 2⁻⁶⁴: integers modulo 2⁶⁴ under addition, where the order of folding is
free, or affine maps x ↦ ax + b under composition, which is associative but does not commute, where it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from hpcml.collectives.algorithms import CATALOGUE, Algorithm
from hpcml.collectives.contracts import CONTRACTS, Contract, everybody
from hpcml.collectives.schedule import LEFT, NONE, REPLACE, BlockSet, Exchange, Finish, Listed, Round, Schedule


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


def verify_algorithm(algorithm: Algorithm, size: int, root: int = 0, segments: int = 1, per_node: int = 1) -> Cost:
    """`verify` one row of the catalogue, its formulas for rounds and volume included."""
    contract = CONTRACTS[algorithm.collective]
    blocks = algorithm.blocks(size, segments)
    nodes = (per_node,) if algorithm.hierarchical else ()
    where = f"{algorithm.collective} by {algorithm.name}, p={size}, root={root}, segments={segments}"
    where += f", per_node={per_node}" * algorithm.hierarchical
    try:
        schedule = algorithm.schedule(np.arange(size), size, root, segments, *nodes)
        cost = verify(schedule, contract, size, blocks, root, ordered=algorithm.ordered and root == 0)
    except ScheduleError as error:
        raise ScheduleError(f"{where}: {error}") from None
    stated = Cost(algorithm.rounds(size, segments, *nodes), algorithm.volume(size, segments, *nodes))
    if cost != stated:
        raise ScheduleError(f"{where}: stated {stated}, played {cost}")
    return cost


def verify_catalogue(largest: int = 64, catalogue: Sequence[Algorithm] = CATALOGUE) -> int:
    """Prove each algorithm for p = 1 … ``largest``; return how many schedules that was.

    For several roots where there is one, several segments and all equal nodes where they mean something.
    """
    proved = 0
    for algorithm in catalogue:
        rooted = CONTRACTS[algorithm.collective].rooted
        for size in range(1, largest + 1):
            roots = sorted({0, 1 % size, size // 2, size - 1}) if rooted else (0,)
            segments = (1, 3) if algorithm.segmented else (1,)
            nodes = [q for q in range(1, size + 1) if size % q == 0] if algorithm.hierarchical else (1,)
            for case in product(roots, segments, nodes):
                verify_algorithm(algorithm, size, *case)
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
        self.want = self._wanted(contract) if contract.reduces else (self.scale[0], shift)
        self.sent = np.zeros(size, np.int64)
        self.received = np.zeros(size, np.int64)

    def _wanted(self, contract: Contract) -> tuple[np.ndarray, np.ndarray]:
        """The fold, in rank order, of the ranks that take part in what each rank ends with."""
        folds = [(self.scale[0], self.shift[0])]
        for rank in range(1, self.size):
            folds.append(_compose(folds[-1], (self.scale[rank], self.shift[rank])))
        summands = contract.prefix(np.arange(self.size), self.size) if contract.prefix else self.size
        last = np.maximum(self._column(summands) - 1, 0)  # a fold of nobody is promised to nobody
        scale, shift = zip(*folds, strict=True)
        return _finished((np.array(scale)[last], np.array(shift)[last]))

    def play(self, round_: Round, number: int) -> None:
        # What is sent is read first, for all exchanges, as they are concurrent.
        for arrivals in [self._arrivals(exchange, number) for exchange in round_]:
            self._take(number, *arrivals)

    def finish(self, blocks: BlockSet) -> None:
        ranks = np.arange(self.size)
        count, b = self._numbers(blocks, ranks)
        r = np.repeat(ranks, count)
        absent = ~self.held[r, b]
        if absent.any():
            raise ScheduleError(f"rank {r[absent][0]} finishes block {b[absent][0]}, which it does not hold")
        self.scale[r, b], self.shift[r, b] = _finished((self.scale[r, b], self.shift[r, b]))

    def check_end(self, promised: np.ndarray) -> None:
        wrong = promised & ~(self.held & (self.scale == self.want[0]) & (self.shift == self.want[1]))
        if wrong.any():
            rank, block = np.argwhere(wrong)[0]
            state = "a wrong value of" if self.held[rank, block] else "nothing of"
            raise ScheduleError(f"rank {rank} ends with {state} block {block}")

    def _column(self, value: object) -> np.ndarray:
        return np.broadcast_to(np.asarray(value, np.int64), self.size)

    def _numbers(self, blocks: BlockSet, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many blocks each of ``ranks`` means, and their numbers, one rank's after the other's."""
        if isinstance(blocks, Listed):
            numbers = np.asarray(blocks.numbers, np.int64)
            numbers = np.broadcast_to(numbers, (self.size, numbers.shape[-1]))[ranks]
            again = np.diff(np.sort(numbers)) == 0
            if again.any() or ((numbers < 0) | (numbers >= self.blocks)).any():
                raise ScheduleError(f"{numbers.tolist()} are not different blocks from 0 to {self.blocks - 1}")
            return np.full(len(ranks), numbers.shape[-1]), numbers.reshape(-1)
        first, count = self._column(blocks.first)[ranks], self._column(blocks.count)[ranks]
        if ((count < 0) | (count > self.blocks)).any():
            raise ScheduleError(f"runs of {count.tolist()} blocks, of {self.blocks} there are")
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return count, (np.repeat(first, count) + within) % self.blocks

    def _arrivals(self, exchange: Exchange, number: int) -> tuple[np.ndarray, ...]:
        """What moves, an entry for each (receiver, block): receiver, block, fold, and the value (scale, shift)."""
        dest, source = self._column(exchange.dest), self._column(exchange.source)
        self._check_partners(dest, source, number)
        receivers = np.flatnonzero(source != NONE)
        senders = source[receivers]
        room, into = self._numbers(exchange.recv_blocks, receivers)
        count, b = self._numbers(exchange.send_blocks, senders)
        if not np.array_equal(room, count) or not np.array_equal(into, b):
            self._complain(exchange, senders, receivers, number)
        self.sent[senders] += count
        self.received[receivers] += count
        r, origin = np.repeat(receivers, count), np.repeat(senders, count)
        absent = ~self.held[origin, b]
        if absent.any():
            raise ScheduleError(
                f"round {number}: rank {origin[absent][0]} sends block {b[absent][0]}, which it does not hold"
            )
        return r, b, self._column(exchange.fold)[r], self.scale[origin, b], self.shift[origin, b]

    def _check_partners(self, dest: np.ndarray, source: np.ndarray, number: int) -> None:
        for partner in (dest, source):
            wrong = (partner != NONE) & ((partner < 0) | (partner >= self.size))
            if wrong.any():
                rank = np.flatnonzero(wrong)[0]
                raise ScheduleError(f"round {number}: rank {rank} has the partner {partner[rank]}")
        senders, receivers = np.flatnonzero(dest != NONE), np.flatnonzero(source != NONE)
        for rank in senders[source[dest[senders]] != senders]:
            raise ScheduleError(
                f"round {number}: rank {rank} sends to rank {dest[rank]}, which does not receive from it"
            )
        for rank in receivers[dest[source[receivers]] != receivers]:
            raise ScheduleError(f"round {number}: rank {rank} waits for rank {source[rank]}, which does not send to it")

    def _complain(self, exchange: Exchange, senders: np.ndarray, receivers: np.ndarray, number: int) -> None:
        for origin, rank in zip(senders, receivers, strict=True):
            sent = self._numbers(exchange.send_blocks, np.array([origin]))[1].tolist()
            expected = self._numbers(exchange.recv_blocks, np.array([rank]))[1].tolist()
            if sent != expected:
                raise ScheduleError(
                    f"round {number}: rank {origin} sends blocks {sent} to rank {rank}, which expects {expected}"
                )

    def _take(self, number: int, r, b, fold, scale, shift) -> None:
        folds = fold != REPLACE
        missing = folds & ~self.held[r, b]
        if missing.any():
            raise ScheduleError(
                f"round {number}: rank {r[missing][0]} folds into block {b[missing][0]}, which it does not hold"
            )
        mine, theirs = (self.scale[r, b], self.shift[r, b]), (scale, shift)
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
