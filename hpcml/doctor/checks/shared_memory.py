"""Room for the memory that ranks of one node share: /dev/shm for the MPI library, and the system's leave for ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hpcml.doctor.finding import Finding, error, fine, warning
from hpcml.doctor.place import Facts, Place, World

MIB = 1 << 20
#: /dev/shm that the MPI library takes per rank of a node: Open MPI makes files of 16 MiB, MPICH uses some 6 MB.
NEEDED = 16 * MIB
#: With windows (MPI.Win.Allocate_shared), which are there too.
WANTED = 64 * MIB


def look(place: Place) -> Facts:
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    facts: Facts = {"ptrace_scope": int(scope.read_text()) if scope.exists() else 0}
    try:
        found = os.statvfs("/dev/shm")
        facts["size"], facts["free"] = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
        facts["writable"] = os.access("/dev/shm", os.W_OK)
    except OSError:
        facts["size"] = facts["free"] = 0
        facts["writable"] = False
    return facts


def judge(world: World) -> Sequence[Finding]:
    findings = []
    for node, facts in world.first_of_nodes():
        ranks, host = len(world.nodes[node]), world.host(node)
        size, free = facts["size"], facts["free"]
        grow = f"mount -o remount,size={-(-max(ranks * WANTED, 1 << 30) >> 30)}G /dev/shm as root; in a container "
        grow += "--shm-size=8g or --ipc=host; until then --mca btl ^sm (Open MPI), MPIR_CVAR_NOLOCAL=1 (MPICH)"
        if not facts["writable"]:
            findings.append(
                error(f"/dev/shm on {host} cannot be written to", "ranks of a node share memory through it", grow)
            )
        elif size and free < ranks * NEEDED:
            findings.append(
                error(
                    f"/dev/shm on {host} has {free / MIB:,.0f} MiB free of {size / MIB:,.0f}; {ranks} ranks need "
                    f"{ranks * NEEDED / MIB:,.0f}",
                    "the MPI library puts what ranks of a node exchange there; where it is full, ranks die of SIGBUS",
                    grow if size < ranks * WANTED else "remove what crashed programs left in /dev/shm",
                )
            )
        elif size and free < ranks * WANTED:
            findings.append(
                warning(
                    f"/dev/shm on {host} has {free / MIB:,.0f} MiB free; with windows {ranks} ranks may take "
                    f"{ranks * WANTED / MIB:,.0f}",
                    "MPI.Win.Allocate_shared fails, or ranks die of SIGBUS, where it is full",
                    grow,
                )
            )
    strict = [node for node, facts in world.first_of_nodes() if facts["ptrace_scope"]]
    if strict and max(map(len, world.nodes)) > 1:
        findings.append(
            warning(
                f"kernel.yama.ptrace_scope is {world.facts[world.nodes[strict[0]][0]]['ptrace_scope']} on "
                f"{world.host(strict[0])}",
                "ranks may not read each other's memory, so large arrays are copied twice",
                "sysctl kernel.yama.ptrace_scope=0 as root, or arrays made by hpcml.collectives.empty",
            )
        )
    if findings:
        return findings
    least = min(facts["free"] for _, facts in world.first_of_nodes())
    return [fine(f"/dev/shm has {least / (1 << 30):,.1f} GiB free" + (" or more" if len(world.nodes) > 1 else ""))]
