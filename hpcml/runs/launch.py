"""How this process was started: alone, or as one of several that should be ranks of one MPI world."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

# The number of processes that each launcher started, and which of them this is. mpiexec comes first: it may
# itself have been started by srun, whose variables then tell of its daemons.
LAUNCHERS = (
    ("mpiexec", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),  # Open MPI
    ("mpiexec", "PMI_SIZE", "PMI_RANK"),  # MPICH and Intel MPI; also srun --mpi=pmi2
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)


class Launch(NamedTuple):
    """launcher: its name; processes: how many it started; process: which of them this one is, from 0."""

    launcher: str
    processes: int
    process: int


def find_launch(environment: Mapping[str, str] | None = None) -> Launch | None:
    """What started this process, by the environment; None if nothing that starts several. Starts no MPI."""
    found = os.environ if environment is None else environment
    for launcher, size, rank in LAUNCHERS:
        if found.get(size, "").isdigit():
            if "SLURM_STEP_NUM_TASKS" in found and "MPI_LOCALNRANKS" not in found and size == "PMI_SIZE":
                launcher = "srun"
            return Launch(launcher, int(found[size]), int(found.get(rank, 0)))
    return None


def lone_worlds(launch: Launch, world_size: int, library: str) -> str | None:
    """What to tell the user where a launcher started several processes of which each is an MPI world by
    itself: they would all train alone, and all succeed. None where all is well.

    library: what MPI_Get_library_version returns.
    """
    if world_size > 1 or launch.processes == 1:
        return None
    name = " ".join(library.split(",")[0].split("\n")[0].split())
    plugin = "pmix" if library.startswith("Open MPI") else "pmi2"
    other = "with another --mpi than this MPI library needs" if launch.launcher == "srun" else "of another MPI"
    return (
        f"{launch.launcher} started {launch.processes} processes, but each is an MPI world of its own: it is a "
        f"launcher {other} ({name}). Start the program by 'srun --mpi={plugin}' or by the mpiexec that came "
        "with this MPI."
    )
