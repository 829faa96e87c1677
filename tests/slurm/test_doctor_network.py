"""`hpcml doctor` on a network with a slow link: virtual nodes, joined by real TCP over links of a set rate.

HPCML_NETLAB names the program that makes them: `up --nodes N --rate RATE`, `rate RATE --node I`, `run -- COMMAND` with
a rank on each node, `down`, `status`. Skipped where there is none, or where it is in use.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NETLAB = os.environ.get("HPCML_NETLAB") or shutil.which("netlab")

pytestmark = pytest.mark.skipif(NETLAB is None, reason="HPCML_NETLAB names no program that makes virtual nodes")


def netlab(*words, check=True):
    return subprocess.run([NETLAB, *words], capture_output=True, text=True, check=check)


@pytest.fixture(scope="module")
def nodes():
    """Four nodes at 200 Mbit/s; the link of the last is ten times slower."""
    if "no lab is up" not in (said := netlab("status", check=False)).stdout + said.stderr:
        pytest.skip("virtual nodes are in use by somebody else")
    netlab("up", "--nodes", "4", "--rate", "200mbit")
    netlab("rate", "20mbit", "--node", "3")
    yield
    netlab("down")


def doctor(*options, **environment):
    """Warnings of the check of links, of a rank on each node."""
    command = [NETLAB, "run", *options, "--", sys.executable, "-m", "hpcml", "doctor", "--json"]
    ran = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True, cwd=ROOT
    )
    try:
        findings = json.loads(ran.stdout[ran.stdout.index("{") :])["findings"]
    except ValueError:
        raise AssertionError(f"status {ran.returncode}\n{ran.stdout}\n{ran.stderr}") from None
    return [f["what"] for f in findings if f["check"] == "links" and f["severity"] == "warning"]


def test_a_slow_link_is_named(nodes):
    said = doctor()
    slow = [what for what in said if "the median of all links" in what]
    assert len(slow) == 1, said
    assert slow[0].startswith("node3 sends and receives at 1") or slow[0].startswith("node3 sends and receives at 2")
    assert any("less than gigabit Ethernet" in what for what in said)


def test_a_half_duplex_transport_is_told(nodes):
    asked = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
    if "Open MPI" not in subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True).stdout:
        pytest.skip("Open MPI over TCP is")
    told = [what for what in doctor("--nodes", "2") if "to each other at once" in what]
    assert len(told) == 1
    flags = doctor("--nodes", "2", "--mpi-args", "--mca btl_tcp_flags send")
    assert not any("to each other at once" in what for what in flags)
