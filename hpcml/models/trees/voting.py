"""Voting: for wide data, histograms of few features go between ranks (Meng et al. 2016, "A communication-efficient
parallel algorithm for decision tree", PV-Tree).

Each rank finds, by the histograms of its own rows, the k features on which a node gains most, and tells the others; the
2k that most ranks name are elected, and only their histograms are summed. Which are elected depends on how the rows are
spread, so trees are the same for any number of ranks only where 2k features are all.

Of p ranks each sends, per node that may be split, (p − 1)/p · 2k · bins · channels · 8 and (p − 1)(8k + a record)
bytes.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from mpi4py import MPI
from numba import njit

from hpcml import collectives as hc
from hpcml.models.trees import splitter

NOBODY = -1  # as a vote


class Run(Protocol):
    def __call__(self, plan: Any, sent_nbytes: int) -> None: ...


class Election:
    """Elects features, and sums their histograms; keeps what is bound to the communicator. run: starts a plan."""

    def __init__(self, comm: MPI.Intracomm, features: int, size: int, votes: int, run: Run) -> None:
        self.comm, self.size, self._run = comm, size, run
        self.votes = min(votes, features)
        self.seats = min(2 * votes, features)
        self._plans: dict[int, tuple[Any, np.ndarray, np.ndarray]] = {}
        self._ballots: dict[int, tuple[Any, np.ndarray, np.ndarray]] = {}
        self.features = features

    def close(self) -> None:
        for plan, *_ in [*self._plans.values(), *self._ballots.values()]:
            plan.close()

    def elected(self, gains: np.ndarray) -> np.ndarray:
        """The features (nodes, seats), ascending, of each node, by gains (nodes, d) on this rank's rows. Collective."""
        nodes = len(gains)
        if self.seats == self.features:
            return np.repeat(np.arange(self.features)[None], nodes, axis=0)
        if nodes not in self._ballots:
            mine = np.empty((nodes, self.votes), np.int64)
            everyones = np.empty((self.comm.size * nodes, self.votes), np.int64)
            self._ballots[nodes] = hc.plan("allgather", mine, out=everyones, comm=self.comm), mine, everyones
        plan, mine, everyones = self._ballots[nodes]
        order = np.argsort(-gains, axis=1, kind="stable")[:, : self.votes]
        mine[:] = np.where(np.take_along_axis(gains, order, axis=1) > 0, order, NOBODY)
        self._run(plan, (self.comm.size - 1) * mine.nbytes)
        ballots = everyones.reshape(self.comm.size, nodes, self.votes)
        counts = np.zeros((nodes, self.features), np.int64)
        for node in range(nodes):
            named = ballots[:, node].reshape(-1)
            counts[node] = np.bincount(named[named != NOBODY], minlength=self.features)
        return np.sort(np.argsort(-counts, axis=1, kind="stable")[:, : self.seats], axis=1)

    def summed(self, held: np.ndarray, slots: list[int], elected: np.ndarray) -> tuple[np.ndarray, int]:
        """This rank's part of the elected histograms, over all ranks, node after node: (blocks, size), and its first.

        held (slots, d, bins, channels): histograms of this rank's rows. Collective.
        """
        blocks = elected.size
        parts = [len(part) for part in np.array_split(np.arange(blocks), self.comm.size)]
        first, own = sum(parts[: self.comm.rank]), parts[self.comm.rank]
        if blocks not in self._plans:
            message, part = np.empty(blocks * self.size, np.int64), np.empty(own * self.size, np.int64)
            counts = [length * self.size for length in parts]
            plan = hc.plan("reduce_scatter", message, out=part, comm=self.comm, counts=counts)
            self._plans[blocks] = plan, message, part
        plan, message, part = self._plans[blocks]
        into = message.reshape(*elected.shape, self.size)
        for slot, features, node in zip(slots, elected, into, strict=True):
            node[:] = held[slot].reshape(-1, self.size)[features]
        self._run(plan, message.nbytes - part.nbytes)
        return part.reshape(own, self.size), first


@njit(nogil=True, cache=True)
def feature_gains(
    sums, packed, node_sums, count, bins, missing, categorical, monotone, allowed, bounds, limits, record, gains
):
    """Fill gains (d,): of each feature the best split's, 0 without one. sums (d, bins, channels)."""
    features = np.arange(len(gains))
    for f in range(len(gains)):
        splitter.find_split(
            sums[f : f + 1], packed, False, node_sums, count, bins, missing, categorical, monotone, allowed,
            features[f : f + 1], bounds, limits, record,
        )  # fmt: skip
        gains[f] = 0.0
        if record[splitter.FEATURE] != splitter.NOWHERE:
            gains[f] = record[splitter.GAIN : splitter.GAIN + 1].view(np.float64)[0]
