"""Growing a tree over the rows of all ranks.

In a round some nodes are split. Each rank cuts its own rows of them in two, and builds histograms of the child that has
fewer rows, of all ranks; these are summed by one reduce-scatter, so that every rank has its part of the features; the
sibling's are the parent's less these. Each rank finds the best split of both children among its features, and one small
allgather tells all ranks the best of all. What a round sends per rank and node, of p ranks, is

    (p − 1)/p · d · bins · channels · 8 bytes    and    2 (p − 1) records,

and, for packed sums, 8 ⌈log₂ p⌉ bytes: how many rows of all ranks went left.

That is ``parallel="data"``. With "feature" each rank has its part of the features of all rows from the start, and
nothing is summed (`feature_shards`); with "voting" each has histograms of its rows, and those of elected features are
summed (`voting`).

Where leaves are limited, the one that gains most is split first. The next few are then split ahead, in the same round:
nearly all of them are split later, and fewer, longer messages take less time. They become part of the tree in the order
of their gains, so it is the same as without.

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
from hpcml.models.trees.builder import Builder
from hpcml.models.trees.feature_shards import by_features, exchanged_sides, of_rank, part_by
from hpcml.models.trees.finishing import Finisher
from hpcml.models.trees.partition import partition
from hpcml.models.trees.quantisation import uniform
from hpcml.models.trees.splitter import Limits
from hpcml.models.trees.tree import Trees
from hpcml.models.trees.voting import Election, feature_gains

BATCH = 16  # nodes of a round, at most, …
BATCH_NBYTES = 1 << 23  # … of which the histograms take so much room, at most
SURE = 3  # a node is split ahead if it comes among this part of the splits that are left, 1/SURE
PATH = (1 << 40) - 1  # bits of a node's path that its draws of features go by
WORD = 8  # bytes
UNBOUNDED = (-np.inf, np.inf)
NO_RECORD = np.zeros(1, np.int64)


class Growth(NamedTuple):
    """How far a tree grows: leaves (None: as many as there are), splits on the way down, and the limits of a split.

    features: of how many, drawn anew, a node may choose (None: all). min_samples_split: rows of a node that is split.
    """

    limits: Limits
    max_leaves: int | None = None
    max_depth: int | None = None
    features: int | None = None
    min_samples_split: int = 2


@dataclass(eq=False)
class Node:
    """A leaf that may be split, or a node that is split ahead: then it has ``children``, which are in no tree yet.

    path: the turns from the root, in bits. fate: what becomes of it when it is in the tree.
    """

    begin: int
    end: int
    sums: np.ndarray  # G of each output, H
    count: int
    depth: int
    path: int
    bounds: tuple[float, float]
    number: int = -1
    slot: int = -1
    fate: str = "leaf"  # or "small": one rank finishes it; or "open": it has a ``record`` of its best split
    record: np.ndarray = field(default_factory=lambda: NO_RECORD)
    children: tuple[Node, Node] | None = None

    @property
    def gain(self) -> float:
        return float(self.record[:1].view(np.float64)[0])


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
    votes: of a rank for each node, if ``parallel`` is "voting".
    """

    def __init__(
        self,
        binned: Binned,
        comm: MPI.Intracomm,
        kind: str,
        outputs: int = 1,
        monotone: np.ndarray | None = None,
        parallel: str = "data",
        votes: int = 20,
    ) -> None:
        edges = binned.edges
        self.binned, self.comm, self.kind, self.outputs = binned, comm, kind, outputs
        self.parallel = parallel if comm.size > 1 else "data"
        self.features, self.width = edges.features, edges.width
        self.channels = {"packed": 1, "channels": 3, "classes": outputs + 1}[kind]
        self.bins, self.missing = edges.bins, edges.missing
        self.categorical = edges.categories > 0
        self.monotone = np.zeros(self.features, np.int64) if monotone is None else monotone
        lengths = [len(part) for part in np.array_split(np.arange(self.features), comm.size)]
        self._lengths = lengths
        own = lengths[comm.rank]
        first = sum(lengths[: comm.rank])
        self._features = np.arange(self.features) if self.parallel == "voting" else np.arange(first, first + own)
        self._size = self.width * self.channels
        self.sent_nbytes = 0  # of this rank, by the formula above, since this was asked for
        self.seconds = 0.0  # spent in communication, likewise
        self._election = None
        if self.parallel == "voting":
            self._election = Election(comm, self.features, self._size, votes, self._run)
        if self.parallel == "feature":
            self._shards = comm.allgather(len(binned.rows))
            self.binned = self._timed(by_features, binned, lengths, self._shards, comm)
            self.sent_nbytes += binned.rows.size - len(binned.rows) * own
        across = own if self.parallel == "feature" else self.features
        fitting = BATCH_NBYTES // max(1, self.features * self._size * WORD)
        self.batch = batch = max(1, min(BATCH, fitting))
        self._message = np.zeros(across * batch * self._size, np.int64)
        self._part = np.zeros(own * batch * self._size, np.int64)
        self._length = splitter.record_length(outputs)
        self._records = np.zeros((2 * batch, self._length), np.int64)
        self._sums: dict[int, Any] = {}
        self._exchanges: dict[int, Any] = {}
        self._counts: dict[int, tuple[Any, np.ndarray]] = {}
        self._held = np.zeros((0, len(self._features), self.width, self.channels), np.int64)
        self._free: list[int] = []
        n = len(self.binned.rows)
        self._rows, self._spare = np.empty(n, np.int32), np.empty(n, np.int32)
        self._table = np.zeros(256, np.uint8)

    def account(self) -> tuple[float, int]:
        """Seconds spent in communication and bytes sent, since this was last asked for."""
        found = self.seconds, self.sent_nbytes
        self.seconds, self.sent_nbytes = 0.0, 0
        return found

    def _run(self, plan: Any, sent_nbytes: int) -> None:
        began = perf_counter()
        plan.start()
        plan.wait()
        self.seconds += perf_counter() - began
        self.sent_nbytes += sent_nbytes

    def _timed(self, communicate: Any, *arguments: Any) -> Any:
        began = perf_counter()
        found = communicate(*arguments)
        self.seconds += perf_counter() - began
        return found

    def close(self) -> None:
        """Let go of what is bound to the communicator. Collective."""
        for plan in [
            *self._sums.values(),
            *(plan for plan, _ in [*self._exchanges.values(), *self._counts.values()]),
        ]:
            plan.close()
        if self._election is not None:
            self._election.close()

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
        if self.parallel == "feature":
            values, selected = self._of_all_ranks(values, selected)
        self._values, self._growth, self._allowed, self._key = values, growth, allowed, key
        self._rows[: len(selected)] = selected
        self._build = Builder(self.outputs)
        whole = totals[:-1].copy(), int(totals[-1])
        root = Node(0, len(selected), *whole, 0, 1, UNBOUNDED, self._build.add())
        self._free = list(range(len(self._held)))
        few = 0 if finisher is None else finisher.few
        limit = np.inf if growth.max_leaves is None else growth.max_leaves
        placed: dict[str, list[Any]] = {"leaf": [], "small": [], "open": []}
        queue = placed["open"]  # a heap: what gains most, then the first number
        self._judge([(root, None, None)], few)
        self._place(root, placed)
        leaves = 1
        while queue and leaves < limit:
            if not queue[0][2].children:
                self._split_ahead(queue, limit - leaves, few)
            parent = heapq.heappop(queue)[2]
            leaves += 1
            number = self._build.split(parent, parent.record, self.binned.edges, growth.limits)
            for child in parent.children or ():
                child.number = number
                number += 1
                self._place(child, placed)
        done, small = placed["leaf"], placed["small"]
        done += (node for _, _, node in queue)
        if finisher is not None and small:
            small.sort(key=lambda node: node.number)
            for node, found in zip(small, finisher.finish(small, self._rows, key), strict=True):
                self._build.attach(node.number, found.finished(self.binned.edges))
        for leaf in done:
            self._build.leaf(leaf, growth.limits)
        nodes, begins, ends = (np.array([getattr(leaf, of) for leaf in done]) for of in ("number", "begin", "end"))
        if self.parallel == "feature":
            return self._here(nodes, begins, ends)
        return Grown(self._build.tree(), self._rows, nodes, begins, ends)

    def _of_all_ranks(
        self, values: tuple[np.ndarray, ...], selected: np.ndarray
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """The values and the numbers of the selected rows of all ranks. Collective."""
        first = sum(self._shards[: self.comm.rank])
        sent = [*values, selected + np.int32(first)]
        *gathered, selected = (
            self._timed(hc.allgather, np.ascontiguousarray(one), "auto", None, self.comm) for one in sent
        )
        self.sent_nbytes += (self.comm.size - 1) * sum(one.nbytes for one in sent)
        return tuple(gathered), selected

    def _here(self, nodes: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> Grown:
        """The tree, and the rows of its leaves that are this rank's."""
        rank = self.comm.rank
        rows = np.empty(self._shards[rank], np.int32)
        starts, stops = np.empty_like(begins), np.empty_like(ends)
        of_rank(self._rows, begins, ends, sum(self._shards[:rank]), self._shards[rank], rows, starts, stops)
        return Grown(self._build.tree(), rows, nodes, starts, stops)

    def _place(self, node: Node, placed: dict[str, list[Any]]) -> None:
        if node.fate == "open":
            heapq.heappush(placed["open"], (-node.gain, node.number, node))
        else:
            placed[node.fate].append(node)

    def _split_ahead(self, queue: list[tuple[float, int, Node]], left: float, few: int) -> None:
        """Split the next node, and of ``left`` splits others that are almost sure to come."""
        if left == 1:
            self._cut([queue[0][2]])  # nobody asks how its children would be split
            return
        alone = self._growth.max_leaves is not None and self.comm.size == 1  # then there is nothing to be won
        within = 1 if alone else max(1, int(min(left / SURE, len(queue))))
        first = sorted(queue)[:within] if within > 1 else queue[:1]
        parents = [node for _, _, node in first if not node.children][: self.batch]
        self._judge(self._cut(parents), few)

    def _cut(self, parents: list[Node]) -> list[Family]:
        """Cut the rows of nodes in two: of one child, and of the other."""
        middles = self._parted_as_told(parents) if self.parallel == "feature" else [*map(self._parted, parents)]
        families: list[Family] = []
        for parent, middle, count in zip(parents, middles, self._counted(parents, middles), strict=True):
            parent.children = self._children(parent, middle, count)
            families.append((*by_size(*parent.children), parent))
        return families

    def _parted(self, parent: Node) -> int:
        """Put the rows first that go left; where the others begin."""
        feature = int(parent.record[splitter.FEATURE])
        splitter.goes_left(parent.record, self.bins[feature], self._table)
        column = self.binned.columns[feature]
        return partition(column, self._table, self._rows, parent.begin, parent.end, self._spare)

    def _parted_as_told(self, parents: list[Node]) -> list[int]:
        """The same, where another rank may have the feature. Collective."""
        ends = np.cumsum(self._lengths)
        owners = [int(np.searchsorted(ends, node.record[splitter.FEATURE], side="right")) for node in parents]
        mine = []
        for parent, owner in zip(parents, owners, strict=True):
            if owner == self.comm.rank:
                feature = int(parent.record[splitter.FEATURE])
                splitter.goes_left(parent.record, self.bins[feature], self._table)
                column = self.binned.columns[feature - self._features[0]]
                mine.append(self._table[column[self._rows[parent.begin : parent.end]]])
        lengths = [parent.end - parent.begin for parent in parents]
        sides, nbytes = self._timed(exchanged_sides, mine, owners, lengths, self.comm)
        self.sent_nbytes += nbytes
        return [
            int(part_by(left, self._rows, parent.begin, self._spare))
            for left, parent in zip(sides, parents, strict=True)
        ]

    def _counted(self, parents: list[Node], middles: list[int]) -> list[int]:
        """How many rows of each node, on all ranks, went left. Collective.

        Packed sums have only estimates, by H and the node's count. Were those taken over from node to node, a leaf of
        few rows with most of H would count for many.
        """
        if self.kind != "packed":
            return [int(parent.record[splitter.COUNT]) for parent in parents]
        here = [middle - parent.begin for parent, middle in zip(parents, middles, strict=True)]
        if self.comm.size == 1 or self.parallel == "feature":
            return here
        many = len(here)
        if many not in self._counts:
            counts = np.empty(many, np.int64)
            self._counts[many] = hc.plan("allreduce", counts, op="sum", out=counts, comm=self.comm), counts
        plan, counts = self._counts[many]
        counts[:] = here
        self._run(plan, counts.nbytes * (self.comm.size - 1).bit_length())
        return counts.tolist()

    def _children(self, parent: Node, middle: int, count: int) -> tuple[Node, Node]:
        record, limits = parent.record, self._growth.limits
        sums = record[splitter.SUMS : splitter.SUMS + self.outputs + 1].copy()
        bounds = self._children_bounds(parent, sums, limits)
        depth, path = parent.depth + 1, 2 * parent.path & PATH
        return (
            Node(parent.begin, middle, sums, count, depth, path, bounds[0]),
            Node(middle, parent.end, parent.sums - sums, parent.count - count, depth, path + 1, bounds[1]),
        )

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

    def _judge(self, families: list[Family], few: int) -> None:
        """Find the best split and so the fate of nodes: a smaller child, its sibling, their parent (of a root: it).

        Those with up to ``few`` rows are small.
        """
        families = self._worth_while(families, few)
        if not families:
            return
        sums = self._histograms([smaller for smaller, _, _ in families])
        judged: list[Node] = []
        for i, (smaller, sibling, parent) in enumerate(families):
            smaller.slot = self._slot()
            held = self._held[smaller.slot]
            if sibling is not None and parent is not None:
                sibling.slot = parent.slot
                histogram.share(sums, i, held, self._held[sibling.slot])
                judged.append(sibling)
            else:
                held[:] = sums[:, i]
            if smaller.count > few:
                judged.append(smaller)
            else:
                smaller.fate = "small"
                self._free.append(smaller.slot)
        records = self._best(judged)
        for node, record in zip(judged, records, strict=True):
            if record[splitter.FEATURE] == splitter.NOWHERE:
                self._free.append(node.slot)
            else:
                node.record, node.fate = record, "open"

    def _worth_while(self, families: list[Family], few: int) -> list[Family]:
        """Without those of which no child can be split again, or both are small: their histograms are not needed."""
        least = max(self._growth.min_samples_split, 2 * self._growth.limits.min_samples_leaf)
        depth = self._growth.max_depth
        kept: list[Family] = []
        for family in families:
            nodes = [node for node in family[:2] if node is not None]
            splits = any(node.count >= least for node in nodes) and (depth is None or nodes[0].depth < depth)
            if splits and any(node.count > few for node in nodes):
                kept.append(family)
                continue
            for node in nodes:
                node.fate = "small" if splits else "leaf"
            if family[2] is not None:
                self._free.append(family[2].slot)
        return kept

    def _slot(self) -> int:
        if not self._free:
            more = max(8, len(self._held))
            self._free = list(range(len(self._held) + more - 1, len(self._held) - 1, -1))
            grown = np.zeros((len(self._held) + more, *self._held.shape[1:]), np.int64)
            grown[: len(self._held)] = self._held
            self._held = grown
        return self._free.pop()

    def _histograms(self, nodes: list[Node]) -> np.ndarray:
        """Of these nodes and the features that are held here (d or fewer, nodes, bins, channels). Collective.

        Over the rows of all ranks, or, for voting, of this one.
        """
        many = len(nodes)
        across = self.binned.rows.shape[1]
        message = self._message[: across * many * self._size]
        message[:] = 0
        into = message.reshape(across, many, self.width, self.channels)
        fill: Any = {
            "packed": histogram.fill_packed,
            "channels": histogram.fill_channels,
            "classes": histogram.fill_classes,
        }[self.kind]
        for i, node in enumerate(nodes):
            fill(self.binned.rows, *self._values, self._rows, node.begin, node.end, i, into)
        if self.comm.size == 1 or self.parallel != "data":
            return into
        own = len(self._features)
        part = self._part[: own * many * self._size]
        if many not in self._sums:
            counts = [length * many * self._size for length in self._lengths]
            self._sums[many] = hc.plan("reduce_scatter", message, out=part, comm=self.comm, counts=counts)
        self._run(self._sums[many], message.nbytes - part.nbytes)
        return part.reshape(own, many, self.width, self.channels)

    def _best(self, nodes: list[Node]) -> np.ndarray:
        """The best split of each node, over all features: records (nodes, length). Collective."""
        mine = self._records[: len(nodes)]
        if self._election is None:
            for node, record in zip(nodes, mine, strict=True):
                self._find(self._held[node.slot], self._features, node, record)
        else:
            self._find_elected(self._election, nodes, mine)
        if self.comm.size == 1:
            return mine.copy()
        if len(nodes) not in self._exchanges:
            everyones = np.empty((self.comm.size * len(nodes), self._length), np.int64)
            plan = hc.plan("allgather", mine, out=everyones, comm=self.comm)
            self._exchanges[len(nodes)] = plan, everyones
        plan, everyones = self._exchanges[len(nodes)]
        self._run(plan, (self.comm.size - 1) * mine.nbytes)
        found = everyones.reshape(self.comm.size, len(nodes), self._length)
        gains = np.where(
            found[:, :, splitter.FEATURE] == splitter.NOWHERE, -np.inf, found[:, :, splitter.GAIN].view(np.float64)
        )
        # The first of equals: that of the lowest rank, whose features come first.
        return found[gains.argmax(axis=0), np.arange(len(nodes))]

    def _find(self, sums: np.ndarray, features: np.ndarray, node: Node, record: np.ndarray) -> None:
        """Put the best split of a node among these features in the record."""
        splitter.find_split(
            sums,
            self.kind == "packed",
            self.kind == "classes",
            node.sums,
            node.count,
            self.bins,
            self.missing,
            self.categorical,
            self.monotone,
            self._drawn(node),
            features,
            node.bounds,
            self._growth.limits,
            record,
        )

    def _find_elected(self, election: Election, nodes: list[Node], records: np.ndarray) -> None:
        """The same for nodes, among this rank's part of the features that are elected. Collective."""
        gains = np.zeros((len(nodes), self.features))
        if election.seats < self.features:
            for node, its in zip(nodes, gains, strict=True):
                self._gains_here(node, its)
        elected = election.elected(gains)
        sums, first = election.summed(self._held, [node.slot for node in nodes], elected)
        sums = sums.reshape(-1, self.width, self.channels)
        for i, (node, record) in enumerate(zip(nodes, records, strict=True)):
            begin = i * election.seats - first  # of this node's features, in this rank's part
            low, high = (min(max(0, at), len(sums)) for at in (begin, begin + election.seats))
            self._find(sums[low:high], elected[i, low - begin : high - begin], node, record)

    def _gains_here(self, node: Node, gains: np.ndarray) -> None:
        """Gains (d,) of the features, by this rank's rows alone, of which a leaf needs a part of the others' only."""
        held, p = self._held[node.slot], self.comm.size
        totals = held[0].sum(axis=0)
        sums = np.array([totals[0] >> 32, totals[0] & 0xFFFFFFFF]) if self.kind == "packed" else totals[:2]
        limits = self._growth.limits
        limits = limits._replace(
            min_samples_leaf=max(1, limits.min_samples_leaf // p), min_hessian=limits.min_hessian / p, min_gain=0.0
        )
        feature_gains(
            held, self.kind == "packed", sums, node.end - node.begin, self.bins, self.missing, self.categorical,
            self.monotone, self._drawn(node), node.bounds, limits, np.zeros(self._length, np.int64), gains,
        )  # fmt: skip

    def _drawn(self, node: Node) -> np.ndarray:
        """The features (d,) among which this node may choose."""
        wanted = self._growth.features
        if wanted is None or wanted >= self.features:
            return self._allowed
        candidates = np.flatnonzero(self._allowed & (self.bins + self.missing > 1))
        chances = np.empty(self.features)
        uniform(node.path * self.features, np.uint64(self._key), chances)
        drawn = np.zeros(self.features, np.bool_)
        drawn[candidates[np.argsort(chances[candidates], kind="stable")[:wanted]]] = True
        return drawn


def by_size(left: Node, right: Node) -> tuple[Node, Node]:
    return (left, right) if left.count <= right.count else (right, left)
