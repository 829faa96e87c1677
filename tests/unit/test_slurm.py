"""What hpcml makes of Slurm's words, and for Slurm: scripts, launchers, sites, queues. No Slurm is asked."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from hpcml.cli import main
from hpcml.slurm import follow, launcher, life, program, queue, site
from hpcml.slurm.commands import SlurmError
from hpcml.slurm.script import Wish, duration, minutes_of, script

JOB = launcher.Job("7", 8, 2, 3, 0, "", "", "name")
OFFERED = "MPI plugin types are...\n\tnone\n\tpmi2\n\tpmix\nspecific pmix plugin versions available: pmix_v4\n"


@pytest.mark.parametrize(
    "text, minutes",
    [
        ("30", 30), ("30:01", 31), ("2:30:00", 150), ("1-12", 36 * 60), ("1-12:30", 36 * 60 + 30),
        ("2-00:00:01", 2881), ("UNLIMITED", None), ("infinite", None),
    ],
)  # fmt: skip
def test_times_are_slurms(text, minutes):
    assert minutes_of(text) == minutes
    if minutes:
        assert minutes_of(duration(minutes)) == minutes


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "x-3"])
def test_what_is_no_time(text):
    with pytest.raises(ValueError):
        minutes_of(text)


def test_a_script_asks_for_what_was_wished_and_quotes_what_a_shell_would_take():
    wish = Wish(4, 8, 2, 4, 90, "gpu", "me", "my run; rm -rf /", "1-3%2", ("--qos=high",), ("mpi/5 x",))
    text = script(wish, "/a b/python", ["--", "train", "--data", "$(touch here).csv"])
    for line in (
        "--nodes=4", "--ntasks-per-node=8", "--cpus-per-task=2", "--gpus-per-node=4", "--time=01:30:00",
        "--partition=gpu", "--account=me", "--array=1-3%2", "--output=%x-%A_%a.out", "--qos=high",
        "--signal=B:USR1@120", "--requeue", "--open-mode=append", "'--job-name=my run; rm -rf /'",
    ):  # fmt: skip
        assert f"\n#SBATCH {line}\n" in text
    assert "module load 'mpi/5 x'" in text
    assert text.endswith("exec '/a b/python' -m hpcml launch -- train --data '$(touch here).csv'\n")
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    with pytest.raises(ValueError, match="line break"):
        script(wish._replace(name="a\n#SBATCH --uid=0"), "python", ["train"])


@pytest.mark.parametrize(
    "library, offered, environment, expected",
    [
        ("Open MPI v5.0.11, package: ...", OFFERED, {}, "pmix"),
        ("Open MPI v5.0.11", "none pmi2", {}, None),
        ("MPICH Version:      5.0.2", OFFERED, {}, "pmi2"),
        ("CRAY MPICH version 8.1", OFFERED + " cray_shasta", {}, "cray_shasta"),
        ("Intel(R) MPI Library 2021.9", OFFERED, {}, None),
        ("Intel(R) MPI Library 2021.9", OFFERED, {"I_MPI_PMI_LIBRARY": "/usr/lib/libpmi2.so"}, "pmi2"),
    ],
)
def test_the_protocol_of_a_library(library, offered, environment, expected):
    assert launcher.protocol(library, offered, environment) == expected


def test_the_launchers_words():
    words = launcher.launch_words("srun", "pmix", "Open MPI", JOB)
    assert words[:4] == ["srun", "--mpi=pmix", "--ntasks=8", "--cpus-per-task=3"] and "--export=ALL" in words
    made = launcher.launch_environment("mpiexec", JOB, {"OMP_NUM_THREADS": "9"})
    assert made["SLURM_MPI_TYPE"] == "none" and made["OMP_NUM_THREADS"] == "9" and made["NUMBA_NUM_THREADS"] == "3"
    assert launcher.Job.of({"SLURM_JOB_ID": "3", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "4"}).tasks == 8
    assert JOB.key == "7" and JOB._replace(array="7", task="3").key == "7_3"
    with pytest.raises(SlurmError, match="no Slurm job"):
        launcher.Job.of({})


def test_a_training_is_told_to_go_on_in_a_directory_of_its_job(tmp_path):
    assert program.completed(["--", "train", "--data", "d"], JOB, None) == [
        "train", "--data", "d", "--output", "runs/name-7", "--continue"
    ]  # fmt: skip
    of_array = JOB._replace(task="2", array="6")
    assert program.completed(["train", "--seed", "{task}"], of_array, None)[:5] == [
        "train", "--seed", "2", "--output", "runs/name-6-2"
    ]  # fmt: skip
    sweep = tmp_path / "sweep"
    sweep.write_text("# comment\n--C 1\n\n--C '2 3' --output here\n")
    second = ["train", "--C", "2 3", "--output", "here", "--continue"]
    assert program.completed(["train"], of_array, str(sweep)) == second
    assert program.completed(["python", "{job}.py"], JOB, None) == ["python", "7.py"]
    with pytest.raises(SlurmError, match="none for array task 9: use --array=1-2"):
        program.completed(["train"], JOB._replace(task="9"), str(sweep))
    with pytest.raises(SlurmError, match="nothing to run"):
        program.completed(["--"], JOB, None)


PARTITIONS = """
PartitionName=main AllowGroups=ALL Default=YES MaxNodes=2 MaxTime=1-00:00:00 Nodes=node[1-4] State=UP TotalNodes=4
PartitionName=gpu Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED Nodes=g[1-2] State=DOWN
"""
NODES = """node1|main|4|(null)|idle
node2|main|8|(null)|mixed
node3|main|8|(null)|down*
g1|gpu|64|gpu:a100:4(S:0-1)|idle
g2|gpu|64|gpu:a100:2(S:0),gpu:h100:2|drained
"""


def problems(**wish):
    return "; ".join(site.problems(Wish(**wish), site.partitions(PARTITIONS), site.nodes(NODES.rstrip("\n"))))


def test_a_wish_is_held_against_what_the_cluster_has():
    assert problems(nodes=2, ranks_per_node=2, cpus=2, minutes=60) == ""
    assert "no partition 'big' here; name one of main, gpu" in problems(partition="big")
    assert "is above the limit of partition main, 1-00:00:00" in problems(minutes=1441)
    assert "has at most 2" in problems(nodes=3)
    assert "2 nodes of 16 CPUs each are wanted, partition main has 0" in problems(nodes=2, ranks_per_node=8, cpus=2)
    assert "1 nodes of 1 GPUs each are wanted, partition main has 0 such nodes of 3" in problems(gpus=1)
    assert problems(partition="gpu", gpus=4, nodes=2) == "partition gpu is not up now"
    assert [node.gpus for node in site.nodes(NODES.rstrip())] == [0, 0, 0, 4, 4]


SHOWN = (
    "JobId=12 JobName=my run UserId=me(1) JobState=FAILED Reason=NonZeroExitCode Dependency=(null) Restarts=2 "
    "ExitCode=75:0 RunTime=00:01:00 NodeList=node[1-2] BatchHost=node1 Command=/a b/c StdOut=/x y/my run-12.out Power= "
)


def test_a_jobs_entry():
    (entry,) = queue.entries(SHOWN + "\n")
    assert entry[:2] == ("12", "my run") and entry.state == "FAILED" and entry.is_over
    assert (entry.status, entry.restarts, entry.nodes, entry.output) == (75, 2, "node[1-2]", "/x y/my run-12.out")
    (entry,) = queue.entries(SHOWN.replace("75:0", "0:9"))
    assert entry.status == 137


def test_following_ends_with_the_jobs_status_and_not_between_two_lives(tmp_path, capfdbinary):
    log = tmp_path / "log"
    (over,) = queue.entries(SHOWN)
    over = over._replace(output=str(log), restarts=1)
    running = over._replace(state="RUNNING")
    lives = [running._replace(restarts=0), over._replace(restarts=0), running, over, over]

    def look(number):
        with open(log, "a") as file:
            file.write(f"{len(lives)}\n")
        return [lives.pop(0)]

    assert follow.follow("12", look, 0.0) == 75
    out, err = capfdbinary.readouterr()
    assert out == b"5\n4\n3\n2\n1\n" and not lives
    assert err.count(b"RUNNING") == 2 and b"FAILED on node[1-2], 1 restart, status 75" in err
    assert follow.follow("12", lambda number: [over._replace(state="COMPLETED", status=0)], 0.0) == 0


WAITS = "import signal, sys; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75)); signal.pause()"


def test_a_life_passes_the_signal_on_again_and_again_until_the_program_leaves(monkeypatch, capfd):
    monkeypatch.setattr(life, "AGAIN_SECONDS", 0.1)
    with life.Life() as one:
        # Told before the program listens: it would never know, were it told once.
        deaf = "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN); import time; time.sleep(0.3);" + WAITS
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        prepare = "import os, signal, sys; signal.signal(signal.SIGUSR1, signal.SIG_IGN); os.execv(sys.executable, "
        prepare += f"[sys.executable, '-c', {deaf!r}])"
        status = one.run([sys.executable, "-c", prepare], os.environ, None)
    assert one.told and not one.ended
    assert status == 75
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


@pytest.mark.parametrize(
    "code, noted, told, status, again",
    [
        ("pass", "0", False, 0, False),
        ("sys.exit(143)", "75", False, 75, True),  # srun ended ranks that were just leaving
        ("pass", None, False, 137, True),  # the daemons were killed, and mpiexec returned 0
        ("os.kill(os.getpid(), 9)", None, False, 137, True),
        ("os.kill(os.getpid(), 10)", None, True, 75, True),  # too young to listen
        ("os.kill(os.getpid(), 15)", None, True, 75, True),  # ended by srun, for another had left with 75
        ("sys.exit(14)", None, False, 14, True),  # Open MPI has lost a rank
        ("sys.exit(2)", "2", False, 2, False),
        ("sys.exit(1)", None, False, 1, False),
    ],
)
def test_what_counts_is_what_the_program_said(monkeypatch, tmp_path, code, noted, told, status, again):
    said = tmp_path / "said"
    if noted is not None:
        code = f"open({str(said)!r}, 'w').write({noted!r}); {code}"
    with life.Life() as one:
        one.told = told
        found = one.run([sys.executable, "-c", f"import os, sys, signal; {code}"], os.environ, said)
        assert found == status and not said.exists()
        assert life.is_worth_another(found, one, JOB, 100) == again
        assert not life.is_worth_another(found, one, JOB._replace(restarts=100), 100)
        # A fault of a program comes again and again; where nothing was wrong but the time, that is no reason to stop.
        assert life.is_worth_another(found, one, JOB._replace(restarts=3), 100) == (found == 75)
        monkeypatch.setattr(life, "EARLY_SECONDS", 0.0)
        assert life.is_worth_another(found, one, JOB._replace(restarts=3), 100) == again
        os.kill(os.getpid(), signal.SIGTERM)  # Slurm itself ends the job
        time.sleep(0)
        assert not life.is_worth_another(found, one, JOB, 100)


def test_submit_without_slurm_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert main(["submit", "--nodes", "2", "--dry-run", "--", "train", "--data", "d"]) == 2
    found = capsys.readouterr()
    assert "#SBATCH --nodes=2\n" in found.out and "there is no scontrol here" in found.err
    assert main(["submit", "--nodes", "2"]) == 2
    assert main(["submit", "--name", "a\nb", "--", "train"]) == 2
    assert main(["launch", "train", "--data", "d"]) == 2
    assert "this is no Slurm job" in capsys.readouterr().err
