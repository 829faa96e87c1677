"""Every script of slurm/ that needs no GPU, and the launchers under it: one model is trained, or it is said why not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cluster import MPICH, ROOT, ended, environment, needs_cluster, sbatch, wait_for

from hpcml.slurm import queue

pytestmark = needs_cluster
SCRIPTS = ROOT / "slurm"
VIRTUAL = 4
TRAINING = ["--data", "digits", "--epochs", "2", "--hidden", "8", "--reproducible", str(VIRTUAL)]
PYTHONS = {"Open MPI": sys.prefix, "MPICH": str(MPICH)}


def run(folder, script, *arguments, options=(), **settings):
    """State, status and log of the job."""
    entry = ended(sbatch(folder, *options, "--time=10", SCRIPTS / script, *arguments, **settings))
    return entry, (folder / "job.out").read_text()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same training without Slurm, on one rank."""
    path = tmp_path_factory.mktemp("alone") / "run"
    command = [sys.executable, "-m", "hpcml", "train", *TRAINING, "--output", str(path), "--progress", "none"]
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    return path


def assert_same(path, alone):
    """Model and metrics; the times in them aside."""
    with np.load(path / "model.npz") as found, np.load(alone / "model.npz") as expected:
        for name in expected.files:
            if name.startswith("parameter"):
                np.testing.assert_array_equal(found[name], expected[name], strict=True)
    records = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (path, alone)]
    for here, there in zip(*records, strict=True):
        for name in ("epoch", "step", "loss", "accuracy", "validation_accuracy"):
            assert here[name] == pytest.approx(there[name], rel=1e-12)


@pytest.mark.parametrize("library", PYTHONS)
@pytest.mark.parametrize("launcher", ["srun", "mpiexec"])
def test_each_launcher_trains_one_model_with_the_bits_of_one_rank(folder, alone, library, launcher):
    if not Path(PYTHONS[library]).exists():
        pytest.skip(f"no {PYTHONS[library]}")
    entry, log = run(folder, "train.sbatch", *TRAINING, "--output", "run", LAUNCHER=launcher, VENV=PYTHONS[library])
    assert entry.state == "COMPLETED", log
    assert log.count("test accuracy") == 1 and log.count("epoch 2/2") == 1
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["ranks"] == 4 and sorted(config["hosts"].values()) == [2, 2] and config["slurm_job"] == entry.number
    assert_same(folder / "run", alone)
    assert not list(folder.glob(".hpcml-status*"))


@pytest.mark.parametrize("script", ["single-node.sbatch", "large.sbatch"])
def test_the_other_scripts_train(folder, alone, script):
    smaller = str(MPICH) if MPICH.exists() else sys.prefix  # which is copied
    entry, log = run(folder, script, *TRAINING, VENV=smaller if script == "large.sbatch" else sys.prefix)
    assert entry.state == "COMPLETED", log
    (path,) = (folder / "runs").iterdir()
    assert path.name == f"{entry.name}-{entry.number}"
    assert_same(path, alone)
    assert (" /tmp/hpcml-" in log) == (script == "large.sbatch")  # the Python on the nodes' own disks


def test_a_sweep_trains_each_line_in_a_directory_of_its_own(folder):
    number = sbatch(
        folder, "--array=1-2", f"--output={folder}/%a.out", SCRIPTS / "sweep.sbatch", SCRIPTS / "sweep.txt",
        "--data", "iris", "--epochs", "1",
    )  # fmt: skip
    wait_for(lambda: all(entry.is_over for entry in queue.job(number)), "the end")
    logs = [(folder / f"{task}.out").read_text() for task in (1, 2)]
    configs = [json.loads((folder / f"runs/hpcml-sweep-{number}-{task}/config.json").read_text()) for task in (1, 2)]
    assert [config["arguments"]["hidden"] for config in configs] == [[64], [256]], logs


def test_the_benchmark_is_over_the_allocation(folder):
    entry, log = run(
        folder, "bench.sbatch", "allreduce", "--bytes", "1K", "--algorithms", "native,ring", "--repeat", "2"
    )
    assert entry.state == "COMPLETED", log
    assert "ring" in log and json.loads((folder / f"hpcml-bench-{entry.number}.json").read_text())


