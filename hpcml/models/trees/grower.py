"""Growing a tree over the rows of all ranks.

In a round some nodes are split. Each rank cuts its own rows of them in two, and builds histograms of the child that has
fewer rows, of all ranks; these are summed by one reduce-scatter, so that every rank has its part of the features; the
sibling's are the parent's less these. Each rank finds the best split of both children among its features, and one small
allgather tells all ranks the best of all. What a round sends per rank and node, of p ranks, is

    (p − 1)/p · d · bins · channels · 8 bytes    and    2 (p − 1) records.

Every number that is decided by is an integer or computed from integers alike on all ranks, so the tree is the same on
any number of them.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.models.trees import histogram, splitter
from hpcml.models.trees.binning import Binned
from hpcml.models.trees.finishing import Finisher, Subtree, attach
from hpcml.models.trees.partition import partition
from hpcml.models.trees.quantisation import uniform
from hpcml.models.trees.splitter import Limits
from hpcml.models.trees.tree import LEAF, Trees

BATCH = 16  # nodes of a round, where the order of splits does not matter
WORD = 8  # bytes
UNBOUNDED = (-np.inf, np.inf)


class Growth(NamedTuple):
    """How far a tree grows: leaves (None: as many as there are), splits on the way down, and the limits of a split.

    features: of how many, drawn anew, a node may choose (None: all). min_samples_split: rows of a node that is split.
    """

    limits: Limits
    max_leaves: int | None = None
    max_depth: int | None = None
    features: int | None = None
    min_samples_split: int = 2


@dataclass(order=True)
class Node:
    """A leaf that may be split. Ordered by gain, then by number: what is split next."""

    urgency: tuple[float, int] = field(init=False)
    number: int = field(compare=False)
    begin: int = field(compare=False)
    end: int = field(compare=False)
    sums: np.ndarray = field(compare=False)  # G of each output, H
    count: int = field(compare=False)
    depth: int = field(compare=False)
    bounds: tuple[float, float] = field(compare=False)
    slot: int = field(compare=False, default=-1)
    record: np.ndarray = field(compare=False, default_factory=lambda: np.zeros(0, np.int64))

    def decide(self, record: np.ndarray) -> None:
        self.record = record
        self.urgency = (-float(record[:1].view(np.float64)[0]), self.number)


#: A smaller child, its sibling and their parent; of a root, it alone.
Family = tuple[Node, Node | None, Node | None]


class Grown(NamedTuple):
    """A tree, and this rank's rows of its leaves: leaf i, node ``nodes[i]``, has ``rows[begins[i]:ends[i]]``."""

    tree: Trees
    rows: np.ndarray
    nodes: np.ndarray
    begins: np.ndarray
    ends: np.ndarray


