"""Several nodes on one machine: communicators whose ranks take each other for neighbours in groups of a few."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from mpi4py import MPI

from hpcml.collectives import machine
from hpcml.collectives.channel import channel_of


@contextmanager
def nodes_of(per_node: int, comm: MPI.Comm) -> Iterator[MPI.Comm]:
    """A duplicate of ``comm`` with so many ranks a node; the last node has the rest. All memory is real."""
    own = comm.Dup()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "_node_name", lambda: own.rank // per_node)
        channel_of(own)
    try:
        yield own
    finally:
        own.Free()
