"""What a cluster has, by scontrol and sinfo, and whether it has what a job wants."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from hpcml.slurm.commands import asked
from hpcml.slurm.script import Wish, duration, minutes_of

AWAY = ("down", "drain", "fail", "boot", "power", "unk", "no_respond", "maint")


class Partition(NamedTuple):
    """minutes: the longest job, or None for any; nodes: the largest, or None."""

    name: str
    is_default: bool
    is_up: bool
    minutes: int | None
    nodes: int | None


class Node(NamedTuple):
    name: str
    partition: str
    cpus: int
    gpus: int
    is_there: bool


def partitions(text: str) -> list[Partition]:
    """From ``scontrol show partition --oneliner``."""
    found = []
    for line in text.splitlines():
        said = dict(re.findall(r"(\w+)=(\S+)", line))
        if "PartitionName" not in said:
            continue
        most = said.get("MaxNodes", "UNLIMITED")
        found.append(
            Partition(
                said["PartitionName"],
                said.get("Default") == "YES",
                said.get("State", "UP") == "UP",
                minutes_of(said.get("MaxTime", "UNLIMITED")),
                int(most) if most.isdigit() else None,
            )
        )
    return found


def nodes(text: str) -> list[Node]:
    """From ``sinfo --Node --noheader --format=%N|%R|%c|%G|%T``."""
    found = []
    for line in text.splitlines():
        name, partition, cpus, resources, state = line.strip().split("|")
        gpus = sum(int(count) for count in re.findall(r"\bgpu(?::[^:,(]+)*?:(\d+)", resources))
        away = state.lower().endswith("*") or state.lower().startswith(AWAY)
        found.append(Node(name, partition, int(cpus), gpus, not away))
    return found


def look() -> tuple[list[Partition], list[Node]]:
    """Of the cluster that this machine belongs to. Raises SlurmError."""
    found = partitions(asked("scontrol", "show", "partition", "--oneliner"))
    return found, nodes(asked("sinfo", "--Node", "--noheader", "--format=%N|%R|%c|%G|%T"))


def problems(wish: Wish, found: Sequence[Partition], there: Sequence[Node]) -> list[str]:
    """What of the wish the cluster cannot fulfil, each with what it has; empty where it can."""
    names = ", ".join(partition.name for partition in found)
    chosen = [one for one in found if one.name == wish.partition or (wish.partition is None and one.is_default)]
    if not chosen:
        missing = f"no partition {wish.partition!r}" if wish.partition else "no default partition"
        return [f"{missing} here; name one of {names} with --partition"]
    (partition,) = chosen
    said = [] if partition.is_up else [f"partition {partition.name} is not up now"]
    if partition.minutes is not None and wish.minutes is not None and wish.minutes > partition.minutes:
        said.append(
            f"--time {duration(wish.minutes)} is above the limit of partition {partition.name}, "
            f"{duration(partition.minutes)}: the job may be shorter, it goes on in another life"
        )
    if partition.nodes is not None and wish.nodes > partition.nodes:
        said.append(f"--nodes {wish.nodes}: a job in partition {partition.name} has at most {partition.nodes}")
    here = [node for node in there if node.partition == partition.name]
    cpus = wish.ranks_per_node * wish.cpus
    for enough, kind, wanted in (
        ([node for node in here if node.cpus >= cpus], "CPUs", cpus),
        ([node for node in here if node.gpus >= wish.gpus], "GPUs", wish.gpus),
    ):
        if len(enough) < wish.nodes:
            most = max((node.cpus if kind == "CPUs" else node.gpus for node in here), default=0)
            said.append(
                f"{wish.nodes} nodes of {wanted} {kind} each are wanted, partition {partition.name} has {len(enough)} "
                f"such nodes of {len(here)}; a node has at most {most}"
            )
    away = [node.name for node in here if not node.is_there]
    if not said and len(here) - len(away) < wish.nodes:
        said.append(
            f"--nodes {wish.nodes}: {len(away)} of the {len(here)} nodes of partition {partition.name} are down or "
            f"drained now ({', '.join(away[:5])})"
        )
    return said
