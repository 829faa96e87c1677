"""Two binary trees at once: few rounds until everybody is busy, and then everybody sends and receives at full rate.

In one binary tree the leaves, half of the ranks, pass nothing on. So there are two trees over all ranks but the root,
each for half of the data in k segments; a rank is a leaf in one of them and has children in the other. Sanders, Speck,
Träff, "Two-tree algorithms for full bandwidth broadcast, reduction and scan", Parallel Computing 35 (2009).

Edges have two colours and are used in turns, those of one colour in even rounds, those of the other in odd ones. The
edges from a rank to its two parents differ in colour, and so do those to its children, so that nobody sends or receives
twice in a round. The paper has a closed form for the colours; here they are found edge by edge.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from hpcml.collectives.schedule import (
    NONE,
    RIGHT,
    Blocks,
    Exchange,
    Finish,
    Rank,
    Round,
    Schedule,
    backwards,
    look_up,
    only_if,
)


def broadcast(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """At most 2⌈lg p⌉ + 2k − 1 rounds of n/2k bytes; nobody sends or receives more than n bytes."""
    for number in range(one_way_rounds(size, segments)):
        yield backwards((_upward(_trees(size).down, rank, size, root, segments, number),))


def reduce(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """As the broadcast, the other way."""
    for number in range(one_way_rounds(size, segments)):
        yield (_upward(_trees(size).up, rank, size, root, segments, number),)
    yield Finish(Blocks(0, np.where(rank == root, 2 * segments, 0)))


def allreduce(rank: Rank, size: int, root: int = 0, segments: int = 1) -> Schedule:
    """A reduce to rank 0, and a broadcast from there, which follows as soon as the first segments are reduced.

    At most 4⌈lg p⌉ + 2k − 1 rounds; in each, a rank sends n/2k bytes up at most, and as many down. At most 2n bytes.
    """
    if size == 1:
        yield Finish(Blocks(0, 2 * segments))
    reducing = one_way_rounds(size, segments)
    for number in range(allreduce_rounds(size, segments)):
        later = number - _lag(size)  # odd: what comes down in a round passes edges of the other colour
        round_: Round = () if number >= reducing else (_upward(_trees(size).up, rank, size, 0, segments, number),)
        if later >= 0:
            leaving = _upward(_trees(size).down, 0, size, 0, segments, later)
            if leaving.source != NONE and isinstance(leaving.recv_blocks, Blocks):
                yield Finish(Blocks(leaving.recv_blocks.first, np.where(rank == 0, 1, 0)))
            round_ += backwards((_upward(_trees(size).down, rank, size, 0, segments, later),))
        yield round_


def one_way_rounds(size: int, segments: int) -> int:
    """Of a broadcast, or a reduce."""
    return int(_trees(size).down.max()) + 2 * segments - 1 if size > 1 else 0


def allreduce_rounds(size: int, segments: int) -> int:
    return _lag(size) + one_way_rounds(size, segments) if size > 1 else 0


class _Trees(NamedTuple):
    """The edges from each place to its parents, by colour: arrays of shape (2, size). Place 0 is the root.

    parent, child: the places at the upper and at the lower end of the edge; `NONE` where there is no edge.
    tree: which of the trees the edge belongs to.
    up, down: the first round in which something can pass this way.
    """

    parent: np.ndarray
    child: np.ndarray
    tree: np.ndarray
    up: np.ndarray
    down: np.ndarray


def _upward(start: np.ndarray, rank: Rank, size: int, root: int, segments: int, number: int) -> Exchange:
    """What passes upward in a round: a segment on each edge of the round's colour, from round ``start`` on."""
    trees, colour, place = _trees(size), number % 2, (rank - root) % size

    def passes(lower: Rank) -> Rank:
        first = look_up(start[colour], lower)
        return (lower > 0) & (first <= number) & (number < first + 2 * segments)

    def segment(lower: Rank) -> Blocks:
        passed_before = np.where(passes(lower), number - look_up(start[colour], lower), 0) // 2
        return Blocks(look_up(trees.tree[colour], lower) * segments + passed_before, 1)

    child, parent = look_up(trees.child[colour], place), look_up(trees.parent[colour], place)
    return Exchange(
        only_if(passes(place), (parent + root) % size),
        segment(place),
        only_if(passes(child), (child + root) % size),
        segment(child),
        RIGHT,
    )


