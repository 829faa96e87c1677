"""The test run itself: a hang on one rank ends the run, with the Python stack of every rank."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

STUCK = """
import time

def test_rank_0_waits_for_ever(comm):
    if comm.rank == 0:
        comm.recv(source=1)
    else:
        time.sleep(3600)  # busy elsewhere
"""


@pytest.mark.skipif(not (Path(sys.executable).parent / "mpiexec").exists(), reason="no mpiexec beside this Python")
def test_a_hang_ends_with_the_stack_of_every_rank(tmp_path):
    (tmp_path / "test_stuck.py").write_text(STUCK)
    (tmp_path / "conftest.py").write_text((HERE.parent / "mpi" / "conftest.py").read_text())
    sys.path.insert(0, str(HERE.parent.parent / "tools"))
    from environment import ALLOWANCES

    mpiexec = str(Path(sys.executable).parent / "mpiexec")
    ran = subprocess.run(
        [mpiexec, "-n", "2", sys.executable, str(HERE.parent / "run_mpi.py"), "--one-rank", str(tmp_path)],
        env={**ALLOWANCES, **os.environ, "HPCML_TEST_HANG": "3"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert ran.returncode != 0
    assert "comm.recv(source=1)" not in ran.stderr  # stacks name functions and lines, not source
    assert ran.stderr.count("in test_rank_0_waits_for_ever") == 2, ran.stderr
