"""The MPI world that a run has: what it was started by, and what is worth recording of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections import Counter

from mpi4py import MPI

from hpcml.version import __version__

PACKAGES = ("numpy", "numba", "mpi4py", "scikit-learn", "matplotlib")

#: How the names begin of variables that are worth recording: of threads, of MPI, of networks, of ours. Slurm's are of
#: the job, and many; its number is recorded.
VARIABLES = (
    *("OMP_", "OPENBLAS_", "MKL_", "NUMBA_", "HPCML_", "CUDA_", "NCCL_"),
    *("OMPI_MCA_", "PRTE_MCA_", "PMIX_MCA_", "MPIR_CVAR_", "MPICH_", "I_MPI_", "FI_", "UCX_", "MPI4PY_"),
)


def describe_world(comm: MPI.Comm) -> dict:
    """Versions, MPI library, ranks on each host, Slurm job, git commit and variables, for the record. Collective."""
    hosts = Counter(comm.allgather(MPI.Get_processor_name()))
    return {
        "hpcml": __version__,
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "mpi": MPI.Get_library_version().strip().split("\n")[0].strip("\0 "),
        "ranks": comm.size,
        "hosts": dict(hosts),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "git_commit": _git_commit() if comm.rank == 0 else None,
        "environment": _environment(),
    }


def _environment() -> dict[str, str]:
    """The variables that what runs here may depend on."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the working directory, marked where files differ from it; None outside a repository."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=-modified", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
