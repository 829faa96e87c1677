"""Custom code: an exception that one rank does not catch ends all ranks, with its traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MPIEXEC = Path(sys.executable).parent / "mpiexec"
ROOT = Path(__file__).resolve().parents[2]
needs_mpiexec = pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside this Python")

ONE_RANK_FAILS = """
import numpy as np
from mpi4py import MPI
from hpcml import collectives as hc
hc.barrier()
if MPI.COMM_WORLD.rank == 1:
    raise KeyError("lost")
hc.allreduce(np.ones(3))
"""
ALL_RANKS_FAIL = """
import numpy as np
from hpcml import collectives as hc
hc.allreduce(np.ones(3), op="median")
"""


def mpirun(program):
    sys.path.insert(0, str(ROOT / "tools"))
    from environment import ALLOWANCES

    return subprocess.run(
        [str(MPIEXEC), "-n", "3", sys.executable, "-c", program],
        env={**ALLOWANCES, **os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


@needs_mpiexec
def test_one_rank_fails():
    ran = mpirun(ONE_RANK_FAILS)
    assert ran.returncode != 0
    assert "hpcml: rank 1 of 3 ended by an uncaught exception" in ran.stderr
    assert "KeyError: 'lost'" in ran.stderr


@needs_mpiexec
def test_all_ranks_fail_alike_and_one_says_so():
    ran = mpirun(ALL_RANKS_FAIL)
    assert ran.returncode != 0
    assert ran.stderr.count("ArgumentError: allreduce: unknown op 'median'") == 1


CALLS_DIFFER_LATER = """
import numpy as np
from mpi4py import MPI
from hpcml import collectives as hc
for n in (3, 200_000):
    hc.allreduce(np.ones(n))
hc.allreduce(np.ones(200_000 if MPI.COMM_WORLD.rank else 3))
"""


@needs_mpiexec
def test_calls_that_differ_end_the_program():
    ran = mpirun(CALLS_DIFFER_LATER)
    assert ran.returncode != 0
    assert "the ranks' calls do not fit together. rank 0: allreduce(float64[3], op='sum'" in ran.stderr


FAILS_BEFORE_ANY_CALL = """
import numpy as np
from mpi4py import MPI
from hpcml import collectives as hc
if MPI.COMM_WORLD.rank == 1:
    np.loadtxt("nothere.csv")
hc.allreduce(np.ones(3))
"""
LEAVES_EARLY = """
import numpy as np
from mpi4py import MPI
from hpcml import collectives as hc
for step in range(3 if MPI.COMM_WORLD.rank == 1 else 4):
    hc.allreduce(np.ones(3))
"""


@needs_mpiexec
def test_a_rank_fails_before_the_first_collective():
    ran = mpirun(FAILS_BEFORE_ANY_CALL)
    assert ran.returncode != 0
    assert "hpcml: rank 1 of 3 ended by an uncaught exception" in ran.stderr and "nothere.csv" in ran.stderr


@needs_mpiexec
def test_a_rank_that_leaves_early_ends_those_that_wait_for_it():
    ran = mpirun(LEAVES_EARLY)
    assert ran.returncode != 0
    assert "the program of rank 1 has ended, but rank " in ran.stderr
    assert "waits in allreduce(float64[3], op='sum'" in ran.stderr
