"""Rows in virtual shards: parts of the data set that do not depend on the number of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.data.batches import Batches
from hpcml.models.rows import Rows


def rearranged(shard: Rows, virtual: int, comm: MPI.Intracomm) -> Rows:
    """The same rows in the same global order, of which each rank holds its even part of the virtual shards.

    Collective: rows that are elsewhere travel, once.
    """
    cuts = _cuts(sum(shard.counts), virtual)
    owned = np.array_split(np.arange(virtual), comm.size)
    ends = [cuts[blocks[-1] + 1] if len(blocks) else cuts[-1] for blocks in owned]
    first = sum(shard.counts[: comm.rank])
    inside = np.clip([0, *ends], first, first + shard.X.shape[0])
    to_each = np.diff(inside).tolist()
    send = _send_sparse if hasattr(shard.X, "toarray") else _send
    y, weights = (None if rows is None else _send(rows, to_each, comm) for rows in (shard.y, shard.weights))
    X, counts = send(shard.X, to_each, comm), np.diff([0, *ends]).tolist()
    return Rows(X, y, counts, shard.classes, weights, shard.names)  # type: ignore[arg-type]


def owned_shards(rows: int, virtual: int, comm: MPI.Intracomm) -> list[int]:
    """How many rows there are in each of this rank's virtual shards, which it has after `rearranged`."""
    cuts = _cuts(rows, virtual)
    return [cuts[shard + 1] - cuts[shard] for shard in np.array_split(np.arange(virtual), comm.size)[comm.rank]]


def _send(rows: np.ndarray, to_each: list[int], comm: MPI.Intracomm) -> np.ndarray:
    return hc.alltoallv(rows, to_each, comm=comm)[0]


def _send_sparse(rows: Any, to_each: list[int], comm: MPI.Intracomm) -> Any:
    lengths = np.diff(rows.indptr).astype(np.int64)
    cuts = rows.indptr[np.cumsum([0, *to_each])]
    entries = np.diff(cuts).tolist()
    data, indices = (_send(part, entries, comm) for part in (rows.data, rows.indices.astype(np.int64)))
    starts = np.concatenate([[0], np.cumsum(_send(lengths, to_each, comm))])
    return type(rows)((data, indices, starts), shape=(len(starts) - 1, rows.shape[1]))


class Order:
    """The rows of each batch that are here: for each of this rank's parts of the data those of its rows.

    The parts are its virtual shards, or all that it has. Attributes as of `Batches`; ``largest`` of a part.
    """

    def __init__(self, shard: Rows, rank: int, batch_size: int, seed: int, virtual: int | None) -> None:
        counts = shard.counts if virtual is None else np.diff(_cuts(sum(shard.counts), virtual)).tolist()
        parts = [rank] if virtual is None else np.array_split(np.arange(virtual), len(shard.counts))[rank].tolist()
        self._parts = [Batches(counts, part, batch_size, seed) for part in parts]
        self._starts = np.cumsum([0, *(counts[part] for part in parts)]).tolist()
        self.rows, self.steps = self._parts[0].rows, self._parts[0].steps
        self.largest = max(part.largest for part in self._parts)

    def epoch(self, epoch: int) -> Iterator[tuple[int, list[np.ndarray]]]:
        """For each batch: how many rows it has globally, and the local numbers of those in each part."""
        for batch in zip(*(part.epoch(epoch) for part in self._parts), strict=True):
            yield batch[0][0], [rows + start for (_, rows), start in zip(batch, self._starts, strict=False)]


def _cuts(rows: int, virtual: int) -> list[int]:
    return [rows * k // virtual for k in range(virtual + 1)]
