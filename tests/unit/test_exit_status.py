"""Under mpiexec, of either MPI, a signal to one rank or to mpiexec ends the program with status 75, kept."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = [Path(sys.prefix), Path(sys.prefix).with_name(".venv-mpich")]


def started(environment, folder):
    sys.path.insert(0, str(ROOT / "tools"))
    from environment import ALLOWANCES

    python, mpiexec = environment / "bin" / "python", environment / "bin" / "mpiexec"
    if not mpiexec.exists():
        pytest.skip(f"no {mpiexec}")
    training = ["train", "--data", "digits", "--hidden", "4", "--epochs", "2000", "--progress", "none"]
    return subprocess.Popen(
        [str(mpiexec), "-n", "3", str(python), "-m", "hpcml", *training, "--output", str(folder / "run")],
        env={**ALLOWANCES, **os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def ranks_of(program):
    """The processes below it that train."""
    pids, found = [program.pid], []
    while pids:
        pid = pids.pop()
        for task in Path(f"/proc/{pid}/task").iterdir():
            pids += map(int, (task / "children").read_text().split())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"hpcml" in words and b"-n" not in words:
            found.append(pid)
    return found


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda path: path.name)
@pytest.mark.parametrize("target, name", [("one rank", signal.SIGTERM), ("mpiexec", signal.SIGUSR1)])
def test_status(tmp_path, environment, target, name):
    pytest.importorskip("sklearn")
    program = started(environment, tmp_path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        assert program.poll() is None, program.stderr.read()
        time.sleep(0.05)
    ranks = ranks_of(program)
    assert len(ranks) == 3
    os.kill(ranks[1] if target == "one rank" else program.pid, name)
    said = program.communicate()[1]
    assert program.returncode == 75, said
    assert f"asked to end by {name.name} on rank " in said
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
