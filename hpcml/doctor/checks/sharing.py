"""Whether ranks of a node can map, and read, each other's memory: tried as hpcml's collectives do it."""

from __future__ import annotations

from collections.abc import Sequence

from hpcml.doctor.finding import Finding, fine, warning
from hpcml.doctor.place import Facts, Place, World


def look(place: Place) -> Facts:
    """Collective."""
    try:
        from hpcml.collectives.channel import channel_of

        ready = True
    except Exception:  # where Numba has no cache, for one; said by the check of that
        ready = False
    if not all(place.comm.allgather(ready)):
        return {"tried": False, "shares": False, "reads": False}
    machine = channel_of(place.comm).machine
    return {"tried": machine.lanes > 1, "shares": machine.shares, "reads": bool(machine.process_ids)}


def judge(world: World) -> Sequence[Finding]:
    facts = world.facts[0]
    if max(map(len, world.nodes)) == 1:
        return [fine("one rank on each node: no memory to share")]
    if not facts["tried"]:
        return []
    if not facts["shares"]:
        return [
            warning(
                "ranks of a node cannot map each other's memory (memfd_create, /proc/PID/fd)",
                "hc.empty and the collectives in shared memory are not there; messages through MPI are two to five "
                "times slower inside a node",
                "start the ranks of a node in one container, with one process namespace and as one user",
            )
        ]
    if not facts["reads"]:
        return [
            warning(
                "ranks of a node cannot read each other's private memory (process_vm_readv)",
                "large ordinary arrays are copied once more; arrays made by hpcml.collectives.empty are not",
                "sysctl kernel.yama.ptrace_scope=0 as root; in a container --cap-add=SYS_PTRACE",
            )
        ]
    return [fine("ranks of a node map and read each other's memory")]
