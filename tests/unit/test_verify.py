"""Every schedule is proved, and a proof is worth something: schedules with a fault in them are not."""

import numpy as np
import pytest

from hpcml.collectives.algorithms import CATALOGUE
from hpcml.collectives.contracts import CONTRACTS
from hpcml.collectives.schedule import LEFT, NONE, REPLACE, RIGHT, Blocks, Exchange, Finish, Listed
from hpcml.collectives.verify import Cost, ScheduleError, verify, verify_catalogue

BY_NAME = {"ids": lambda a: f"{a.collective}-{a.name}"}


@pytest.mark.parametrize("algorithm", CATALOGUE, **BY_NAME)
def test_every_schedule_keeps_its_contract_and_its_formulas(algorithm):
    assert verify_catalogue(64, [algorithm]) >= 64


def columns(item, size):
    """The numbers of a round or a finish, a row each, for all ranks."""
    exchanges = [numbers(item.blocks)] if isinstance(item, Finish) else [
        [e.dest, *numbers(e.send_blocks), e.source, *numbers(e.recv_blocks), e.fold] for e in item
    ]  # fmt: skip
    return np.array([[np.broadcast_to(n, size) for n in numbers] for numbers in exchanges])


def numbers(blocks):
    return [*blocks] if isinstance(blocks, Blocks) else [*np.moveaxis(np.asarray(blocks.numbers), -1, 0)]


@pytest.mark.parametrize("algorithm", CATALOGUE, **BY_NAME)
def test_one_rank_alone_does_what_it_does_among_all(algorithm):
    for size in (1, 2, 3, 5, 8, 13):
        for root in {0, size - 1}:
            together = list(algorithm.schedule(np.arange(size), size, root, 2))
            for rank in range(size):
                alone = list(algorithm.schedule(rank, size, root, 2))
                assert len(alone) == len(together)
                for mine, everybody in zip(alone, together, strict=True):
                    assert (columns(mine, 1)[..., 0] == columns(everybody, size)[..., rank]).all()


def faults(exchange, size, blocks, rng):
    """Copies of an exchange (of all ranks) with one thing wrong at one rank that takes part in it."""
    dest, source = (np.broadcast_to(p, size).copy() for p in (exchange.dest, exchange.source))
    fold = np.broadcast_to(exchange.fold, size).copy()
    rank = rng.choice(np.flatnonzero(source != NONE))

    def changed(array, value):
        array = array.copy()
        array[rank] = value
        return array

    yield "not received", exchange._replace(source=changed(source, NONE))
    yield "not sent", exchange._replace(dest=np.where(np.arange(size) == source[rank], NONE, dest))
    if size > 2:
        yield "wrong source", exchange._replace(source=changed(source, (source[rank] + 1) % size))
    if fold[rank] == REPLACE:
        yield "folded, not stored", exchange._replace(fold=changed(fold, RIGHT))
    else:
        yield "stored, not folded", exchange._replace(fold=changed(fold, REPLACE))
    for fault, recv in wrong_blocks(exchange.recv_blocks, rank, size, blocks):
        yield fault, exchange._replace(recv_blocks=recv)


def wrong_blocks(expected, rank, size, blocks):
    if isinstance(expected, Listed):
        numbers = np.broadcast_to(expected.numbers, (size, expected.numbers.shape[-1])).copy()
        unused = np.setdiff1d(np.arange(blocks), numbers[rank])
        if len(unused):
            numbers[rank, -1] = unused[0]
            yield "wrong block", Listed(numbers)
        if numbers.shape[-1] > 1:
            numbers[rank] = np.roll(expected.numbers[rank], 1)
            yield "blocks in another order", Listed(numbers)
        numbers[rank, 0] = blocks
        yield "a block there is not", Listed(numbers)
        return
    first, count = (np.broadcast_to(n, size).copy() for n in expected)
    if blocks > 1:
        there = first.copy()
        there[rank] = (first[rank] + 1) % blocks
        yield "wrong block", Blocks(there, count)
    count[rank] -= 1
    yield "a block less", Blocks(first, count)


def keeps_contract(schedule, algorithm, size):
    segments = 2 if algorithm.segmented else 1
    blocks = algorithm.blocks(size, segments)
    try:
        cost = verify(iter(schedule), CONTRACTS[algorithm.collective], size, blocks, ordered=algorithm.ordered)
    except ScheduleError:
        return False
    return cost == Cost(algorithm.rounds(size, segments), algorithm.volume(size, segments))


@pytest.mark.parametrize("algorithm", CATALOGUE, **BY_NAME)
def test_seeded_faults_are_caught(algorithm):
    rng = np.random.default_rng(7)
    planted = 0
    segments = 2 if algorithm.segmented else 1
    for size in (2, 3, 4, 5, 7, 8, 12, 16):
        blocks = algorithm.blocks(size, segments)
        right = list(algorithm.schedule(np.arange(size), size, 0, segments))
        assert keeps_contract(right, algorithm, size)
        for at, item in enumerate(right):
            less, twice = right[:at] + right[at + 1 :], right[: at + 1] + right[at:]
            if isinstance(item, Finish):
                if CONTRACTS[algorithm.collective].reduces:
                    assert not keeps_contract(less, algorithm, size), "never finished"
                    assert not keeps_contract(twice, algorithm, size), "finished twice"
                continue
            assert not keeps_contract(less, algorithm, size), f"round {at} left out"
            assert not keeps_contract(twice, algorithm, size), f"round {at} done twice"
            which = rng.choice([i for i, e in enumerate(item) if np.any(np.asarray(e.source) != NONE)])
            for fault, exchange in faults(item[which], size, blocks, rng):
                wrong = right.copy()
                wrong[at] = (*item[:which], exchange, *item[which + 1 :])
                assert not keeps_contract(wrong, algorithm, size), f"p={size}, round {at}: {fault}"
                planted += 1
    assert planted > 40


@pytest.mark.parametrize("algorithm", [a for a in CATALOGUE if a.ordered], **BY_NAME)
def test_folding_in_the_wrong_order_is_caught_where_order_matters(algorithm):
    for size in (2, 3, 4, 5, 8):
        right = list(algorithm.schedule(np.arange(size), size, 0, 1))
        for at, item in enumerate(right):
            if isinstance(item, Finish) or not np.any(np.asarray(item[0].fold) != REPLACE):
                continue
            swapped = item[0]._replace(fold=np.where(np.asarray(item[0].fold) == LEFT, RIGHT, LEFT))
            wrong = [*right[:at], (swapped,), *right[at + 1 :]]
            assert not keeps_contract(wrong, algorithm, size)


def test_the_message_names_rank_and_block():
    with pytest.raises(ScheduleError, match="rank 0 ends with nothing of block 1"):
        verify(iter([]), CONTRACTS["allgather"], 3, 3)
    other = np.array([1, 0])
    swap = Exchange(other, Blocks(other, 1), other, Blocks(np.array([0, 1]), 1))
    with pytest.raises(ScheduleError, match="round 0: rank 1 sends block 0, which it does not hold"):
        verify(iter([(swap,)]), CONTRACTS["allgather"], 2, 2)