class Grower:
    """Grows trees on this rank's rows and those of the others; holds what is allocated once for all of them.

    outputs: values of a leaf. kind: what the histograms sum, "packed", "channels" or "classes" (see `histogram`).
    """

    def __init__(
        self,
        binned: Binned,
        comm: MPI.Intracomm,
        kind: str,
        outputs: int = 1,
        batch: int = 1,
        monotone: np.ndarray | None = None,
    ) -> None:
        edges = binned.edges
        self.binned, self.comm, self.kind, self.outputs, self.batch = binned, comm, kind, outputs, batch
        self.features, self.width = edges.features, edges.width
        self.channels = {"packed": 1, "channels": 3, "classes": outputs + 1}[kind]
        self.bins, self.missing = edges.bins, edges.missing
        self.categorical = edges.categories > 0
        self.monotone = np.zeros(self.features, np.int64) if monotone is None else monotone
        lengths = [len(part) for part in np.array_split(np.arange(self.features), comm.size)]
        self._lengths = lengths
        self._own = lengths[comm.rank]
        self._features = np.arange(self._own) + sum(lengths[: comm.rank])
        self._size = self.width * self.channels
        self._message = np.zeros(self.features * batch * self._size, np.int64)
        self._part = np.zeros(self._own * batch * self._size, np.int64)
        self._length = splitter.record_length(outputs)
        self._records = np.zeros((2 * batch, self._length), np.int64)
        self._sums: dict[int, Any] = {}
        self._exchanges: dict[int, Any] = {}
        self._held = np.zeros((0, self._own, self.width, self.channels), np.int64)
        self._free: list[int] = []
        n = len(binned.rows)
        self._rows, self._spare = np.empty(n, np.int32), np.empty(n, np.int32)
        self._table = np.zeros(256, np.uint8)
        self.sent_nbytes = 0  # of this rank, by the formula above, since this was asked for
        self.seconds = 0.0  # spent in communication, likewise

    def account(self) -> tuple[float, int]:
        """Seconds spent in communication and bytes sent, since this was last asked for."""
        found = self.seconds, self.sent_nbytes
        self.seconds, self.sent_nbytes = 0.0, 0
        return found

    def _run(self, plan: Any) -> None:
        began = perf_counter()
        plan.start()
        plan.wait()
        self.seconds += perf_counter() - began

    def close(self) -> None:
        """Let go of what is bound to the communicator. Collective."""
        for plan in [*self._sums.values(), *(plan for plan, _ in self._exchanges.values())]:
            plan.close()

    def grow(
        self,
        values: tuple[np.ndarray, ...],
        selected: np.ndarray,
        totals: np.ndarray,
        growth: Growth,
        allowed: np.ndarray,
        key: int = 0,
        finisher: Finisher | None = None,
    ) -> Grown:
        """A tree on the ``selected`` rows (int32, ascending). Collective.

        values: what the histograms' kernel takes: integers of each row. totals: the root's G of each output, H, and
        the rows, of all ranks. allowed (d,): features that may be chosen. key: for the drawing of features.
        finisher: takes over nodes of few rows; the rows of their leaves are then not known.
        """
        self._values, self._growth, self._allowed, self._key = values, growth, allowed, key
        self._rows[: len(selected)] = selected
        self._build = Builder(self.outputs)
        root = Node(self._build.add(), 0, len(selected), totals[:-1].copy(), int(totals[-1]), 0, UNBOUNDED)
        self._free = list(range(len(self._held)))
        done: list[Node] = []
        ready: list[Node] = []
        leaves = 1
        few = 0 if finisher is None else finisher.few
        small: list[Node] = []
        self._judge([(root, None, None)], ready, done, few, small)
        limit = growth.max_leaves
        while ready:
            turn = min(len(ready), self.batch if limit is None else 1)
            parents = [heapq.heappop(ready) for _ in range(turn)]
            leaves += len(parents)
            families = [self._split(parent) for parent in parents]
            if limit is not None and leaves >= limit:
                for parent, (left, right) in zip(parents, families, strict=True):
                    self._free.append(parent.slot)
                    done += left, right
                break
            self._judge(
                [(*_by_size(*family), p) for p, family in zip(parents, families, strict=True)],
                ready,
                done,
                few,
                small,
            )
        done += ready
        if finisher is not None and small:
            small.sort(key=lambda node: node.number)
            for node, found in zip(small, finisher.finish(small, self._rows, key), strict=True):
                self._build.attach(node.number, found, self.binned.edges)
        for leaf in done:
            self._build.leaf(leaf, growth.limits)
        nodes, begins, ends = (np.array([getattr(leaf, of) for leaf in done]) for of in ("number", "begin", "end"))
        return Grown(self._build.tree(), self._rows, nodes, begins, ends)

    def _split(self, parent: Node) -> tuple[Node, Node]:
        """Cut the rows in two, and add both children to the tree."""
        record, limits = parent.record, self._growth.limits
        feature = int(record[splitter.FEATURE])
        splitter.goes_left(record, self.bins[feature], self._table)
        middle = partition(self.binned.columns[feature], self._table, self._rows, parent.begin, parent.end, self._spare)
        sums = record[splitter.SUMS : splitter.SUMS + self.outputs + 1].copy()
        count = int(record[splitter.COUNT])
        bounds = self._children_bounds(parent, sums, limits)
        number = self._build.split(parent, record, self.binned.edges, limits)
        depth = parent.depth + 1
        left = Node(number, parent.begin, middle, sums, count, depth, bounds[0])
        right = Node(number + 1, middle, parent.end, parent.sums - sums, parent.count - count, depth, bounds[1])
        return left, right

    def _children_bounds(self, parent: Node, sums: np.ndarray, limits: Limits):
        """Of values: a monotone split keeps its children on either side of the middle of their values."""
        direction = self.monotone[parent.record[splitter.FEATURE]]
        low, high = parent.bounds
        if not direction:
            return (low, high), (low, high)
        left = splitter.value_of(float(sums[0]), float(sums[-1]), parent.bounds, limits)
        rest = parent.sums - sums
        right = splitter.value_of(float(rest[0]), float(rest[-1]), parent.bounds, limits)
        middle = (left + right) / 2
        below, above = (low, middle), (middle, high)
        return (below, above) if direction > 0 else (above, below)

    def _judge(
        self,
        families: list[Family],
        ready: list[Node],
        done: list[Node],
        few: int,
        small: list[Node],
    ) -> None:
        """Find the best split of nodes: of a smaller child, its sibling, their parent (of the root: of it alone).

        Those with up to ``few`` rows are put with the ``small`` ones.
        """
        families, idle = self._worth_while(families, few, small)
        done += idle
        if not families:
            return
        sums = self._histograms([smaller for smaller, _, _ in families])
        judged: list[Node] = []
        for i, (smaller, sibling, parent) in enumerate(families):
            smaller.slot = self._slot()
            self._held[smaller.slot] = sums[:, i]
            if smaller.count > few:
                judged.append(smaller)
            else:
                small.append(smaller)
                self._free.append(smaller.slot)
            if sibling is not None and parent is not None:
                sibling.slot = parent.slot
                self._held[sibling.slot] -= self._held[smaller.slot]
                judged.append(sibling)
        records = self._best(judged)
        for node, record in zip(judged, records, strict=True):
            node.decide(record)
            if record[splitter.FEATURE] == splitter.NOWHERE:
                self._free.append(node.slot)
                done.append(node)
            else:
                heapq.heappush(ready, node)

    def _worth_while(self, families: list[Family], few: int, small: list[Node]) -> tuple[list[Family], list[Node]]:
        """Without those of which no child can be split again, or both are small: their histograms are not needed."""
        least = max(self._growth.min_samples_split, 2 * self._growth.limits.min_samples_leaf)
        depth = self._growth.max_depth
        kept: list[Family] = []
        idle: list[Node] = []
        for family in families:
            nodes = [node for node in family[:2] if node is not None]
            splits = any(node.count >= least for node in nodes) and (depth is None or nodes[0].depth < depth)
            if splits and any(node.count > few for node in nodes):
                kept.append(family)
            else:
                (small if splits else idle).extend(nodes)
                if family[2] is not None:
                    self._free.append(family[2].slot)
        return kept, idle

    def _slot(self) -> int:
        if not self._free:
            more = max(8, len(self._held))
            self._free = list(range(len(self._held) + more - 1, len(self._held) - 1, -1))
            grown = np.zeros((len(self._held) + more, *self._held.shape[1:]), np.int64)
            grown[: len(self._held)] = self._held
            self._held = grown
        return self._free.pop()

    def _histograms(self, nodes: list[Node]) -> np.ndarray:
        """Of these nodes and this rank's features, over the rows of all ranks: (own, nodes, bins, channels)."""
        many = len(nodes)
        message = self._message[: self.features * many * self._size]
        message[:] = 0
        into = message.reshape(self.features, many, self.width, self.channels)
        fill: Any = {
            "packed": histogram.fill_packed,
            "channels": histogram.fill_channels,
            "classes": histogram.fill_classes,
        }[self.kind]
        for i, node in enumerate(nodes):
            fill(self.binned.rows, *self._values, self._rows, node.begin, node.end, i, into)
        if self.comm.size == 1:
            return into
        part = self._part[: self._own * many * self._size]
        if many not in self._sums:
            counts = [length * many * self._size for length in self._lengths]
            self._sums[many] = hc.plan("reduce_scatter", message, out=part, comm=self.comm, counts=counts)
        self._run(self._sums[many])
        self.sent_nbytes += (len(message) - len(part)) * WORD
        return part.reshape(self._own, many, self.width, self.channels)

    def _best(self, nodes: list[Node]) -> np.ndarray:
        """The best split of each node, over all features: records (nodes, length). Collective."""
        growth, mine = self._growth, self._records[: len(nodes)]
        kinds = self.kind == "packed", self.kind == "classes"
        for node, record in zip(nodes, mine, strict=True):
            splitter.find_split(
                self._held[node.slot],
                *kinds,
                node.sums,
                node.count,
                self.bins,
                self.missing,
                self.categorical,
                self.monotone,
                self._drawn(node),
                self._features,
                node.bounds,
                growth.limits,
                record,
            )
        if self.comm.size == 1:
            return mine.copy()
        if len(nodes) not in self._exchanges:
            everyones = np.empty((self.comm.size * len(nodes), self._length), np.int64)
            plan = hc.plan("allgather", mine, out=everyones, comm=self.comm)
            self._exchanges[len(nodes)] = plan, everyones
        plan, everyones = self._exchanges[len(nodes)]
        self._run(plan)
        self.sent_nbytes += (self.comm.size - 1) * mine.nbytes
        found = everyones.reshape(self.comm.size, len(nodes), self._length)
        gains = np.where(
            found[:, :, splitter.FEATURE] == splitter.NOWHERE, -np.inf, found[:, :, splitter.GAIN].view(np.float64)
        )
        # The first of equals: that of the lowest rank, whose features come first.
        return found[gains.argmax(axis=0), np.arange(len(nodes))]

    def _drawn(self, node: Node) -> np.ndarray:
        """The features (d,) among which this node may choose."""
        wanted = self._growth.features
        if wanted is None or wanted >= self.features:
            return self._allowed
        candidates = np.flatnonzero(self._allowed & (self.bins + self.missing > 1))
        chances = np.empty(self.features)
        uniform(node.number * self.features, np.uint64(self._key), chances)
        drawn = np.zeros(self.features, np.bool_)
        drawn[candidates[np.argsort(chances[candidates], kind="stable")[:wanted]]] = True
        return drawn


