"""From a collective's arguments, agreed on by all ranks, to a program that runs it.

A binding is what all ranks have in common; its programs differ in what is this rank's own affair, such as whether the
result goes where the input is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcml.collectives import algorithms, choice, shared
from hpcml.collectives.channel import Channel
from hpcml.collectives.choice import Choice
from hpcml.collectives.errors import ArgumentError
from hpcml.collectives.lowering import lowered
from hpcml.collectives.machine import Machine
from hpcml.collectives.native import Native, reducible
from hpcml.collectives.ops import Op
from hpcml.collectives.program import Program, make_program
from hpcml.collectives.table import Table

IN_PLACE = ("allreduce", "reduce", "broadcast", "scan", "exscan")  # which can leave the result where the input was
# Collectives in which each rank holds, or gets, a part of its own.
PARTS = ("scatter", "gather", "allgather", "reduce_scatter")


class Binding:
    """One collective on one communicator, for one data type and size.

    counts: items of each rank's part for `PARTS`; those that rank s has for rank d, at s·p + d, for alltoall; else
    ``(n,)``. algorithm: a name from `algorithms`, or ``"auto"``.
    said: the call in words, the same on every rank. native: whether "auto" may take the MPI library's own.
    device: the runtime of the GPU whose memory it works on (see `hpcml.collectives.device`); None: the host's.
    Collective: ranks make their bindings in the same order.
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
        native: bool = True,
        device: Any = None,
    ):
        self.said = said
        self._channel, self._collective, self._op, self._dtype = channel, collective, op, dtype
        self._counts, self._root = counts, root
        self.nbytes = sum(counts) * dtype.itemsize // (channel.size if collective == "alltoall" else 1)
        self.may_be_in_place = collective in IN_PLACE
        self._device = device
        if device is not None:
            from hpcml.collectives.device import links, transport

            self._links = links.links_of(channel, device)
            taken: Any = transport.taken(
                channel, self._links, collective, algorithm, op, dtype, counts, self.nbytes, root
            )
            self._way = taken
        else:
            taken = chosen(channel.machine, collective, algorithm, op, dtype, self.nbytes, native, root)
        self.algorithm, self.segments = taken.algorithm, taken.segments
        self._host: Binding | None = None
        if device is not None and taken.way == "host":
            self._host = Binding(channel, collective, algorithm, op, dtype, counts, root, said, native)
        self._staged = device is None and native and choice.is_staged(channel.machine, collective, self.algorithm)
        if self.algorithm == shared.NAME or self._staged:  # what a channel keeps for it
            self.nbytes += min(4 * self.nbytes + 4096, shared.ROOM) * channel.size
        self.tag = channel.next_tag()
        self._programs: dict[bool, Program] = {}
        self._spare: dict[bool, list[Program]] = {True: [], False: []}  # of those that ran in the background

    def program(self, in_place: bool) -> Program:
        """The program for this rank, made when it is first asked for."""
        program = self._programs.get(in_place)
        if program is None:
            program = self._programs[in_place] = self._make(in_place)
            if self.algorithm == shared.NAME or self._staged:  # serves both
                self._programs[not in_place] = program
        return program

    def run(self, source: np.ndarray, target: np.ndarray) -> None:
        """Run it on C-contiguous memory. ``source is target`` for in place."""
        program = self._programs.get(source is target)
        if program is None:
            program = self.program(source is target)
        program.run(source, target)

    def run_if(self, holds: bool, source: np.ndarray, target: np.ndarray) -> bool:
        """Run it where this ``holds`` on every rank; whether it did. Where not, ``source`` may be of any length.

        For the collectives to which every rank gives something.
        """
        if self.algorithm != shared.NAME:
            if not self._channel.still(self.said, holds):
                return False
            self.run(source, target)
            return True
        program: Any = self._programs.get(False) or self.program(False)  # the flags with which ranks arrive can tell
        if holds:
            program.run(source, target)
            return program.held
        program.holds = False
        try:
            program.run(source, target)
            return False
        finally:
            program.holds = True

    def launch(self, source: np.ndarray, target: np.ndarray, tag: int) -> Program:
        """Begin a run in the background, beside others of this binding; return the program that does it."""
        in_place = source is target
        program = self._spare[in_place].pop() if self._spare[in_place] else self._make(in_place)
        program.bind(source, target)
        program.launch(tag)
        return program

    def landed(self, program: Program, in_place: bool) -> None:
        """Take back a program that `launch` returned and that is complete."""
        program.release()
        self._spare[in_place].append(program)

    def _make(self, in_place: bool) -> Program:
        channel = self._channel
        of = self._collective, self._op, self._dtype, self._counts, self._root
        if self._device is not None:
            from hpcml.collectives.device.program import make

            on_host = None if self._host is None else self._host._make(False)
            return make(channel, self._links, self._way, *of, self.tag, in_place, on_host)
        if self.algorithm == "native":
            return Native(channel, self._collective, self._op, self._dtype, self._counts, self._root)
        if self.algorithm == shared.NAME:
            from hpcml.collectives.shared.program import Shared

            return Shared(channel, *of, self.tag, self.said)
        if self._staged:
            from hpcml.collectives.by_node import program

            return program(channel, *of, self.tag, self.said)
        return make_program(channel, self.table(in_place), self.tag, self._op, self._dtype)

    def table(self, in_place: bool) -> Table:
        """The steps of this rank."""
        of = self._op, self._dtype, self._counts, self._root
        return lowered(self._channel, self._collective, self.algorithm, self.segments, *of, in_place)


def chosen(
    machine: Machine,
    collective: str,
    name: str,
    op: Op | None,
    dtype: np.dtype,
    nbytes: int,
    native: bool = True,
    root: int = 0,
) -> Choice:
    """What runs where ``name`` is asked for; ArgumentError where that cannot do it."""
    own_op = op is not None and op.ufunc is None
    if name == "auto" and own_op:
        return Choice("native", 1, None, "an MPI.Op of the user's own is the MPI library's affair")
    if name == "auto":
        can = {
            "native": native and (op is None or reducible(dtype) is not None),
            shared.NAME: native and machine.shares and machine.nodes == 1,  # it gets on in its own calls only, too
        }
        return choice.choose(machine, collective, nbytes, lambda candidate: can.get(candidate, True), native)
    if name == shared.NAME:
        if machine.nodes > 1:
            raise ArgumentError(
                f"{collective}: algorithm 'shared' needs all ranks on one node, and these {machine.size} are on "
                f"{machine.nodes}; use algorithm='auto', or a communicator of Split_type(MPI.COMM_TYPE_SHARED)"
            )
    elif name != "native":
        algorithm = algorithms.named(collective, name)
        if op is not None and not op.commutes and not (algorithm.ordered and root == 0):
            raise ArgumentError(
                f"{collective}: algorithm {name!r} does not fold in rank order, and this op does not "
                "commute; use algorithm='auto' or 'native'"
            )
    return Choice(name, choice.segments(machine, collective, name, nbytes), None, "asked for")
