"""The watchdog: planted hangs end the job, with a report that names ranks, calls and lines."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hpcml.collectives.watchdog import _checked

MPIEXEC = Path(sys.executable).parent / "mpiexec"
ROOT = Path(__file__).resolve().parents[2]
needs_mpiexec = pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside this Python")

ALL_KINDS = """
import ctypes, os, signal, sys, time
import numpy as np
from mpi4py import MPI
from hpcml import collectives as hc

world = MPI.COMM_WORLD
pair = world.Split(world.rank in (2, 5))
hc.barrier(comm=pair)
hc.barrier()
hc.watchdog(8)  # now that all have come up, however slow the machine
for step in range(100):
    hc.allreduce(np.ones(3))

def stuck():
    if world.rank == 1:
        time.sleep(10_000)
    if world.rank == 2:
        hc.allreduce(np.ones(7), algorithm="native", comm=pair)
    if world.rank == 3:
        os.kill(os.getpid(), signal.SIGSTOP)
    if world.rank == 4:
        ctypes.PyDLL(None).sleep(10_000)  # does not let go of Python's lock

stuck()
hc.broadcast(np.ones(9), root=2)
"""

AT_THE_END = """
import numpy as np
from mpi4py import MPI
from hpcml import collectives as hc

hc.allreduce(np.ones(4), algorithm="native")
hc.watchdog(2)
if MPI.COMM_WORLD.rank == 1:
    hc.allreduce(np.ones(4), algorithm="native")
"""

NEVER_COMES = """
import time
from mpi4py import MPI
if MPI.COMM_WORLD.rank == 1:
    time.sleep(10_000)
from hpcml import collectives as hc
"""

ONLY_SLOW = """
import threading, time
import numpy as np
from mpi4py import MPI
from hpcml import collectives as hc

assert [thread.name for thread in threading.enumerate()][1:] == ["hpcml watchdog"]  # by the environment
for late in range(2):
    if MPI.COMM_WORLD.rank == late:
        time.sleep(3)
    assert hc.allreduce(np.ones(3))[0] == 2
    assert hc.allreduce(np.ones(3), algorithm="native")[0] == 2
hc.watchdog(1)
hc.watchdog(None)
if MPI.COMM_WORLD.rank == 0:
    time.sleep(3)
hc.barrier()
"""


def mpirun(ranks, program, **environment):
    sys.path.insert(0, str(ROOT / "tools"))
    from environment import ALLOWANCES

    return subprocess.run(
        [str(MPIEXEC), "-n", str(ranks), sys.executable, "-c", program],
        env={**ALLOWANCES, **os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


@needs_mpiexec
def test_ranks_that_are_stuck_in_every_way():
    ran = mpirun(6, ALL_KINDS)
    assert ran.returncode != 0
    report = "\n".join(re.findall("^hpcml watchdog: ?(.*)$", ran.stderr, re.MULTILINE))
    assert report.count("has waited for") == 1, ran.stderr
    head, *places = report.split("\n\n")
    assert re.match(r"rank \d has waited for \d+ s \(the limit is 8 s\) in ", head)
    assert "no answer: ranks 3-4 (dead, stopped, or in C code that holds Python's lock)" in head
    of = {re.match(r"ranks? (\d(?:[\d, -]*\d)?)", place)[1]: place for place in places}
    assert set(of) == {"0", "1", "2", "5"} or set(of) == {"0, 5", "1", "2"}
    sleeping, native = of["1"], of["2"]
    waiting = of["0" if "0" in of else "0, 5"]
    assert "waits in no collective" in sleeping and "<string>:17 in stuck" in sleeping
    said = r"(\d+)-(\d+): allreduce\(float64\[3\], op='sum', algorithm='auto', root=0\) at <string>:13"
    first, last = map(int, re.search(said, sleeping).groups())
    assert last - first == 63  # the last 64
    assert "waits in allreduce(float64[7], op='sum', algorithm='native', root=0) at <string>:19" in native
    assert re.search(r"\(call \d+ on a communicator of ranks 2, 5\)", native), native
    said = "waits in broadcast(float64[9], algorithm='auto', root=2) at <string>:26"
    assert f"{said} (call {last + 1} on MPI.COMM_WO" in waiting


@needs_mpiexec
def test_a_rank_that_ended_while_another_is_inside_the_mpi_library():
    ran = mpirun(2, AT_THE_END)
    assert ran.returncode != 0
    assert "rank 0 has waited for" in ran.stderr or "rank 1 has waited for" in ran.stderr
    assert "waits in the end of its program" in ran.stderr
    assert (
        "waits in allreduce(float64[4], op='sum', algorithm='native', root=0) at <string>:9, inside the" in ran.stderr
    )


@needs_mpiexec
def test_a_rank_that_never_comes():
    ran = mpirun(2, NEVER_COMES, HPCML_TIMEOUT="4")
    assert ran.returncode != 0
    assert "rank 0 has waited for 4 s (the limit is 4 s) in the start of the watchdog" in ran.stderr
    assert "The other ranks could not be asked: not all of them have started their watchdog." in ran.stderr


@needs_mpiexec
def test_a_rank_that_is_slow_is_left_alone():
    ran = mpirun(2, ONLY_SLOW, HPCML_TIMEOUT="60")
    assert ran.returncode == 0, ran.stderr
    assert "watchdog" not in ran.stderr


@pytest.mark.parametrize("wrong", [0, -1, "soon", float("nan"), float("inf")])
def test_a_limit_that_is_none(wrong):
    with pytest.raises(ValueError, match="HPCML_TIMEOUT: expected a positive number of seconds, got"):
        _checked(wrong, "HPCML_TIMEOUT")
    assert _checked("2.5", "HPCML_TIMEOUT") == 2.5
