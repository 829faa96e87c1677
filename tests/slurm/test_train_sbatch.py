"""slurm/train.sbatch on a real cluster: it trains one model by whatever launcher, or stops and says why.

Skipped where there is no Slurm that answers. The cluster's nodes have to see this folder and this Python.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "slurm" / "train.sbatch"
SETTINGS = ("VENV", "LAUNCHER", "MPI_TYPE")


def cluster_answers():
    return shutil.which("sbatch") and subprocess.run(["sinfo"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not cluster_answers(), reason="no Slurm cluster answers to sinfo")


@pytest.fixture
def folder():
    """A folder that the nodes see: /tmp may be each node's own."""
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".slurm-test-") as path:
        yield Path(path)


def submit(folder, *arguments, **settings):
    """Exit status and output of the job, 2 tasks on each of 2 nodes."""
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    environment["PYTHONPATH"] = str(ROOT)
    environment.update({"VENV": sys.prefix, **settings})
    options = ["--wait", "--chdir", str(folder), "--output", str(folder / "job.out"), "--time=5"]
    command = ["sbatch", *options, str(SCRIPT), *arguments]
    status = subprocess.run(command, env=environment, capture_output=True, text=True).returncode
    return status, (folder / "job.out").read_text()


@pytest.mark.parametrize("launcher", ["srun", "mpiexec", "auto"])
def test_the_job_trains_one_model_on_all_its_tasks(folder, launcher):
    arguments = ["--data", "digits", "--epochs", "3", "--output", "run"]
    status, printed = submit(folder, *arguments, LAUNCHER=launcher)
    assert status == 0, printed
    assert printed.count("test accuracy") == 1
    assert printed.count("epoch 3/3") == 1  # a log: a line per epoch, once
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["ranks"] == 4 and sorted(config["hosts"].values()) == [2, 2]
    assert config["slurm_job"]


def test_worlds_of_one_rank_are_not_trained(folder):
    status, printed = submit(folder, "--data", "digits", "--output", "run", LAUNCHER="srun", MPI_TYPE="none")
    assert status == 2, printed
    assert "expected one MPI world of 4 ranks, found: world of 1" in printed
    assert "test accuracy" not in printed and not (folder / "run").exists()


def test_the_program_itself_stops_in_worlds_of_one_rank(folder):
    command = ["srun", "--nodes=2", "--ntasks=2", "--mpi=none", "--chdir", str(folder)]
    program = [sys.executable, "-m", "hpcml", "train", "--data", "digits", "--output", "run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([*command, *program], env=environment, capture_output=True, text=True)
    assert found.returncode == 2, found.stderr
    assert found.stderr.count("srun started 2 processes, but each is an MPI world of its own") == 1
    assert "srun --mpi=p" in found.stderr
    assert not (folder / "run").exists()


def test_bad_input_ends_the_job_with_one_message(folder):
    status, printed = submit(folder, "--data", "absent.csv")
    assert status != 0
    assert printed.count("no data file 'absent.csv'") == 1
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"LAUNCHER": "rsh"}, "expected auto, srun or mpiexec"),
        ({"VENV": "/absent"}, "VENV=/absent holds no bin/python"),
    ],
)
def test_wrong_settings_are_told(folder, settings, said):
    status, printed = submit(folder, **settings)
    assert status == 2
    assert said in printed
