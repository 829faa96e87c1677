"""What is known of the machine that a communicator's ranks run on; the same on every rank.

Choices of algorithms rest on it, so it is found out where a communicator is first used, which is collective, and not
when a choice is made.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml.collectives.cost import Network
from hpcml.collectives.failures import complete
from hpcml.collectives.probe import probe
from hpcml.collectives.tuning import Tuning, read


@dataclass(frozen=True)
class Machine:
    """The ranks of a communicator and the links between them.

    library: name and version of the MPI library. node_of: the node of each rank; nodes are numbered from 0 in the order
    of their first ranks. network: latencies and bandwidths, probed where there are several nodes; else None. tuning:
    what `hpcml tune` measured on as many ranks and nodes; None where it has not been run. shares: whether the ranks of
    a node can map each other's memory; not known, so False, where nodes are not all alike. process_ids: of
    the ranks, where those of a node can read and write each other's private memory; else empty.
    """

    library: str
    node_of: tuple[int, ...]
    network: Network | None
    tuning: Tuning | None
    shares: bool = False
    process_ids: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return len(self.node_of)

    @property
    def nodes(self) -> int:
        return max(self.node_of) + 1

    @functools.cached_property
    def per_node(self) -> int:
        """The most ranks that one node has."""
        return max(np.bincount(self.node_of).tolist())

    @property
    def lanes(self) -> int:
        """Ranks per node where all nodes have as many and their ranks follow one another; 1 otherwise."""
        regular = self.node_of == tuple(rank // self.per_node for rank in range(self.size))
        return self.per_node if regular and self.size % self.per_node == 0 else 1

    @functools.cached_property
    def places_matter(self) -> bool:
        """Whether it matters to "auto" if arrays lie in shared memory. Not where all go by "shared" anyway."""
        return not (self.nodes == 1 and self.tuning is None and self.process_ids)

    def ranks_of_node(self, rank: int) -> tuple[int, ...]:
        """The ranks on the node of ``rank``, itself among them."""
        return tuple(r for r, node in enumerate(self.node_of) if node == self.node_of[rank])


def find_machine(comm: MPI.Comm) -> Machine:
    """Collective. ``comm`` has no other messages under way."""
    library = library_name()
    if comm.size == 1:
        return Machine(library, (0,), None, None)
    names = np.empty(comm.size, np.int64)
    complete(comm.Iallgather(np.array([_node_name()]), names), comm)
    numbers: dict[int, int] = {}
    node_of = tuple(numbers.setdefault(name, len(numbers)) for name in names.tolist())
    nodes = len(numbers)
    mine = (read(library, comm.size, nodes), _figures().get("network")) if comm.rank == 0 else None
    tuning, network = _told(mine, comm)  # a file may be there on one node only
    if nodes == 1:
        return Machine(library, node_of, None, tuning)
    _figures()["network"] = network = network or probe(comm, node_of)
    return Machine(library, node_of, replace(network, per_node=max(np.bincount(node_of).tolist())), tuning)


def _told(what: Any, comm: MPI.Comm) -> Any:
    """What rank 0 has."""
    message = np.frombuffer(pickle.dumps(what), np.uint8)
    length = np.array([len(message)])
    complete(comm.Ibcast(length), comm)
    if comm.rank:
        message = np.empty(length[0], np.uint8)
    complete(comm.Ibcast(message), comm)
    return pickle.loads(message.tobytes())


@functools.cache
def _figures() -> dict[str, Network]:
    """The network as this process has seen it: it is probed once, not for every communicator."""
    return {}


@functools.cache
def _node_name() -> int:
    """A number that is the same for processes that can share memory, and only for those."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    said = [MPI.Get_processor_name(), platform.node(), boot.read_text() if boot.exists() else ""]
    namespace = Path("/proc/self/ns/pid")  # containers on one host may not see each other
    said.append(os.readlink(namespace) if namespace.exists() else "")
    return int.from_bytes(hashlib.blake2b("\n".join(said).encode(), digest_size=7).digest(), "little")


@functools.cache
def library_name() -> str:
    """As in ``"openmpi-5.0.11"``."""
    name, version = MPI.get_vendor()
    return f"{name.lower().replace(' ', '')}-{'.'.join(map(str, version))}"
