"""Whatever ends a life of a job, the next goes on where it was, and ends with the bits of a run that nothing ended.

The trainings rest between steps, so these tests take their minutes with little computing; the longest goes on beside
the others.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import slow_training
from cluster import LAB, ROOT, ended, environment, needs_cluster, needs_lab, nodes, wait_for

from hpcml.slurm import queue

NODES = sorted(nodes())
pytestmark = [needs_cluster, pytest.mark.skipif(len(NODES) < 2, reason="the cluster has less than 2 nodes")]
PROGRAM = ROOT / "tests" / "slurm" / "slow_training.py"


def submit(folder, *options, seconds, steps, warning=60, minutes=10, where=".", **settings):
    """The number of a job of 2 ranks on 2 nodes, by hpcml submit."""
    own = ["--nodes", "2", "--time", str(minutes), "--warning", str(warning), "--sbatch=--output=job.out", *options]
    training = [sys.executable, str(PROGRAM), where, str(seconds), str(steps)]
    ran = subprocess.run(
        [sys.executable, "-m", "hpcml", "submit", *own, "--", *training],
        cwd=folder, env=environment(**settings), capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()[-1]


def made(folder):
    """(life, step) of the steps so far."""
    path = folder / "steps"
    return [tuple(map(int, line.split())) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_step(folder, least):
    wait_for(lambda: made(folder) and made(folder)[-1][1] >= least, f"step {least}")


def check(folder, number, straight, restarts, repeated):
    """The job ended well after that many restarts, with the parameters of ``straight``; what was made twice."""
    entry = ended(number)
    log = (folder / "job.out").read_text()
    assert entry.state == "COMPLETED", log
    assert entry.restarts >= restarts, log
    end = np.load(folder / "end.npz")
    for name, array in straight.items():
        np.testing.assert_array_equal(end[name], array, strict=True)
    steps = made(folder)
    assert steps[-1][1] == 200
    again = [last - first + 1 for (one, last), (other, first) in zip(steps, steps[1:], strict=False) if one != other]
    assert len(again) >= 1 and all(0 <= lost <= repeated for lost in again), again
    return log


@pytest.fixture(scope="module")
def straight():
    """The parameters of a training that nothing ended, on one rank."""
    with tempfile.TemporaryDirectory() as folder:
        assert slow_training.main(Path(folder), 0, 1000) == 0
        return dict(np.load(Path(folder) / "end.npz"))


@pytest.fixture(scope="module", autouse=True)
def limited():
    """A job of 70 s at least with lives of one minute at most, which begins before the other tests."""
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".slurm-test-", ignore_cleanup_errors=True) as path:
        nodes_option = f"--sbatch=--nodelist={','.join(NODES[:2])}"
        number = submit(Path(path), nodes_option, seconds=0.35, steps=1000, minutes=1, warning=30)
        yield Path(path), number
        subprocess.run(["scancel", number], capture_output=True)


@pytest.mark.parametrize("launcher", ["srun", "mpiexec"])
def test_told_by_a_signal_nothing_is_made_twice(folder, straight, launcher):
    number = submit(folder, seconds=0.1, steps=1000, LAUNCHER=launcher)
    wait_for_step(folder, 20)
    # To the ranks of srun; under mpiexec it would end the daemons, and goes to the batch script.
    to = ["--batch"] if launcher == "mpiexec" else []
    subprocess.run(["scancel", *to, "--signal=USR1", number], check=True)
    assert "is kept in checkpoints" in check(folder, number, straight, 1, 0)


def test_requeued_by_slurm_the_ranks_use_its_notice(folder, straight):
    number = submit(folder, seconds=0.1, steps=50)
    wait_for_step(folder, 20)
    subprocess.run(["scontrol", "requeue", number], check=True)
    assert "is kept in checkpoints" in check(folder, number, straight, 1, 0)


def test_a_task_of_an_array_comes_back_alone(folder, straight):
    for task in "12":
        (folder / task).mkdir()
    number = submit(folder, "--array", "1-2", "--sbatch=--output=%a/job.out", seconds=0.1, steps=1000, where="{task}")
    wait_for_step(folder / "2", 20)
    subprocess.run(["scancel", "--batch", "--signal=USR1", f"{number}_2"], check=True)
    assert "is kept in 2/checkpoints" in check(folder / "2", f"{number}_2", straight, 1, 0)
    other = ended(f"{number}_1")
    assert other.state == "COMPLETED" and other.restarts == 0
    assert not list((folder / "1" / "checkpoints").iterdir())


@needs_lab
@pytest.mark.parametrize("fault", ["crash", "cut link", "rank"])
def test_after_a_fault_steps_since_the_last_checkpoint_are_made_again(folder, straight, fault):
    if len(NODES) < 4:
        pytest.skip("the cluster has less than 4 nodes")
    number = submit(folder, f"--sbatch=--exclude={','.join(NODES[:2])}", seconds=0.1, steps=10)
    wait_for_step(folder, 35)
    (entry,) = queue.job(number)
    told = subprocess.run(["scontrol", "show", "hostnames", entry.nodes], capture_output=True, text=True)
    node = told.stdout.split()[1]
    try:
        if fault == "crash":
            subprocess.run([LAB, "crash", node], check=True)
        elif fault == "rank":
            found = [LAB, "exec", node, "pgrep", "-f", PROGRAM.name]
            pids = subprocess.run(found, capture_output=True, text=True).stdout
            subprocess.run([LAB, "exec", node, "kill", "-KILL", *pids.split()], check=True)
        else:
            link(node, "down")
        check(folder, number, straight, 1, 20)  # one that was being written may count, too
    finally:
        if fault == "cut link":
            link(node, "up")
        if fault != "rank":
            subprocess.run([LAB, "crash", node], check=False)
            subprocess.run([LAB, "boot", node], check=True)
            wait_for(lambda: "idle" in node_state(node) or "mix" in node_state(node), "node")


def link(node, state):
    told = subprocess.run([LAB, "exec", node, "ip", "-json", "link"], capture_output=True, text=True, check=True).stdout
    (name,) = [one["ifname"] for one in json.loads(told) if one["ifname"] != "lo"]
    subprocess.run([LAB, "exec", node, "ip", "link", "set", "dev", name, state], check=True)


def node_state(node):
    found = subprocess.run(["sinfo", "--noheader", f"--nodes={node}", "--format=%T"], capture_output=True, text=True)
    return found.stdout


def test_a_time_limit_shorter_than_the_training(limited, straight):
    folder, number = limited
    log = check(folder, number, straight, 3, 0)
    assert log.count("is requeued, for the") >= 3
