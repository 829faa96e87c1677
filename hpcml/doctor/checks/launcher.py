"""Whether what started this program started one MPI world, on all nodes of the job."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hpcml.doctor.finding import Finding, error, fine, warning
from hpcml.doctor.place import Facts, Place, World
from hpcml.runs.launch import Launch, find_launch, lone_worlds


def look(place: Place) -> Facts:
    from mpi4py import MPI

    launch = find_launch()
    return {
        "launch": None if launch is None else list(launch),
        "library": MPI.Get_library_version(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "job_nodes": int(os.environ.get("SLURM_JOB_NUM_NODES", 0) or 0),
        "job_tasks": int(os.environ.get("SLURM_NTASKS", 0) or 0),
    }


def judge(world: World) -> Sequence[Finding]:
    facts = world.facts[0]
    launch = None if facts["launch"] is None else Launch(*facts["launch"])
    if launch is not None and (said := lone_worlds(launch, world.size, facts["library"])):
        found, _, fix = said.rpartition(". ")
        return [error(found, "each would train alone on all of the data, and succeed", fix)]
    nodes = len(world.nodes)
    ranks = f"{world.size} rank{'s' * (world.size > 1)} on {nodes} node{'s' * (nodes > 1)}"
    if launch is None and facts["job_tasks"] > 1:
        return [
            warning(
                f"job {facts['job']} has {facts['job_tasks']} tasks, and this process is alone",
                "nothing between ranks and nodes has been looked at",
                "srun --mpi=pmix hpcml doctor (Open MPI), with --mpi=pmi2 (MPICH), or mpiexec hpcml doctor",
            )
        ]
    if facts["job_nodes"] > nodes:
        return [
            warning(
                f"job {facts['job']} has {facts['job_nodes']} nodes, and the ranks are on {nodes}: {ranks}",
                "the other nodes idle while these are crowded",
                "mpiexec --map-by ppr:N:node (Open MPI), mpiexec -ppn N (MPICH), or srun --ntasks-per-node=N",
            )
        ]
    return [fine(ranks + (f", by {launch.launcher}" if launch else ""))]
