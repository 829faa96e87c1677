"""Checking mode from the environment, and a rank that leaves early: what ends a program needs one of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MPIEXEC = Path(sys.executable).parent / "mpiexec"
ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import os, sys
import numpy as np
from mpi4py import MPI
rank = MPI.COMM_WORLD.rank
if rank == 1:
    os.environ["HPCML_CHECK"] = "1"  # one is enough
from hpcml import collectives as hc
x = np.ones(3)
for op in ("sum", "max"):
    hc.allreduce(x, op)
try:
    hc.allreduce(x, "max" if rank == 2 else "sum")
except hc.MismatchError as error:
    sys.stderr.write(f"{rank} at first: in_flight={error.in_flight} {error}\\n")
if rank != 1:
    try:
        hc.allreduce(x)
    except hc.MismatchError as error:
        sys.stderr.write(f"{rank} in the end: {error}\\n")
"""


@pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside this Python")
def test_checking_by_the_environment_of_one_rank_and_a_rank_that_leaves_early():
    sys.path.insert(0, str(ROOT / "tools"))
    from environment import ALLOWANCES

    ran = subprocess.run(
        [str(MPIEXEC), "-n", "3", sys.executable, "-c", PROGRAM],
        env={**ALLOWANCES, **os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert ran.returncode != 0
    for rank in range(3):
        assert f"{rank} at first: in_flight=False allreduce: the ranks' calls do not fit together." in ran.stderr
    assert ran.stderr.count("ranks 0-1: allreduce(float64[3], op='sum', algorithm='auto', root=0) at <string>:13") == 3
    for rank in (0, 2):
        assert f"{rank} in the end: the ranks' calls do not fit together." in ran.stderr
    assert "rank 1: the end of its program" in ran.stderr
    assert "hpcml: the program of rank 1 has ended, but rank " in ran.stderr and "(MismatchError)" in ran.stderr
