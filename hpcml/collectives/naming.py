"""Names for communicators that every rank gives alike, for reports in which ranks are put side by side."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass

from mpi4py import MPI

from hpcml.collectives.errors import ranks_phrase


@dataclass
class _Recording:
    on: bool


@functools.cache
def _recording() -> _Recording:
    return _Recording(False)


def records() -> bool:
    """Whether channels remember the lines that calls come from, and have names."""
    return _recording().on


def start_recording() -> None:
    """For channels that are made from now on."""
    _recording().on = True


def members(comm: MPI.Comm) -> str:
    """Which ranks of MPI.COMM_WORLD it has."""
    world = MPI.COMM_WORLD
    if MPI.Comm.Compare(comm, world) == MPI.IDENT:
        return "MPI.COMM_WORLD"
    if comm.size == world.size:
        return "a communicator of all ranks"
    ours, all_ranks = comm.Get_group(), world.Get_group()
    ranks = MPI.Group.Translate_ranks(ours, None, all_ranks)
    ours.Free()
    all_ranks.Free()
    return f"a communicator of {ranks_phrase([int(rank) for rank in ranks])}"


def told_apart(name: str) -> str:
    """The name with a number, where there was one of that name before: ranks make those in the same order."""
    _given()[name] += 1
    number = _given()[name]
    return name if number == 1 else f"{name} (the {number}. such)"


@functools.cache
def _given() -> Counter[str]:
    return Counter()
