"""How ranks are spread over nodes, and which cores each may use: overlaps, too many, the wrong NUMA domain."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hpcml.doctor.finding import Finding, error, fine, warning
from hpcml.doctor.place import Facts, Place, World

WHOLE_NODES = "a core of its own for each rank: srun --cpus-per-task=K --cpu-bind=cores, mpiexec --map-by slot:PE=K "
WHOLE_NODES += "--bind-to core (Open MPI), mpiexec -bind-to core:K (MPICH); or none: --bind-to none, --cpu-bind=none"


def cpu_list(text: str) -> list[int]:
    """The numbers in the kernel's notation: ``0-3,8``."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        low, _, high = part.partition("-")
        found += range(int(low), int(high or low) + 1)
    return found


def look(place: Place) -> Facts:
    system = Path("/sys/devices/system")
    online = system / "cpu" / "online"
    numa = {
        int(folder.name[4:]): cpu_list((folder / "cpulist").read_text())
        for folder in sorted((system / "node").glob("node[0-9]*"))
        if (folder / "cpulist").exists()
    }
    status = Path("/proc/self/status").read_text() if Path("/proc/self/status").exists() else ""
    memory = next((line.split()[1] for line in status.splitlines() if line.startswith("Mems_allowed_list")), "")
    return {
        "cpus": sorted(os.sched_getaffinity(0)),
        "online": cpu_list(online.read_text()) if online.exists() else list(range(os.cpu_count() or 1)),
        "numa": numa,
        "memory": cpu_list(memory),
    }


def judge(world: World) -> Sequence[Finding]:
    findings = [*_uneven(world)]
    for node, ranks in enumerate(world.nodes):
        findings += _of_node(world, node, ranks)
    if findings:
        return findings
    free = all(facts["cpus"] == facts["online"] for facts in world.facts)
    counts = sorted({len(facts["cpus"]) for facts in world.facts})
    said = "not bound" if free else f"{'-'.join(map(str, counts))} core{'s' * (counts[-1] > 1)} each"
    return [fine(f"{world.size} rank{'s' * (world.size > 1)}, {said}")]


def _uneven(world: World) -> list[Finding]:
    counts = [len(ranks) for ranks in world.nodes]
    if max(counts) == min(counts):
        return []
    most, least = counts.index(max(counts)), counts.index(min(counts))
    return [
        warning(
            f"{max(counts)} ranks on {world.host(most)}, {min(counts)} on {world.host(least)}",
            "each rank has as many rows: the crowded node keeps the others waiting; algorithms by nodes are not used",
            "srun --ntasks-per-node=N, mpiexec --map-by ppr:N:node (Open MPI), mpiexec -ppn N (MPICH)",
        )
    ]


def _of_node(world: World, node: int, ranks: Sequence[int]) -> list[Finding]:
    host, facts = world.host(node), {rank: world.facts[rank] for rank in ranks}
    cpus = {rank: set(facts[rank]["cpus"]) for rank in ranks}
    online = set(facts[ranks[0]]["online"])
    together = set().union(*cpus.values())
    alike = all(cpus[rank] == together for rank in ranks)
    overlaps = [(a, b) for i, a in enumerate(ranks) for b in ranks[i + 1 :] if cpus[a] & cpus[b]]
    findings: list[Finding] = []
    if overlaps and (not alike or len(together) == 1 < len(online)):
        a, b = overlaps[0]
        shared = sorted(cpus[a] & cpus[b])
        more = f", and {len(overlaps) - 1} more pairs likewise" if len(overlaps) > 1 else ""
        idle = len(online - together)
        left = f"; {idle} of the node's {len(online)} cores are left idle" if idle else ""
        findings.append(
            error(
                f"ranks {a} and {b} on {host} are bound to the same core{'s' * (len(shared) > 1)} "
                f"{_span(shared)}{more}{left}",
                "they take turns: each step takes as many times longer as ranks share a core",
                WHOLE_NODES,
            )
        )
    elif len(together) < len(ranks):
        findings.append(
            warning(
                f"{len(ranks)} ranks on {host} share {len(together)} core{'s' * (len(together) > 1)}",
                "they take turns, and a rank that waits takes its core from the one that it waits for",
                f"at most {len(together)} ranks on this node: srun --ntasks-per-node, mpiexec -n; or more cores",
            )
        )
    return findings + _numa(world, host, ranks)


def _numa(world: World, host: str, ranks: Sequence[int]) -> list[Finding]:
    findings = []
    for rank in ranks:
        facts = world.facts[rank]
        domains = {int(domain): set(cpus) for domain, cpus in facts["numa"].items() if cpus}
        mine = set(facts["cpus"])
        used = sorted(domain for domain, cpus in domains.items() if cpus & mine)
        memory = set(facts["memory"]) or set(domains)
        if used and not memory & set(used):
            findings.append(
                error(
                    f"rank {rank} on {host} runs in NUMA domain {_span(used)}, and its memory comes from "
                    f"{_span(sorted(memory))}",
                    "every access to memory crosses between sockets: about half the bandwidth",
                    "srun --mem-bind=local, or no numactl --membind",
                )
            )
        elif len(used) > 1 and mine != set(facts["online"]) and len(mine) <= max(map(len, domains.values())):
            findings.append(
                warning(
                    f"rank {rank} on {host} is bound to cores {_span(sorted(mine))}, of NUMA domains {_span(used)}",
                    "its threads and its memory end up on different sockets, though one has room for them",
                    "mpiexec --map-by numa:PE=K (Open MPI), mpiexec -bind-to numa (MPICH), or "
                    "srun --cpu-bind=cores --distribution=block:block",
                )
            )
    return findings[:1] + ([_others(findings)] if len(findings) > 1 else [])


def _others(findings: list[Finding]) -> Finding:
    first = findings[0]
    return Finding(first.severity, f"and {len(findings) - 1} more ranks of that node likewise", first.why, first.fix)


def _span(numbers: Sequence[int]) -> str:
    """``0-3, 8``."""
    from itertools import groupby

    runs = [[n for _, n in group] for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
