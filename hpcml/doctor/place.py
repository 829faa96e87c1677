"""Where a rank is, among whom: what checks need to look around, and to judge."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

Facts = dict[str, Any]


def node_key() -> str:
    """The same for processes that see each other's memory, and only for those. (Host names may repeat.)"""
    boot = Path("/proc/sys/kernel/random/boot_id")
    said = [platform.node(), boot.read_text() if boot.exists() else ""]
    namespace = Path("/proc/self/ns/pid")
    said.append(os.readlink(namespace) if namespace.exists() else "")
    return hashlib.blake2b("\n".join(said).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Place:
    """One rank's. comm: None where MPI cannot be used. hosts, node_of: of each rank; nodes are numbered by their
    first ranks."""

    comm: Any
    rank: int
    hosts: tuple[str, ...]
    node_of: tuple[int, ...]

    @classmethod
    def find(cls, comm: Any) -> Place:
        """Collective over ``comm``."""
        told = [(node_key(), platform.node())] if comm is None else comm.allgather((node_key(), platform.node()))
        numbers: dict[str, int] = {}
        node_of = tuple(numbers.setdefault(key, len(numbers)) for key, _ in told)
        return cls(comm, 0 if comm is None else comm.rank, tuple(host for _, host in told), node_of)

    @property
    def size(self) -> int:
        return len(self.node_of)

    @cached_property
    def firsts(self) -> tuple[int, ...]:
        """The first rank of each node."""
        return tuple(self.node_of.index(node) for node in range(max(self.node_of) + 1))


@dataclass(frozen=True)
class World:
    """What all ranks found out, for a judge. facts: of one check, by rank."""

    hosts: tuple[str, ...]
    node_of: tuple[int, ...]
    facts: Sequence[Facts]

    @property
    def size(self) -> int:
        return len(self.node_of)

    @cached_property
    def nodes(self) -> tuple[tuple[int, ...], ...]:
        """The ranks of each node."""
        count = max(self.node_of) + 1
        return tuple(tuple(r for r in range(self.size) if self.node_of[r] == node) for node in range(count))

    def host(self, node: int) -> str:
        return self.hosts[self.nodes[node][0]]

    def on(self, ranks: Sequence[int]) -> str:
        """``rank 3 on node1``, ``ranks 0, 2 on node0, node1``; nothing where it is all ranks."""
        if len(ranks) == self.size:
            return "all ranks" if self.size > 1 else "this process"
        shown = ", ".join(map(str, ranks[:8])) + (", …" if len(ranks) > 8 else "")
        hosts = list(dict.fromkeys(self.hosts[rank] for rank in ranks))
        where = ", ".join(hosts[:4]) + (", …" if len(hosts) > 4 else "")
        return f"{'rank' if len(ranks) == 1 else 'ranks'} {shown} on {where}"

    def first_of_nodes(self) -> list[tuple[int, Facts]]:
        """(node, facts of its first rank)."""
        return [(node, self.facts[ranks[0]]) for node, ranks in enumerate(self.nodes)]
