"""From a collective's arguments, agreed on by all ranks, to a program that runs it.

A binding is what all ranks have in common; its programs differ in what is this rank's own affair, such as whether the
result goes where the input is.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from hpcml.collectives import algorithms, choice
from hpcml.collectives.channel import Channel
from hpcml.collectives.contracts import CONTRACTS
from hpcml.collectives.errors import ArgumentError
from hpcml.collectives.native import Native
from hpcml.collectives.ops import Op
from hpcml.collectives.program import Program, make_program
from hpcml.collectives.table import Layout, Table, lower

PARTS = ("scatter", "gather", "allgather")  # collectives in which each rank holds, or gets, a part of its own


class Binding:
    """One collective on one communicator, for one data type and size.

    counts: items of each rank's part for `PARTS`, else ``(n,)``. algorithm: a name from `algorithms`, or ``"auto"``.
    said: the call in words, the same on every rank. Collective: ranks make their bindings in the same order.
    """

    def __init__(
        self,
        channel: Channel,
        collective: str,
        algorithm: str,
        op: Op | None,
        dtype: np.dtype,
        counts: tuple[int, ...],
        root: int = 0,
        said: str = "",
    ):
        self.said = said
        self._channel, self._collective, self._op, self._dtype = channel, collective, op, dtype
        self._counts, self._root = counts, root
        self.nbytes = sum(counts) * dtype.itemsize
        self.algorithm = self._chosen(algorithm)
        self.segments = choice.segments(collective, self.algorithm, self.nbytes, channel.size)
        self._tag = channel.next_tag()
        self._programs: dict[bool, Program] = {}

    def program(self, in_place: bool) -> Program:
        """The program for this rank, made when it is first asked for."""
        program = self._programs.get(in_place)
        if program is None:
            program = self._programs[in_place] = self._make(in_place)
        return program

    def run(self, source: np.ndarray, target: np.ndarray) -> None:
        """Run it on C-contiguous memory. ``source is target`` for in place."""
        program = self._programs.get(source is target)
        if program is None:
            program = self.program(source is target)
        program.bind(source, target)
        program.start()
        program.wait()
        program.release()

    def _chosen(self, name: str) -> str:
        op, size = self._op, self._channel.size
        own_op = op is not None and op.ufunc is None
        if name == "auto":
            return "native" if own_op else choice.choose(self._collective, self.nbytes, size)
        if name != "native":
            algorithm = algorithms.named(self._collective, name)
            if op is not None and not op.commutes and not (algorithm.ordered and self._root == 0):
                raise ArgumentError(
                    f"{self._collective}: algorithm {name!r} does not fold in rank order, and this op does not "
                    "commute; use algorithm='auto' or 'native'"
                )
        return name

    def _make(self, in_place: bool) -> Program:
        channel = self._channel
        if self.algorithm == "native":
            return Native(channel, self._collective, self._op, self._dtype, self._counts, self._root)
        return make_program(channel, self.table(in_place), self._tag, self._op, self._dtype)

    def table(self, in_place: bool) -> Table:
        """The steps of this rank."""
        channel = self._channel
        algorithm = algorithms.named(self._collective, self.algorithm)
        blocks = algorithm.blocks(channel.size, self.segments)
        return lower(
            algorithm.schedule(channel.rank, channel.size, self._root, self.segments),
            channel.rank,
            channel.size,
            self._layout(blocks, in_place),
            self._dtype.itemsize,
            finish=self._op is not None and self._op.finishes,
            empty=self._collective == "barrier",
        )

    def _layout(self, blocks: int, in_place: bool) -> Layout:
        """Where blocks lie: in the full array, or in this rank's part of it."""
        items = self._counts if self._collective in PARTS else _even(self._counts[0], blocks)
        sizes = np.array(items, np.int64) * self._dtype.itemsize
        starts = np.array([0, *accumulate(sizes.tolist())][:-1], np.int64)
        contract = CONTRACTS[self._collective]

        def places(held: np.ndarray) -> np.ndarray:
            only_own = self._collective in PARTS and not held.all()
            first = starts[held][0] if only_own and held.any() else 0
            return np.where(held, starts - first, -1)

        rank, size = self._channel.rank, self._channel.size
        before = contract.before(rank, size, blocks, self._root)
        after = contract.after(rank, size, blocks, self._root)
        return Layout(sizes, places(before), places(after), in_place)


def _even(count: int, blocks: int) -> list[int]:
    """Items per block, as even as can be."""
    short, longer = divmod(count, blocks)
    return [short + (block < longer) for block in range(blocks)]
