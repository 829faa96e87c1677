"""The program that a job runs: an hpcml command, completed for a job that comes back, or any other."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpcml.slurm.commands import SlurmError
from hpcml.slurm.launcher import Job

# Commands that run on ranks.
OWN = ("train", "predict", "bench", "tune", "doctor", "verify")

_WORLD = """
import sys
from mpi4py import MPI
if MPI.COMM_WORLD.rank == 0:
    sys.stdout.write(f"world of {MPI.COMM_WORLD.size}\\n")
"""


def is_own(words: Sequence[str]) -> bool:
    return words[0] in OWN


def completed(words: Sequence[str], job: Job, sweep: str | None) -> list[str]:
    """The words of the program, with the array task's own, and what makes a training go on where it was.

    Raises SlurmError where there are none, or the sweep has no line for the task.
    """
    words = list(words[1:] if words[:1] == ["--"] else words)
    if not words:
        raise SlurmError("nothing to run: name a command, as in 'hpcml launch train --data digits'")
    if sweep is not None:
        words += _line(sweep, job)
    words = [word.replace("{task}", job.task).replace("{job}", job.number) for word in words]
    if words[0] == "train" and "--resume" not in words:
        if not any(word.split("=")[0] == "--output" for word in words):
            task = f"-{job.task}" if job.task else ""
            words += ["--output", f"runs/{job.name}-{job.array or job.number}{task}"]
        if "--continue" not in words:
            words.append("--continue")
    return words


def _line(sweep: str, job: Job) -> list[str]:
    lines = [line for line in Path(sweep).read_text().splitlines() if line.strip() and not line.startswith("#")]
    if not job.task:
        raise SlurmError(f"--sweep {sweep} is for job arrays: submit with --array=1-{len(lines)}")
    if not 1 <= int(job.task) <= len(lines):
        raise SlurmError(f"{sweep} has {len(lines)} lines, none for array task {job.task}: use --array=1-{len(lines)}")
    return shlex.split(lines[int(job.task) - 1])


def require_one_world(before: Sequence[str], python: str, environment: Mapping[str, str], tasks: int) -> int:
    """A second's test that launcher and library belong together. Raises SlurmError where they do not.

    hpcml's own commands find that out by themselves. Returns 0; or the status, above 128, where the test was killed,
    say with a node.
    """
    ran = subprocess.run(
        [*before, python, "-c", _WORLD],
        env=dict(environment),
        stdout=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    found = ran.stdout.strip().replace("\n", ", ")
    status = 128 - ran.returncode if ran.returncode < 0 else ran.returncode
    if not found and status > 128:
        return status
    if found != f"world of {tasks}":
        raise SlurmError(
            f"expected one MPI world of {tasks} ranks, found: {found or 'none at all'}. The launcher does not fit this "
            "MPI library: try LAUNCHER=mpiexec, or MPI_TYPE ('srun --mpi=list' tells what there is)"
        )
    return 0
