"""Networks on paper: whose messages share a link, and so how long the messages of one round take.

A topology joins *nodes* by links. Given the concurrent messages of a round it says how many seconds a byte of a block
costs on its most loaded link, and the latency of the longest path. Every node has one port into the network, full
duplex; what is behind it is the topology's own. Each level of links has α [s], which a message pays for every link of
that level on its path, and β [s/byte]; level 0 is the port, whose α is that of the whole message besides.

Assumed everywhere: messages of a round start together, share links fairly, and their paths do not depend on the load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np


class Passage(NamedTuple):
    """Latency of the longest path [s], and seconds for each byte of a block on the busiest link."""

    alpha: float
    per_byte: float


class Topology(Protocol):
    """``levels`` names its kinds of links; ``alpha`` and ``beta`` have one entry for each."""

    levels: tuple[str, ...]
    alpha: tuple[float, ...]
    beta: tuple[float, ...]

    def describe(self) -> str:
        """In words."""

    def check(self, nodes: int) -> None:
        """ValueError where it cannot join so many nodes."""

    def passage(self, source: np.ndarray, dest: np.ndarray, blocks: np.ndarray, nodes: int) -> Passage:
        """What messages of so many ``blocks`` between different nodes meet; arrays with one entry a message."""


def busiest(links: np.ndarray, blocks: np.ndarray) -> float:
    """Blocks over the busiest of the numbered ``links``; negative numbers are no link."""
    used = links >= 0
    if not used.any():
        return 0.0
    links, blocks = links[used], blocks[used]
    if links.max() > 8 * len(links):
        _, links = np.unique(links, return_inverse=True)
    return float(np.bincount(links, blocks).max())


def ports(source: np.ndarray, dest: np.ndarray, blocks: np.ndarray, nodes: int) -> float:
    """Blocks through the busiest port of a node, in one direction."""
    return max(float(np.bincount(end, blocks, nodes).max(initial=0)) for end in (source, dest))


@dataclass(frozen=True)
class Flat:
    """One switch that never is the bottleneck: only ports count."""

    alpha: tuple[float, ...]
    beta: tuple[float, ...]
    levels: tuple[str, ...] = ("port",)

    def describe(self) -> str:
        return "a flat network (one ideal switch)"

    def check(self, nodes: int) -> None:
        pass

    def passage(self, source: np.ndarray, dest: np.ndarray, blocks: np.ndarray, nodes: int) -> Passage:
        return Passage(self.alpha[0], ports(source, dest, blocks, nodes) * self.beta[0])


@dataclass(frozen=True)
class FatTree:
    """Leaf switches of ``leaf`` nodes, joined by ideal spines through uplinks 1/``oversubscription`` as wide.

    A leaf's uplinks are together as wide as its nodes' ports over the oversubscription, and its traffic spreads over
    them evenly. A message between leaves pays the uplink's α twice, up and down. β of the uplink is of one that is as
    wide as a port. Leiserson, "Fat-trees", IEEE Trans. Computers C-34 (1985).
    """

    alpha: tuple[float, ...]
    beta: tuple[float, ...]
    leaf: int
    oversubscription: float = 1.0
    levels: tuple[str, ...] = ("port", "uplink")

    def describe(self) -> str:
        return f"a fat tree (leaves of {self.leaf} nodes, oversubscribed {self.oversubscription:g} to 1)"

    def check(self, nodes: int) -> None:
        pass

    def passage(self, source: np.ndarray, dest: np.ndarray, blocks: np.ndarray, nodes: int) -> Passage:
        up, down = source // self.leaf, dest // self.leaf
        leaves = up != down
        width = self.beta[1] * self.oversubscription / self.leaf
        load = max(busiest(np.where(leaves, end, -1), blocks) for end in (up, down))
        alpha = self.alpha[0] + (2 * self.alpha[1] if leaves.any() else 0.0)
        return Passage(alpha, max(ports(source, dest, blocks, nodes) * self.beta[0], load * width))


@dataclass(frozen=True)
class Dragonfly:
    """Groups of ``routers`` routers with ``hosts`` nodes each; one link joins any two routers of a group.

    Each router has ``hosts`` global links, which join every two groups as evenly as they can (at least one link a
    pair). Paths are minimal: local link, global link, local link, those that are needed; of several global links
    between two groups a message takes that of its destination. Adaptive routing, which spreads what piles up here, is
    not modelled. Kim, Dally, Scott, Abts, "Technology-driven, highly-scalable dragonfly topology", ISCA 2008.
    """

    alpha: tuple[float, ...]
    beta: tuple[float, ...]
    routers: int
    hosts: int
    levels: tuple[str, ...] = ("port", "local", "global")

    def describe(self) -> str:
        return f"a dragonfly (groups of {self.routers} routers with {self.hosts} nodes, minimal paths)"

    def check(self, nodes: int) -> None:
        pass

    def passage(self, source: np.ndarray, dest: np.ndarray, blocks: np.ndarray, nodes: int) -> Passage:
        routers, groups = self.routers, -(-nodes // (self.routers * self.hosts))
        bundle = max(1, routers * self.hosts // max(groups - 1, 1))
        from_router, to_router = source // self.hosts, dest // self.hosts
        from_group, to_group = from_router // routers, to_router // routers
        far = from_group != to_group
        lane = dest % bundle
        leaves_at = from_group * routers + (to_group * bundle + lane) % routers
        enters_at = to_group * routers + (from_group * bundle + lane) % routers
        first_hop = np.where(far, leaves_at, to_router)
        first = np.where(from_router != first_hop, from_router * routers + first_hop % routers, -1)
        last = np.where(far & (enters_at != to_router), enters_at * routers + to_router % routers, -1)
        crossing = np.where(far, (from_group * groups + to_group) * bundle + lane, -1)
        local = busiest(np.concatenate((first, last)), np.concatenate((blocks, blocks)))
        hops = np.array([(first >= 0).astype(int) + (last >= 0), far.astype(int)])
        alpha = self.alpha[0] + float((hops[0] * self.alpha[1] + hops[1] * self.alpha[2]).max())
        loads = ports(source, dest, blocks, nodes), local, busiest(crossing, blocks)
        return Passage(alpha, max(load * beta for load, beta in zip(loads, self.beta, strict=True)))


@dataclass(frozen=True)
class Torus:
    """A grid of nodes that wraps round in every dimension; the last dimension is that of neighbouring ranks.

    Paths go one dimension after the other, the last one first, each the shorter way round (half-way: upwards).
    Dally and Seitz, "Deadlock-free message routing in multiprocessor interconnection networks", IEEE Trans. Computers
    C-36 (1987).
    """

    alpha: tuple[float, ...]
    beta: tuple[float, ...]
    shape: tuple[int, ...]
    levels: tuple[str, ...] = ("port", "hop")

    def describe(self) -> str:
        return f"a torus ({'×'.join(map(str, self.shape))}, dimension-ordered paths)"

    def check(self, nodes: int) -> None:
        if nodes != np.prod(self.shape):
            grid = "x".join(map(str, self.shape))
            raise ValueError(f"a torus of {grid} joins {np.prod(self.shape)} nodes, found {nodes}; change one of them")

    def passage(self, source: np.ndarray, dest: np.ndarray, blocks: np.ndarray, nodes: int) -> Passage:
        here, there = np.array(np.unravel_index(source, self.shape)), np.array(np.unravel_index(dest, self.shape))
        hops, load = np.zeros(len(source), np.int64), 0.0
        for axis in reversed(range(len(self.shape))):
            length = self.shape[axis]
            up = (there[axis] - here[axis]) % length
            down = length - up
            for steps, step in ((np.where(up <= down, up, 0), 1), (np.where(up > down, down, 0), -1)):
                load = max(load, self._line_load(here, axis, steps, step, blocks))
                hops += steps
            here[axis] = there[axis]
        alpha = self.alpha[0] + float(hops.max(initial=0)) * self.alpha[1]
        return Passage(alpha, max(ports(source, dest, blocks, nodes) * self.beta[0], load * self.beta[1]))

    def _line_load(self, here: np.ndarray, axis: int, steps: np.ndarray, step: int, blocks: np.ndarray) -> float:
        """Blocks over the busiest link of one direction along ``axis``: where paths begin minus where they end."""
        length = self.shape[axis]
        lines = np.ravel_multi_index([*np.delete(here, axis, 0)], np.delete(self.shape, axis)) if len(here) > 1 else 0
        begin = here[axis] if step > 0 else (length - here[axis]) % length
        moves = steps > 0
        # A line unrolled twice: no path is longer than once round.
        at = np.broadcast_to(lines, begin.shape)[moves] * (2 * length + 1) + begin[moves]
        cells = int(np.prod(self.shape)) // length * (2 * length + 1)
        change = np.bincount(at, blocks[moves], cells) - np.bincount(at + steps[moves], blocks[moves], cells)
        once = change.reshape(-1, 2 * length + 1).cumsum(axis=1)
        return float((once[:, :length] + once[:, length : 2 * length]).max(initial=0))


SPECIFICATIONS = {
    "flat": "flat",
    "fat-tree": "fat-tree:LEAF[:OVERSUBSCRIPTION], as in fat-tree:32:2",
    "dragonfly": "dragonfly:ROUTERSxHOSTS, as in dragonfly:16x8",
    "torus": "torus:AxBxC, as in torus:16x16x16",
}


SWITCH_ALPHA = 1e-7  # seconds through one more switch and cable, where no α is given for a level


def parse(text: str, alpha: Sequence[float], beta: Sequence[float]) -> Topology:
    """The topology of a specification. Levels without an α of their own have `SWITCH_ALPHA`, without β the last given.

    Raises ValueError with the form that was expected.
    """
    kind, _, rest = text.partition(":")
    if kind not in SPECIFICATIONS:
        raise ValueError(f"found {text!r}, expected one of: {'; '.join(SPECIFICATIONS.values())}")
    try:
        topology, sizes = _made(kind, rest)
    except ValueError:
        raise ValueError(f"found {text!r}, expected {SPECIFICATIONS[kind]}") from None
    levels: tuple[str, ...] = topology.levels
    for name, figures in (("alpha", alpha), ("beta", beta)):
        if len(figures) > len(levels):
            raise ValueError(
                f"found {len(figures)} values of {name}, expected up to {len(levels)}: {', '.join(levels)}"
            )
    alphas = (*alpha, *[SWITCH_ALPHA] * (len(levels) - len(alpha)))
    betas = (*beta, *[beta[-1]] * (len(levels) - len(beta)))
    return topology(alphas, betas, *sizes)


def _made(kind: str, rest: str) -> tuple[Any, tuple]:
    """The class and what it takes after α and β; ValueError where ``rest`` is not as specified."""
    if kind == "flat" and not rest:
        return Flat, ()
    if kind == "fat-tree":
        leaf, _, oversubscription = rest.partition(":")
        return FatTree, (*_grid(leaf, 1), _above_zero(float(oversubscription or 1)))
    if kind == "dragonfly":
        return Dragonfly, _grid(rest, 2)
    if kind == "torus":
        grid = _grid(rest)
        return Torus, (grid,)
    raise ValueError(rest)


def _grid(text: str, dimensions: int | None = None) -> tuple[int, ...]:
    sizes = tuple(_above_zero(int(size)) for size in text.split("x"))
    if dimensions not in (None, len(sizes)):
        raise ValueError(text)
    return sizes


def _above_zero(number):
    if not number > 0:
        raise ValueError(number)
    return number
