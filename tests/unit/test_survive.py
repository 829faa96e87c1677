"""Ranks that are killed: those that are left go on, and end where a training without a death ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from killed_ranks import ROOT, train, victims  # noqa: E402

MPIEXEC = Path(sys.executable).parent / "mpiexec"
SAID = subprocess.run([MPIEXEC, "--version"], capture_output=True, text=True).stdout if MPIEXEC.exists() else ""
has_ulfm = pytest.mark.skipif("Open MPI" not in SAID, reason="no mpiexec of Open MPI beside this Python")


def survived(mode, ranks, seed, deaths):
    """What became of it, and of one without deaths."""
    outcome = train(mode, ranks, seed, deaths)
    assert outcome.status == 0, outcome.text
    assert sorted(outcome.lost) == sorted(rank for rank, _ in victims(ranks, seed, deaths)), outcome.text
    return outcome, train(mode, ranks, seed, 0)


@has_ulfm
def test_the_state_of_all_ranks_is_restored_from_their_neighbours():
    outcome, undisturbed = survived("shard", 4, 1, 1)
    assert outcome.sources[-1].endswith("in the memory of the ranks"), outcome.text
    assert outcome.loss == pytest.approx(undisturbed.loss, rel=1e-3)


@has_ulfm
def test_two_deaths_and_the_same_bits():
    outcome, undisturbed = survived("reproducible", 4, 2, 2)
    assert outcome.digest == undisturbed.digest


@has_ulfm
def test_ranks_that_wait_in_shared_memory_notice():
    outcome, undisturbed = survived("shared", 3, 3, 1)
    assert outcome.loss == pytest.approx(undisturbed.loss, rel=1e-3)


DIES = """
import os, signal
import numpy as np
from mpi4py import MPI
from hpcml import collectives as hc
for attempt in hc.resilient():
    with attempt as comm:
        for step in range(1000):
            hc.allreduce(np.ones(1000), comm=comm)
            if step == 3 and comm.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        print("through", flush=True)
"""


@pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside this Python")
def test_without_ulfm_all_ranks_end():
    sys.path.insert(0, str(ROOT / "tools"))
    from environment import ALLOWANCES

    ran = subprocess.run(
        [str(MPIEXEC), "-n", "3", sys.executable, "-c", DIES],
        env={**ALLOWANCES, **os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert ran.returncode != 0 and "through" not in ran.stdout
    assert "signal" in (ran.stdout + ran.stderr).lower(), ran.stdout + ran.stderr
