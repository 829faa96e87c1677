"""Rooms of bindings: which lie side by side, and which are shared by themselves."""

from types import SimpleNamespace

import pytest

from hpcml.collectives.shared import rooms
from hpcml.collectives.shared.mapping import PAGE
from hpcml.collectives.shared.rooms import HALL, LARGEST, Rooms

LINE = 128
GIVER = 2


@pytest.fixture
def asked(monkeypatch):
    """Bytes that this rank shared, in order."""
    sizes = []

    def shared_memory(channel, said, nbytes):
        sizes.append(nbytes)
        return {GIVER: SimpleNamespace(address=(len(sizes) + 1) << 30, nbytes=nbytes)}

    monkeypatch.setattr(rooms, "shared_memory", shared_memory)
    return sizes


def taken(sizes, rank=GIVER):
    channel, made = SimpleNamespace(rank=rank), Rooms()
    return [(n, *made.take(channel, "a call", n, LINE, GIVER)) for n in sizes]


def test_rooms_lie_apart_inside_their_memory(asked):
    found = taken([LINE, 3 * LINE, PAGE, LINE, LARGEST, LARGEST + 1, LINE, *[LARGEST] * 9, 1, 1])
    for nbytes, mapping, start in found:
        assert mapping.address <= start and start + nbytes <= mapping.address + max(mapping.nbytes, nbytes)
        assert start % (PAGE if nbytes >= PAGE else LINE) == 0
    spans = sorted((start, start + nbytes) for nbytes, _, start in found)
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))


def test_small_rooms_are_shared_once(asked):
    taken([LINE] * (HALL // LINE))
    assert asked == [HALL]
    taken([LINE] * (HALL // LINE + 1))
    assert asked == [HALL] * 3


def test_a_large_room_by_itself_and_the_small_ones_go_on(asked):
    (_, hall, _), (_, own, start), (_, after, _) = taken([LINE, LARGEST + 1, LINE])
    assert asked == [HALL, LARGEST + 1]
    assert own is not hall and start == own.address and after is hall


def test_one_rank_gives_the_memory(asked):
    taken([LINE, LARGEST + 1], rank=3)
    assert asked == [0, 0]
