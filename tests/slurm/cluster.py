"""A Slurm cluster to test on, and what its jobs are started with. Its nodes have to see this folder and this Python."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpcml.slurm import queue

ROOT = Path(__file__).resolve().parents[2]
# What tests on one machine set, and users of a cluster do not.
OVERSUBSCRIBE = ("PRTE_MCA_rmaps_default_mapping_policy", "OMPI_MCA_rmaps_base_oversubscribe")
SETTINGS = ("VENV", "LAUNCHER", "MPI_TYPE", "HPCML_RESTARTS", *OVERSUBSCRIBE)
MPICH = Path(sys.prefix).with_name(".venv-mpich")

#: A program that can `crash` and `boot` nodes and run commands on them, if there is one.
LAB = os.environ.get("HPCML_SLURM_LAB") or shutil.which("slurm-lab")


def answers():
    return shutil.which("sbatch") and subprocess.run(["sinfo"], capture_output=True).returncode == 0


def nodes():
    """Their names; none without a cluster."""
    listed = ["sinfo", "--noheader", "--Node", "--format=%N"]
    return set(subprocess.run(listed, capture_output=True, text=True).stdout.split()) if answers() else set()


needs_cluster = pytest.mark.skipif(not answers(), reason="no Slurm cluster answers to sinfo")
needs_lab = pytest.mark.skipif(LAB is None, reason="HPCML_SLURM_LAB names no program that crashes nodes")


def environment(**settings):
    """Of a user who submits. settings: further variables."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return {**clean, "PYTHONPATH": str(ROOT), "VENV": sys.prefix, **settings}


def sbatch(folder, *words, **settings):
    """The number of the job, which runs in the folder and writes job.out there."""
    options = ["--parsable", "--chdir", str(folder), "--output", str(folder / "job.out")]
    ran = subprocess.run(
        ["sbatch", *options, *map(str, words)], env=environment(**settings), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def wait_for(condition, what):
    """Until it is true; nothing limits the time but the job's own limit."""
    while not (found := condition()):
        time.sleep(0.5)
    return found


def ended(number):
    """The job's last entry, as soon as it is over for good."""

    def over():
        found = queue.job(number)
        return found if all(entry.is_over for entry in found) else None

    wait_for(over, "the end")
    time.sleep(1)
    (entry,) = wait_for(over, "the end")
    return entry
