"""The Python environment on each node's own disk: thousands of ranks that import from one file server wait for it."""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
from pathlib import Path

from hpcml.slurm.commands import asked
from hpcml.slurm.launcher import Job


def staged(environment: Path, job: Job) -> str:
    """Copy the virtual environment to ``$TMPDIR`` (/tmp) of every node, one file by sbcast; the Python that is there.

    What it links to, the base Python and MPI of a module, has to be on the nodes. Raises SlurmError.
    """
    folder = f"{os.environ.get('TMPDIR', '/tmp')}/hpcml-{job.number}-{job.restarts}"
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "environment.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(environment, arcname=".")
        asked("sbcast", "--force", str(archive), f"{folder}.tar")
    spread = [f"--nodes={job.nodes}", f"--ntasks={job.nodes}", "--ntasks-per-node=1"]
    each = ["srun", "--mpi=none", *spread, "--export=ALL"]
    asked(*each, "mkdir", "-p", folder)
    asked(*each, "tar", "-xf", f"{folder}.tar", "-C", folder)
    asked(*each, "rm", f"{folder}.tar")
    return f"{folder}/bin/{Path(sys.executable).name}"