def test_links_of_a_chain_go_on_with_one_run(folder):
    words = [
        "--chdir",
        folder,
        "--output",
        folder / "%j.out",
        "--open-mode=append",
        SCRIPTS / "train.sbatch",
        *TRAINING,
    ]
    command = [SCRIPTS / "chain.sh", "2", *words, "--output", "run"]
    ran = subprocess.run(list(map(str, command)), env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    first, second = [line.split()[-1] for line in ran.stdout.splitlines()]
    assert ended(second).state == "COMPLETED"
    assert "test accuracy" in (folder / f"{first}.out").read_text()
    assert "is complete" in (folder / f"{second}.out").read_text()


@pytest.mark.parametrize(
    "library, launcher, mpi, said",
    [
        ("Open MPI", "srun", "pmi2", "srun --mpi=pmix"),
        ("Open MPI", "srun", "none", "srun --mpi=pmix"),
        ("MPICH", "srun", "none", "srun --mpi=pmi2"),
    ],
)
def test_worlds_of_one_rank_are_not_trained(folder, library, launcher, mpi, said):
    if not Path(PYTHONS[library]).exists():
        pytest.skip(f"no {PYTHONS[library]}")
    settings = {"LAUNCHER": launcher, "MPI_TYPE": mpi, "VENV": PYTHONS[library]}
    entry, log = run(folder, "train.sbatch", "--data", "digits", "--output", "run", **settings)
    assert (entry.state, entry.status, entry.restarts) == ("FAILED", 2, 0), log
    assert log.count("srun started 4 processes, but each is an MPI world of its own") == 1
    assert f"Start the program by '{said}'" in log
    assert not (folder / "run").exists()
    # Another program than hpcml's own commands cannot say so itself: it is tried before.
    words = [
        "--nodes",
        "2",
        "--sbatch=--output=other.out",
        "--follow",
        "--",
        PYTHONS[library] + "/bin/python",
        "-c",
        "",
    ]
    python = PYTHONS[library] + "/bin/python"
    ran = subprocess.run(
        [python, "-m", "hpcml", "submit", *words],
        cwd=folder, env=environment(**settings), capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "expected one MPI world of 2 ranks, found: world of 1, world of 1" in ran.stdout


def test_where_the_program_is_started_by_hand_it_stops_too(folder):
    command = ["srun", "--nodes=2", "--ntasks=2", "--mpi=none", "--chdir", str(folder)]
    program = [sys.executable, "-m", "hpcml", "train", "--data", "digits", "--output", "run"]
    found = subprocess.run([*command, *program], env=environment(), capture_output=True, text=True)
    assert found.returncode == 2, found.stderr
    assert found.stderr.count("srun started 2 processes, but each is an MPI world of its own") == 1
    assert "srun --mpi=p" in found.stderr and not (folder / "run").exists()


@pytest.mark.parametrize(
    "arguments, settings, said",
    [
        (["--data", "absent.csv"], {}, "no data file 'absent.csv'"),
        (["--data", "digits"], {"LAUNCHER": "rsh"}, "LAUNCHER"),
        (["--data", "digits"], {"VENV": "/absent"}, "/absent/bin/python"),
    ],
)
def test_what_is_wrong_is_told_once_and_not_tried_again(folder, arguments, settings, said):
    entry, log = run(folder, "train.sbatch", *arguments, **settings)
    assert entry.state == "FAILED" and entry.status and entry.restarts == 0
    assert log.count(said) >= 1 and not (folder / "runs").exists()


def test_daemons_that_are_killed_do_not_pass_for_an_end(folder):
    """Under Open MPI's mpiexec, a signal to the steps of the job ends its daemons, with status 0."""
    training = ["--data", "digits", "--hidden", "8", "--epochs", "60", "--checkpoint-steps", "20", "--output", "run"]
    number = sbatch(folder, SCRIPTS / "train.sbatch", *training, LAUNCHER="mpiexec")
    metrics = folder / "run" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.stat().st_size, "an epoch")
    subprocess.run(["scancel", "--signal=USR1", number], check=True)
    entry = ended(number)
    log = (folder / "job.out").read_text()
    assert entry.state == "COMPLETED" and entry.restarts >= 1, log
    assert len(metrics.read_text().splitlines()) == 60 and (folder / "run" / "model.npz").exists()


def submit(folder, *words):
    command = [sys.executable, "-m", "hpcml", *words]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)


def test_submit_follows_the_job_to_its_end(folder, alone):
    words = ["--nodes", "2", "--ranks-per-node", "2", "--time", "5", "--name", "mine", "--follow"]
    ran = submit(folder, "submit", *words, "--", "train", *TRAINING)
    assert ran.returncode == 0, ran.stderr
    number = ran.stdout.split()[1]
    assert "epoch 2/2" in ran.stdout and "test accuracy" in ran.stdout
    assert "COMPLETED on node" in ran.stderr
    assert_same(folder / "runs" / f"mine-{number}", alone)
    listed = submit(folder, "jobs")
    (line,) = [line for line in listed.stdout.splitlines() if f"runs/mine-{number}" in line]
    assert line.split()[:2] == [number, "mine"] and " complete" in line and "2" in line.split()


def test_submit_ends_with_the_status_of_the_job(folder):
    ran = submit(folder, "submit", "--follow", "--", sys.executable, "-c", "raise SystemExit(3)")
    assert ran.returncode == 3, ran.stderr
    assert "FAILED" in ran.stderr and "status 3" in ran.stderr


@pytest.mark.parametrize(
    "options, said",
    [
        (["--partition", "absent"], "no partition 'absent' here; name one of"),
        (["--nodes", "1000"], "1000 nodes of 1 CPUs each are wanted"),
        (["--cpus", "4000"], "a node has at most"),
        (["--gpus", "64"], "of 64 GPUs each are wanted"),
        (["--sbatch=--no-such-option"], "sbatch: "),
    ],
)
def test_submit_says_what_the_cluster_does_not_have(folder, options, said):
    ran = submit(folder, "submit", *options, "--", "train", "--data", "digits")
    assert ran.returncode == 2 and said in ran.stderr and ran.stdout == "", ran.stderr
    assert os.listdir(folder) == []


def test_a_dry_run_shows_the_script_and_what_slurm_thinks(folder):
    ran = submit(folder, "submit", "--nodes", "2", "--time", "90", "--dry-run", "--", "train", "--data", "a b; c.csv")
    assert ran.returncode == 0, ran.stderr
    assert "#SBATCH --time=01:30:00\n" in ran.stdout and "train --data 'a b; c.csv'" in ran.stdout
    assert "to start at" in ran.stderr and os.listdir(folder) == []
