"""`hpcml doctor` on real nodes: a sound job, and faults that are planted in it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def cluster_answers():
    return shutil.which("srun") and subprocess.run(["sinfo"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not cluster_answers(), reason="no Slurm cluster answers to sinfo")


def plugin():
    """What this Python's MPI library wants of srun."""
    asked = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
    library = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True).stdout
    return "pmix" if library.startswith("Open MPI") else "pmi2"


def doctor(*words, mpi=None, folder=ROOT, nodes=2, tasks=4, options=()):
    """Status and findings by check, of ranks started by srun."""
    command = [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={tasks}",
        f"--ntasks-per-node={tasks // nodes}",
        f"--mpi={mpi or plugin()}",
        "--export=ALL",
    ]
    command += ["--chdir", str(folder), "--time=5", *options, *words, sys.executable, "-m", "hpcml", "doctor", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    try:
        findings = json.loads(ran.stdout)["findings"]
    except ValueError:
        raise AssertionError(f"status {ran.returncode}\n{ran.stdout}\n{ran.stderr}") from None
    by_check = {}
    for finding in findings:
        by_check.setdefault(finding["check"], []).append(finding)
    return ran.returncode, by_check


@pytest.fixture
def folder():
    """A folder that the nodes see: /tmp may be each node's own."""
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".slurm-test-") as path:
        yield Path(path)


def test_a_sound_job(folder):
    status, found = doctor(folder=folder)
    assert status == 0, found
    assert found["launcher"][0]["what"] == "4 ranks on 2 nodes, by srun"
    assert "shared by all nodes" in found["storage"][0]["what"]
    assert found["clocks"][0]["severity"] == "fine"


def test_a_launcher_that_starts_worlds_of_one(folder):
    status, found = doctor(mpi="none", folder=folder)
    assert status == 1
    (error,) = found["launcher"]
    assert "srun started 4 processes, but each is an MPI world of its own" in error["what"]
    assert f"srun --mpi={plugin()}" in error["fix"]


def test_all_ranks_of_a_node_on_one_core(folder):
    status, found = doctor("taskset", "-c", "0", folder=folder)
    assert status == 1
    assert len(found["binding"]) == 2  # one for each node
    assert all("are bound to the same core 0" in finding["what"] for finding in found["binding"])


def test_a_working_directory_of_each_nodes_own():
    """On each node a file system of its own is mounted over a folder that both see."""
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".slurm-test-") as path:
        apart = f'mount -t tmpfs none {path}; cd {path}; exec "$@"'
        status, found = doctor("unshare", "-m", "sh", "-ec", apart, "sh", nodes=2, tasks=2)
    assert status == 1, found
    assert "is each node's own" in found["storage"][0]["what"]


def test_ranks_on_fewer_nodes_than_the_job_has(folder):
    """Inside an allocation of two nodes, a step on one of them."""
    script = f"srun --nodes=1 --ntasks=2 --mpi={plugin()} --export=ALL {sys.executable} -m hpcml doctor --json"
    command = [
        "sbatch",
        "--wait",
        "--nodes=2",
        "--ntasks-per-node=2",
        "--time=5",
        "--chdir",
        str(folder),
        "--output=out",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "--wrap", script], env=environment, capture_output=True, check=True)
    findings = json.loads((folder / "out").read_text())["findings"]
    (warning,) = [finding for finding in findings if finding["check"] == "launcher"]
    assert "has 2 nodes, and the ranks are on 1" in warning["what"]