def _by_size(left: Node, right: Node) -> tuple[Node, Node]:
    return (left, right) if left.count <= right.count else (right, left)


class Builder:
    """The nodes of a tree in the making, numbered as they come; children in pairs."""

    def __init__(self, outputs: int) -> None:
        self._outputs = outputs
        self._nodes: list[dict[str, Any]] = []

    def add(self) -> int:
        self._nodes.append(
            {
                "feature": LEAF,
                "bin": 0,
                "threshold": 0.0,
                "missing_left": False,
                "categorical": False,
                "masks": (0, 0, 0, 0),
                "left": 0,
                "gain": 0.0,
            }
        )
        return len(self._nodes) - 1

    def split(self, parent: Node, record: np.ndarray, edges: Any, limits: Limits) -> int:
        """Make a node's split, and return the number of its left child."""
        left = self.add()
        self.add()
        feature, b = int(record[splitter.FEATURE]), int(record[splitter.BIN])
        categorical = bool(record[splitter.CATEGORICAL])
        cuts = edges.of(feature)
        self._nodes[parent.number].update(
            feature=feature,
            bin=b,
            threshold=float(cuts[b]) if not categorical and b < len(cuts) else np.inf,
            missing_left=bool(record[splitter.MISSING_LEFT]),
            categorical=categorical,
            masks=tuple((record[splitter.MASK : splitter.MASK + 4].view(np.uint64) * np.uint64(categorical)).tolist()),
            left=left,
            gain=-parent.urgency[0],
        )
        self.leaf(parent, limits)
        return left

    def leaf(self, node: Node, limits: Limits) -> None:
        """Give a node its value."""
        sums = [float(number) for number in node.sums]
        self._nodes[node.number].update(
            value=[splitter.value_of(g, sums[-1], node.bounds, limits) for g in sums[:-1]],
            weight=sums[-1] * limits.hessian_unit,
            count=node.count,
        )

    def attach(self, number: int, found: Subtree, edges: Any) -> None:
        attach(self._nodes, number, found, edges)

    def tree(self) -> Trees:
        made = self._nodes

        def column(name: str, dtype: Any) -> np.ndarray:
            return np.array([node[name] for node in made], dtype)

        return Trees(
            column("feature", np.int32),
            column("bin", np.int32),
            column("threshold", np.float64),
            column("missing_left", np.bool_),
            column("categorical", np.bool_),
            column("masks", np.uint64).reshape(-1, 4),
            column("left", np.int32),
            column("value", np.float64).reshape(-1, self._outputs),
            column("gain", np.float64),
            column("weight", np.float64),
            column("count", np.int64),
            np.array([0, len(made)], np.int64),
        )
