"""Whether the MPI library can take device pointers, found out without risk to the job.

What the library says of itself is not enough: one that was built without CUDA may run on a UCX that has it, and one
that was built with it may be told to use a transport that has not. So two processes of their own send each other a
message from device memory; where that ends in a crash, as it does where MPI takes the pointer for one of the host, they
alone end. ``HPCML_CUDA_AWARE=0`` says no without trying. ``=1`` says yes, and is believed if the trial bears it out.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mpi4py import MPI

VARIABLE = "HPCML_CUDA_AWARE"
SECONDS = 120  # after which a trial counts as failed
# What a launcher tells its processes: with it the trial would take itself for a part of this job.
OF_A_JOB = ("PMI", "PMIX", "OMPI_COMM", "OMPI_UNIVERSE", "OMPI_APP", "OMPI_FILE", "OMPI_FIRST", "OMPI_NUM", "OMPI_ARGV",
            "OMPI_COMMAND", "OMPI_MCA_ess", "OMPI_MCA_orte", "PRTE_LAUNCHED", "MPI_LOCAL", "HYDI", "HYDRA", "SLURM_",
            "MPIEXEC_", "PALS_", "FLUX_")  # fmt: skip
TRIAL = """
import numpy as np
from mpi4py import MPI
{make}
comm = MPI.COMM_WORLD
for count in (1, 5000, 1 << 20):
    sent, came = make(count, comm.rank + 1.0), make(count, 0.0)
    pointers = [MPI.buffer.fromaddress(address(a), 8 * count) for a in (sent, came)]
    peer = (comm.rank + 1) % comm.size
    comm.Sendrecv([pointers[0], MPI.BYTE], peer, 0, [pointers[1], MPI.BYTE], peer, 0)
    assert (host(came) == peer + 1).all()
"""
ON_THE_DEVICE = """
import cupy
def make(count, value):
    a = cupy.full(count, value)
    cupy.cuda.Device().synchronize()
    return a
def address(a):
    return a.data.ptr
host = cupy.asnumpy
"""


class Verdict(NamedTuple):
    """Whether something can be done, and how that is known."""

    can: bool
    why: str


def awareness() -> Verdict:
    """Of this process's MPI library. Takes seconds where it has to be tried, once a process."""
    return _found(os.environ.get(VARIABLE, ""))


@cache
def _found(told: str) -> Verdict:
    if told == "0":
        return Verdict(False, f"{VARIABLE}=0")
    failed = trial(ON_THE_DEVICE)
    said = f"; {claim()}" if claim() else ""
    if failed is None:
        return Verdict(True, f"two processes could send each other device memory{said}")
    told = f"{VARIABLE}=1, but " if told == "1" else ""
    return Verdict(False, f"{told}a trial of MPI with device memory failed ({failed}){said}")


def claim() -> str:
    """What the library says of itself, in words; empty where it says nothing."""
    info = MPI.COMM_WORLD.Get_info()
    kinds = info.Get("mpi_memory_alloc_kinds")
    info.Free()
    if kinds and "cuda" in kinds:
        return f"the MPI library lists {kinds}"
    try:
        query = ctypes.CDLL(MPI.__file__).MPIX_Query_cuda_support
    except AttributeError:
        return ""
    query.restype, query.argtypes = ctypes.c_int, []
    return f"MPIX_Query_cuda_support says {'yes' if query() else 'no'}"


def trial(make: str) -> str | None:
    """None where two processes can send each other what ``make`` makes, else how that ended.

    Two, because the library may treat a message to oneself otherwise. Where there is no mpiexec, one has to do.
    """
    program = [sys.executable, "-c", TRIAL.format(make=make)]
    launcher = _launcher()
    command = [launcher, "-n", "2", *program] if launcher else program
    try:
        ran = subprocess.run(
            command,
            env=without_a_job(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            text=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error).splitlines()[0]
    return None if ran.returncode == 0 else _last_line(ran.stderr, ran.returncode)


def without_a_job(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a program that is no part of this job."""
    return {name: value for name, value in environment.items() if not name.startswith(OF_A_JOB)}


def _launcher() -> str | None:
    """The mpiexec of this MPI: beside this Python, or else the first on the PATH. None on the nodes of a Slurm job,
    where it would ask Slurm for processes that the job has not."""
    beside = Path(sys.executable).with_name("mpiexec")
    if "SLURM_JOB_ID" in os.environ:
        return None
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def _last_line(text: str, status: int) -> str:
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if "Error" in line or "signal" in line.lower()]
    return f"status {status}" + (f", {lines[0][:120]}" if lines else "")
