"""Which command starts the ranks of a job as one MPI world: srun if Slurm speaks this MPI's language, else mpiexec.

What Slurm calls --mpi is the protocol by which ranks find each other. With a wrong one srun starts as many worlds of
one rank as there are tasks, and each succeeds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hpcml.slurm.commands import SlurmError, asked

KINDS = ("auto", "srun", "mpiexec")

# Asked without MPI_Init, which not every site allows outside of srun.
_LIBRARY = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.Get_library_version().split("\\n")[0].strip("\\0 "))
"""


class Job(NamedTuple):
    """What Slurm says of the job that this is the batch script of."""

    number: str
    tasks: int
    nodes: int
    cpus: int  # of a task
    restarts: int  # lives before this one
    task: str  # of the array, or ""
    array: str  # the number of the array as a whole, or ""
    name: str

    @property
    def key(self) -> str:
        """What scontrol takes for this job alone: the number of an array's last task is also that of all the array."""
        return f"{self.array}_{self.task}" if self.array else self.number

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Job:
        """Raises SlurmError outside of a job."""
        if "SLURM_JOB_ID" not in environment:
            raise SlurmError("this is no Slurm job: start it by 'hpcml submit', or by sbatch with a script of slurm/")

        def number(name: str, default: int = 1) -> int:
            return int(environment.get(name) or default)

        nodes = number("SLURM_JOB_NUM_NODES")
        return cls(
            environment["SLURM_JOB_ID"],
            number("SLURM_NTASKS", nodes * number("SLURM_NTASKS_PER_NODE")),
            nodes,
            number("SLURM_CPUS_PER_TASK"),
            number("SLURM_RESTART_COUNT", 0),
            environment.get("SLURM_ARRAY_TASK_ID", ""),
            environment.get("SLURM_ARRAY_JOB_ID", ""),
            environment.get("SLURM_JOB_NAME", "job"),
        )


def mpi_library(python: str = sys.executable) -> str:
    """The first line of what MPI_Get_library_version says. Raises SlurmError where mpi4py finds no MPI."""
    ran = subprocess.run([python, "-c", _LIBRARY], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if ran.returncode:
        raise SlurmError(f"mpi4py of {python} finds no MPI library, is a module missing? {ran.stderr.strip()}")
    return ran.stdout.strip()


def protocol(library: str, offered: str, environment: Mapping[str, str]) -> str | None:
    """Slurm's name for the protocol of the MPI library, if it is among what ``srun --mpi=list`` offers."""
    if "Open MPI" in library:
        wanted = "pmix"
    elif "CRAY" in library.upper():
        wanted = "cray_shasta"
    elif "Intel" in library:
        # It takes part in PMI-2 only if it is told where the site's library of it is.
        wanted = "pmi2" if environment.get("I_MPI_PMI_LIBRARY") else ""
    else:
        wanted = "pmi2"
    return wanted if wanted in offered.replace(",", " ").split() else None


def chosen(kind: str, mpi: str | None, library: str, environment: Mapping[str, str]) -> tuple[str, str | None]:
    """srun or mpiexec, and of srun the protocol. kind: one of KINDS; mpi: what to pass as --mpi, or None.

    Raises SlurmError where srun is wanted and speaks no protocol of the library.
    """
    if kind not in KINDS:
        raise SlurmError(f"LAUNCHER={kind}: expected {', '.join(KINDS)}")
    if kind == "mpiexec":
        return kind, None
    mpi = mpi or protocol(library, asked("srun", "--mpi=list"), environment)
    if mpi is None and kind == "srun":
        raise SlurmError(
            f"srun speaks none of the protocols of {library}: leave --launcher out, which takes mpiexec then, or name "
            "a protocol with --mpi ('srun --mpi=list' tells them)"
        )
    return ("srun", mpi) if mpi is not None else ("mpiexec", None)


def launch_words(launcher: str, mpi: str | None, library: str, job: Job) -> list[str]:
    """The words before the program's own. Raises SlurmError where there is no mpiexec."""
    if launcher == "srun":
        return [
            "srun",
            f"--mpi={mpi}",
            f"--ntasks={job.tasks}",
            # From Slurm 22.05 on srun does not take it over from sbatch.
            f"--cpus-per-task={job.cpus}",
            # Where sites default to NONE the ranks would have no HOME.
            "--export=ALL",
            # Under pmi2 a rank that dies without a word would be waited for.
            "--kill-on-bad-exit=1",
            # Each rank its own cores, where the site binds at all.
            "--cpu-bind=cores",
        ]
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec") or shutil.which("mpirun")
    if found is None:
        raise SlurmError(f"no mpiexec beside {sys.executable} or on the PATH, and srun does not speak to {library}")
    # Open MPI would bind a rank, with all its threads, to one core; the job's own limits are enough.
    return [found, "-n", str(job.tasks), *(["--bind-to", "none"] if "Open MPI" in library else [])]


def launch_environment(launcher: str, job: Job, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """With as many threads of BLAS and Numba as a rank has cores, unless they are set."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    made = {**dict.fromkeys(threads, str(job.cpus)), **(os.environ if environment is None else environment)}
    if launcher == "mpiexec":
        made["SLURM_MPI_TYPE"] = "none"  # mpiexec starts its daemons by srun, which must not take them for ranks
    return made