@cache
def _trees(size: int) -> _Trees:
    places = range(1, size)
    parents = [[NONE, *(_parent(place, size - 1, tree) for place in places)] for tree in (0, 1)]
    colours = np.array(_colours(parents), np.int64)
    starts = [_first_rounds(parent, colours ^ tree) for tree, parent in enumerate(parents)]

    def by_colour(first_tree: Any, second_tree: Any) -> np.ndarray:
        return np.where(colours == [[0], [1]], first_tree, second_tree)

    parent = by_colour(*parents)
    child = np.full((2, size), NONE)
    for colour in (0, 1):
        child[colour, parent[colour, 1:]] = places
    (first_up, first_down), (second_up, second_down) = starts
    up, down = by_colour(first_up, second_up), by_colour(first_down, second_down)
    return _Trees(parent, child, by_colour(0, 1), up, down)


def _lag(size: int) -> int:
    """Rounds from the beginning of a reduce to that of a broadcast of its results."""
    trees = _trees(size)
    arrived = [
        trees.up[colour, below] + 1 - trees.down[colour, below] for colour, below in enumerate(trees.child[:, 0])
    ]
    return int(max(arrived))


def _first_rounds(parent: list[int], colours: np.ndarray) -> tuple[list[int], list[int]]:
    """When the first segment passes up, and down, the edge above each place."""
    places = sorted(range(1, len(parent)), key=lambda place: _depth(place, parent))
    up, down = [0] * len(parent), [-1] * len(parent)
    for place in places:
        down[place] = _turn(down[parent[place]] + 1, colours[place])
    for place in reversed(places):
        up[place] = _turn(up[place], colours[place])
        up[parent[place]] = max(up[parent[place]], up[place] + 1)
    return up, down


def _turn(ready: int, colour: int) -> int:
    """The first round of that colour from ``ready`` on."""
    return ready + (ready + int(colour)) % 2


def _depth(place: int, parent: list[int]) -> int:
    return 1 + _depth(parent[place], parent) if place else 0


def _colours(parents: list[list[int]]) -> list[int]:
    """The colour of the edge above each place in the first tree; the one in the second tree has the other colour.

    Of two edges to one place, in whichever trees, one has each colour.
    """
    size = len(parents[0])
    below: list[list[tuple[int, int]]] = [[] for _ in range(size)]
    for tree, parent in enumerate(parents):
        for place in range(1, size):
            below[parent[place]].append((place, tree))
    colours: list[int] = [NONE] * size
    for first in range(1, size):
        waiting = [(first, 0)] if colours[first] == NONE else []
        while waiting:
            place, colour = waiting.pop()
            if colours[place] != NONE:
                continue
            colours[place] = colour
            for tree, parent in enumerate(parents):
                beside = [edge for edge in below[parent[place]] if edge != (place, tree)]
                waiting += [(other, 1 ^ colour ^ tree ^ its_tree) for other, its_tree in beside]
    return colours


def _parent(place: int, last: int, tree: int) -> int:
    """In the first tree over places 1 … ``last`` odd places are leaves: the lowest bit of a place is its height.

    The second tree is the mirror image of the first; where this has the same leaves, the first, moved by one place.
    """
    if tree:
        mirrored = last % 2 == 0
        above = _parent(last + 1 - place if mirrored else place % last + 1, last, 0)
        return above and (last + 1 - above if mirrored else (above - 2) % last + 1)
    low = place & -place
    above = (place - low) | 2 * low
    return above if above <= last else place - low
