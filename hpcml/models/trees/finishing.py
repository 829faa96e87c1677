"""Nodes of few rows, finished each on one rank: their rows are sent there, and the subtrees to all."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.models.trees import subtree as s
from hpcml.models.trees.binning import Binned, Edges
from hpcml.models.trees.quantisation import key_of
from hpcml.models.trees.splitter import Limits
from hpcml.models.trees.tree import Trees

DEEPEST = 1 << 30


class Subtree(NamedTuple):
    """``facts`` (nodes, FACTS) and ``numbers`` (nodes, outputs + 2), as `subtree` lays them out."""

    facts: np.ndarray
    numbers: np.ndarray

    def finished(self, edges: Edges) -> Trees:
        """As trees: one."""
        facts, numbers = self.facts, self.numbers
        feature = facts[:, s.FEATURE]
        categorical = facts[:, s.CATEGORICAL].astype(np.bool_)
        places = np.where(feature < 0, 0, feature)
        cut = edges.starts[places] + facts[:, s.BIN]
        has_cut = (feature >= 0) & ~categorical & (cut < edges.starts[places + 1])
        threshold = np.where(feature < 0, 0.0, np.inf)
        threshold[has_cut] = edges.cuts[cut[has_cut]]
        return Trees(
            feature.astype(np.int32),
            facts[:, s.BIN].astype(np.int32),
            threshold,
            facts[:, s.MISSING_LEFT].astype(np.bool_),
            categorical,
            facts[:, s.MASKS : s.MASKS + 4].astype(np.int64).view(np.uint64),
            facts[:, s.LEFT].astype(np.int32),
            np.ascontiguousarray(numbers[:, :-2]),
            np.ascontiguousarray(numbers[:, -2]),
            np.ascontiguousarray(numbers[:, -1]),
            np.ascontiguousarray(facts[:, s.COUNT]),
            np.array([0, len(facts)], np.int64),
        )


def subtree(
    binned: Binned,
    rows: np.ndarray,
    values: np.ndarray,
    codes: np.ndarray,
    outputs: int,
    allowed: np.ndarray,
    wanted: int,
    model: Any,
    key: int,
    limits: Limits,
    depth: int = 0,
) -> Subtree:
    """The subtree of a node at that depth with these rows, all of which are here. Local."""
    edges = binned.edges
    n = len(rows)
    facts, numbers = np.empty((2 * n + 1, s.FACTS), np.int64), np.empty((2 * n + 1, outputs + 2))
    deepest = DEEPEST if model.max_depth is None else model.max_depth - depth
    least = max(model.min_samples_split, 2 * model.min_samples_leaf)
    made = s.grow_subtree(
        np.ascontiguousarray(binned.rows[rows]),
        np.ascontiguousarray(values[rows]),
        codes[rows] if len(codes) else codes,
        outputs,
        edges.bins,
        edges.width,
        edges.missing,
        edges.categories > 0,
        allowed,
        wanted,
        deepest,
        least,
        np.uint64(key),
        limits,
        facts,
        numbers,
    )
    return Subtree(facts[:made].copy(), numbers[:made].copy())


class Finisher:
    """Finishes nodes with up to ``few`` rows, of all ranks."""

    def __init__(
        self,
        binned: Binned,
        values: np.ndarray,
        codes: np.ndarray,
        outputs: int,
        allowed: np.ndarray,
        wanted: int,
        model: Any,
        limits: Limits,
        comm: MPI.Intracomm,
        few: int,
    ) -> None:
        self.binned, self.values, self.codes, self.outputs = binned, values, codes, outputs
        self.allowed, self.wanted, self.model, self.limits, self.comm, self.few = (
            allowed, wanted, model, limits, comm, few
        )  # fmt: skip

    def finish(self, nodes: list[Any], rows: np.ndarray, key: int) -> list[Subtree]:
        """The subtrees of nodes (see `grower.Node`), in their order, on every rank. Collective."""
        owners = _owners([node.count for node in nodes], self.comm.size)
        order = np.argsort(owners, kind="stable")
        mine = [int(i) for i in order if owners[i] == self.comm.rank]
        picked = [rows[nodes[i].begin : nodes[i].end] for i in order]
        lengths = np.array([len(part) for part in picked], np.int64)
        everyones = hc.allgather(lengths, comm=self.comm).reshape(self.comm.size, len(nodes))
        to_each = [int(lengths[owners[order] == rank].sum()) for rank in range(self.comm.size)]
        sent = np.concatenate([np.empty(0, np.int32), *picked])
        X, values, codes = (self._moved(array, sent, to_each) for array in (self.binned.rows, self.values, self.codes))
        whole = Binned(self.binned.edges, X, X.T)
        # What came from a rank holds my nodes in order; a node's rows are those of rank 0, then of rank 1, …
        of_mine = everyones[:, [int(p) for p in np.flatnonzero(owners[order] == self.comm.rank)]]
        ends = np.cumsum(of_mine.reshape(-1)).reshape(of_mine.shape)
        found = {}
        for place, i in enumerate(mine):
            pieces = [np.arange(ends[r, place] - of_mine[r, place], ends[r, place]) for r in range(self.comm.size)]
            node = nodes[i]
            found[i] = subtree(
                whole, np.concatenate(pieces), values, codes, self.outputs, self.allowed, self.wanted, self.model,
                key_of(key, node.path), self.limits, node.depth,
            )  # fmt: skip
        together: dict[int, Subtree] = {}
        for part in self.comm.allgather(found):
            together.update(part)
        return [together[i] for i in range(len(nodes))]

    def _moved(self, array: np.ndarray, rows: np.ndarray, to_each: list[int]) -> np.ndarray:
        if not len(array) and array is self.codes and self.codes.size == 0 and self.outputs == 1:
            return array
        return hc.alltoallv(np.ascontiguousarray(array[rows]), to_each, comm=self.comm)[0]


def _owners(counts: list[int], ranks: int) -> np.ndarray:
    """A rank for each node, so that all get about as many rows: the largest first, to who has least."""
    owners, load = np.zeros(len(counts), np.int64), np.zeros(ranks, np.int64)
    for i in sorted(range(len(counts)), key=lambda i: (-counts[i], i)):
        owners[i] = load.argmin()
        load[owners[i]] += counts[i]
    return owners
